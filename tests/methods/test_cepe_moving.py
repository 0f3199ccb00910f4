"""What a question attends to: the shares are those of the equations, and the largest are what moves."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from preread.core.errors import UsageError
from preread.core.types import Passage
from preread.methods.cepe.crossing import CrossAttention, CrossShape
from preread.methods.cepe.encoder import EncoderConfig
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.moving import shares
from preread.methods.cepe.reader import ReaderConfig
from preread.methods.text import Text
from preread.nn.beside import Context
from preread.nn.reading import read

SHAPE = ReaderConfig(encoder=EncoderConfig(layers=1), begin="gated")
QUESTION = "Who slept?"
SIZES = (5, 3, 9, 2, 7)


@pytest.fixture
def decoder(tiny_decoder):
    return tiny_decoder("llama")


@pytest.fixture
def handle(decoder):
    with Cepe(moved=2, fresh=True, shape=SHAPE).attach(decoder) as handle:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            for parameter in handle.reader.crossings.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        yield handle


def passages(decoder):
    draw = torch.Generator().manual_seed(0)
    ids = [tuple(torch.randint(5, 390, (size,), generator=draw).tolist()) for size in SIZES]
    return [Passage("d", i, own, 0, 0, "", "", 0) for i, own in enumerate(ids)]


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_the_weights_are_those_that_attention_reads_values_by(heads):
    torch.manual_seed(0)
    module = CrossAttention(CrossShape(24, *heads, 8, 16, 1e-6)).double()
    torch.nn.init.normal_(module.o)
    x, states = torch.randn(5, 24, dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    values = (states @ module.v.T).view(7, heads[1], 8).repeat_interleave(heads[0] // heads[1], 1)
    seen = torch.einsum("htn,nhe->the", torch.cat(list(module.weights(x, states, 2)), 1).double(), values)
    torch.testing.assert_close(
        seen.flatten(1) @ module.o.T, module(x[None], Context(states[None]))[0], atol=1e-5, rtol=0
    )


def test_a_share_is_the_most_that_a_head_gives_from_one_position_of_the_question(handle, decoder):
    memories = list(handle.encode(passages(decoder)))
    prompt = handle.prompt(QUESTION, memories)
    seen = {}
    crossings = handle.reader.crossings

    def see(module, given):
        seen[module] = given[0][0]

    hooks = [module.register_forward_pre_hook(see) for module in crossings.modules_by_layer.values()]
    read(decoder, prompt)
    for hook in hooks:
        hook.remove()
    borders = [sum(SIZES[:i]) for i in range(len(SIZES) + 1)]
    expected = []
    weights = {module: next(module.weights(x, prompt.states, len(x))) for module, x in seen.items()}
    for start, stop in pairwise(borders):
        each = [
            float(module.gate[head].abs() * weights[module][head, place, start:stop].sum())
            for module in seen
            for head in range(module.shape.heads)
            for place in range(prompt.shared, len(prompt))
        ]
        expected.append(max(each))
    found = shares(decoder, crossings, prompt, SIZES)
    assert found == pytest.approx([one / sum(expected) for one in expected], abs=1e-6)
    assert sum(found) == pytest.approx(1)
    assert not any(module._forward_pre_hooks for module in crossings.modules_by_layer.values())


def test_who_is_deaf_attends_evenly(handle, decoder):
    memories = list(handle.encode(passages(decoder)))
    with torch.no_grad():
        for module in handle.reader.crossings.modules_by_layer.values():
            module.q.zero_()
    found = shares(decoder, handle.reader.crossings, handle.prompt(QUESTION, memories), SIZES)
    assert found == pytest.approx([size / sum(SIZES) for size in SIZES])


def test_a_head_counts_by_its_gate_and_behind_closed_ones_nothing_moves(decoder):
    with Cepe(fresh=True, shape=SHAPE).attach(decoder) as handle:
        memories = list(handle.encode(passages(decoder)))
        prompt, crossings = handle.prompt(QUESTION, memories), handle.reader.crossings
        assert shares(decoder, crossings, prompt, SIZES) == [0.0] * len(SIZES)
        assert handle.moving(prompt, memories) == {}
        found = []
        for gates in ((0.5, 0.0), (0.0, -0.5), (0.5, 1e-5), (1e-5, -0.5)):
            for module in crossings.modules_by_layer.values():
                module.gate.zero_()
                module.gate[:2] = torch.tensor(gates)
                module.o.zero_()  # what is seen changes nothing, so that heads look from where they looked alone
            found.append(torch.tensor(shares(decoder, crossings, prompt, SIZES)))
        torch.testing.assert_close(found[:2], found[2:], atol=1e-6, rtol=0)
        assert (found[0] - found[1]).abs().max() > 1e-4


def test_the_largest_shares_move_and_what_is_text_already_does_not(handle, decoder):
    given = passages(decoder)
    memories = list(handle.encode(given))
    all_shares = shares(decoder, handle.reader.crossings, handle.prompt(QUESTION, memories), SIZES)
    moving = handle.moving(handle.prompt(QUESTION, memories), memories)
    assert list(moving) == sorted(range(len(SIZES)), key=lambda number: -all_shares[number])[:2]
    assert list(moving.values()) == [all_shares[number] for number in moving]
    texts = list(Text().attach(decoder).encode(given))
    mixed = [texts[i] if i in moving else memory for i, memory in enumerate(memories)]
    prompt = handle.prompt(QUESTION, mixed)
    assert len(prompt.states) == sum(SIZES) - sum(SIZES[number] for number in moving)
    assert not set(handle.moving(prompt, mixed)) & set(moving)
    assert handle.moving(handle.prompt(QUESTION, texts), texts) == {}


def test_none_moves_where_none_is_to(decoder):
    with Cepe(moved=0, fresh=True, shape=SHAPE).attach(decoder) as handle:
        memories = list(handle.encode(passages(decoder)))
        assert handle.moving(handle.prompt(QUESTION, memories), memories) == {}
    with pytest.raises(UsageError, match="moved"):
        Cepe(moved=-1)
