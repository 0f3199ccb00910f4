"""Rows with states beside them: each row sees its own, together as alone, and nothing that nobody reads is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preread.core.errors import IntegrityError, UsageError
from preread.core.types import Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.methods.cepe.attaching import Crossings
from preread.nn.reading import read, read_all, read_behind

SAMPLING = Sampling(max_tokens=6)


@pytest.fixture
def decoder(tiny_decoder):
    return tiny_decoder("llama")


@pytest.fixture
def crossings(decoder):
    torch.manual_seed(3)
    made = [Crossings(decoder, 24, begin="copied"), Crossings(decoder, 16, begin="copied")]
    for one in made:
        one.requires_grad_(False).attach()
        for module in one.modules_by_layer.values():
            torch.nn.init.normal_(module.o, std=0.5)
    yield made
    for one in made:
        one.detach()


@pytest.fixture
def prompts(crossings):
    """Of one beginning: without states, with some, with others, with fewer, with another reader's."""
    torch.manual_seed(6)
    lead = torch.randint(3, 300, (40,))

    def prompt(count, of):
        ids = torch.cat([lead, torch.randint(3, 300, (5,))])
        states = torch.randn(count, of.modules_by_layer["0"].shape.states) if count else None
        return Prompt(ids, states=states, reader=of.name if count else None, shared=40)

    one, other = crossings
    return [prompt(count, of) for count, of in ((0, one), (9, one), (7, one), (2, one), (5, other))]


def test_rows_of_different_states_are_written_together_as_alone(decoder, prompts):
    alone = [LocalEngine(decoder).complete([prompt], SAMPLING)[0].text for prompt in prompts]
    together = [event.text for event in LocalEngine(decoder).complete(prompts, SAMPLING)]
    assert together == alone
    assert len(set(alone)) == len(prompts), "each was seen"


def test_a_beginning_read_with_other_states_is_not_taken(decoder, prompts):
    engine = LocalEngine(decoder)
    first = [engine.complete([prompt], SAMPLING)[0].text for prompt in prompts]
    again = [engine.complete([prompt], SAMPLING)[0].text for prompt in prompts]
    assert again == first
    assert (engine.prefixes.hits, engine.prefixes.misses) == (len(prompts), len(prompts))


def test_all_ways_of_reading_see_the_same(decoder, prompts, crossings):
    with torch.no_grad():
        each = [read(decoder, prompt)[40:] for prompt in prompts]
        for many in ([row[40:] for row in read_all(decoder, prompts)], read_behind(decoder, prompts)):
            for one, expected in zip(many, each, strict=True):
                torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)
    assert not decoder.beside.contexts


def test_states_that_nobody_reads_or_that_are_not_finite_are_refused(decoder, prompts, crossings):
    engine = LocalEngine(decoder)
    broken = replace(prompts[1], states=prompts[1].states * float("nan"))
    with pytest.raises(IntegrityError, match="states that are infinite or NaN"):
        engine.complete([broken], SAMPLING)
    crossings[0].detach()
    with pytest.raises(UsageError, match="would not be seen"):
        engine.complete([prompts[1]], SAMPLING)
    with pytest.raises(UsageError, match="would not be seen"):
        read(decoder, prompts[1])


def test_a_row_whose_reader_goes_ends_alone(decoder, prompts, crossings):
    engine = LocalEngine(decoder)
    [alone] = LocalEngine(decoder).complete(prompts[:1], SAMPLING)
    kept, gone = (engine.submit(prompt, SAMPLING) for prompt in (prompts[0], prompts[1]))
    while len(gone.written) < 2:
        engine.step()
    crossings[0].detach()
    while engine.step():
        pass
    assert isinstance(gone.error, UsageError)
    assert "".join(event.text for event in kept.events) == alone.text
