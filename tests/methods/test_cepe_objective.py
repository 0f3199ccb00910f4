"""What trains a reader: each term is there and moves its own parts, nothing sees what is hidden, a folder goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from preread.core.errors import IntegrityError, UsageError
from preread.core.types import Prompt, TextBatch
from preread.methods.cepe.encoder import EncoderConfig
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.reader import ReaderConfig
from preread.nn.activations import Levers
from preread.nn.lora import LoraConfig
from preread.nn.reading import read

SHAPE = ReaderConfig(EncoderConfig(1, lora=LoraConfig(rank=4, dropout=0.0), chunk=8), order=3)
TERMS = {"copy": {"copy"}, "lm": {"lm"}, "recall": {"pairs", "verbatim", "lm"}, "distil": {"lm", "distil"}}
PARTS = ("gates", "crossings", "encoder")


def _of(name):
    return "gates" if name.endswith(".gate") else "encoder" if name.startswith("reader.encoder.") else "crossings"


@pytest.fixture(params=["llama", "gemma"])
def handle(request, tiny_decoder):
    with Cepe(shape=SHAPE).attach(tiny_decoder(request.param)) as handle:
        torch.manual_seed(0)
        for module in handle.reader.crossings.modules_by_layer.values():
            torch.nn.init.normal_(module.gate, std=0.5)  # as if begun: of a gate of zero nothing else is felt
        for b in handle.reader.encoder.lora.b.values():
            torch.nn.init.normal_(b, std=0.1)
        yield handle


def _batch(rows=2, window=40, seed=0):
    draw = torch.Generator().manual_seed(5)
    return TextBatch(torch.randint(3, 300, (rows, window), generator=draw), seed)


@pytest.mark.parametrize("stage", TERMS)
def test_every_term_moves_what_trains_and_nothing_else(handle, stage):
    for trains in (PARTS, *((part,) for part in PARTS)):
        objective = handle.objective(stage, near=16, trains=trains, hidden=0.0)
        terms = objective(_batch())
        assert set(terms) == TERMS[stage]
        for term in terms.values():
            assert term > 1e-4
            found = torch.autograd.grad(term, list(objective.trainable().values()), retain_graph=True)
            assert all(gradient.abs().max() > 0 for gradient in found)
        assert {_of(name) for name in objective.trainable()} == set(trains)
        assert not any(p.requires_grad for p in handle.decoder.model.parameters())


def test_the_loss_is_the_cross_entropy_of_the_text_behind_its_context(handle):
    """By the door that readers go through: memories of chunks, a prompt, its logits."""
    batch = _batch(rows=1)
    objective = handle.objective("lm", near=16, hidden=0.0)
    with torch.no_grad():
        found = objective(batch)["lm"]
        states = handle.reader.joined(handle.reader.encoder(torch.split(batch.ids[0, :-16], 8)))
        ids = torch.cat([handle.decoder.start_ids, batch.ids[0, -16:]])
        prompt = Prompt(ids, states=states, reader=handle.reader.crossings.name)
        logits = handle.decoder.logits(read(handle.decoder, prompt))
    expected = torch.nn.functional.cross_entropy(logits[:-1], ids[1:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_is_hidden_is_not_seen(handle):
    objective = handle.objective("lm", near=16, hidden=1.0)
    batch = _batch(rows=1, window=48)
    whole = next(seed for seed in range(1000) if not bool(_seen(objective, seed).any()))
    part = next(seed for seed in range(1000) if 0 < int(_seen(objective, seed).sum()) <= 16)
    with torch.no_grad():
        for seed in (whole, part):
            other = batch.ids.clone()
            other[0, 24:32] += 1  # in the last chunk of the context
            losses = [objective(TextBatch(ids, seed))["lm"] for ids in (batch.ids, other)]
            assert torch.equal(*losses)
        shown = handle.objective("lm", near=16, hidden=0.0)
        assert not torch.equal(shown(TextBatch(batch.ids, part))["lm"], shown(TextBatch(other, part))["lm"])


def _seen(objective, seed):
    return objective._seen([32], seed, torch.device("cpu"))


def test_a_third_of_the_contexts_is_partly_hidden(handle):
    seen = [handle.objective("lm")._seen([100], seed, torch.device("cpu")) for seed in range(2000)]
    counts = [int(one.sum()) for one in seen if one is not None]
    assert 0.27 < len(counts) / len(seen) < 0.33
    assert 0.06 < sum(count == 0 for count in counts) / len(counts) < 0.16
    assert all(torch.equal(one[0], one[0].sort(descending=True).values) for one in seen if one is not None)


def test_the_teacher_is_the_decoder_that_reads_it_all(handle):
    """A student that reads the window itself, as its only text, has nothing to learn."""
    objective = handle.objective("distil", near=39, hidden=0.0)
    batch = _batch()
    for module in handle.reader.crossings.modules_by_layer.values():
        module.gate.data.zero_()
    with torch.no_grad():
        far = objective(batch)["distil"]
        objective._divided = lambda ids: (ids[:, :8], ids)
        near = objective(batch)["distil"]
    assert near.abs() < 1e-4 < far


def test_a_strange_context_is_taught_to_change_nothing(handle):
    """Another row's context stands beside, and the teacher knows nothing of any: a closed gate has nothing to learn."""
    objective = handle.objective("distil", near=16, hidden=0.0, strange=1.0)
    batch = _batch()
    swapped = torch.cat([batch.ids.roll(1, 0)[:, :-16], batch.ids[:, -16:]], 1)
    with torch.no_grad():
        strange = objective(batch)
        own = handle.objective("lm", near=16, hidden=0.0)(TextBatch(swapped, batch.seed))
        torch.testing.assert_close(strange["lm"], own["lm"], atol=1e-6, rtol=0)
        assert strange["distil"] > 1e-4
        for module in handle.reader.crossings.modules_by_layer.values():
            module.gate.data.zero_()
        assert objective(batch)["distil"].abs() < 1e-5
        assert handle.objective("distil", near=16, hidden=0.0)(batch)["distil"] > 1e-4


def test_half_of_the_contexts_are_strange_where_it_says_so(handle):
    objective = handle.objective("distil", near=16, hidden=0.0, strange=0.5)
    own = handle.objective("distil", near=16, hidden=0.0)
    with torch.no_grad():
        losses = [objective(_batch(rows=2, seed=seed))["distil"] for seed in range(24)]
        found = {round(float(loss), 5) for loss in losses}
        assert round(float(own(_batch())["distil"]), 5) in found
    assert len(found) == 4  # neither row, the first, the second, both
    with pytest.raises(UsageError, match="rows"):
        objective(_batch(rows=1))
    with pytest.raises(UsageError, match="0 to 1"):
        handle.objective("distil", near=16, strange=1.5)


def test_checkpointing_changes_no_gradient(tiny_decoder):
    found = []
    for levers in (Levers("none"), Levers("full"), Levers("selective"), Levers("full", tiles=2)):
        decoder = tiny_decoder("llama")
        with Cepe(shape=SHAPE, levers=levers).attach(decoder) as handle:
            for module in handle.reader.crossings.modules_by_layer.values():
                torch.nn.init.constant_(module.gate, 0.5)
            objective = handle.objective("lm", near=16)
            objective(_batch())["lm"].backward()
            found.append([p.grad for p in objective.parameters()])
            assert all(gradient is not None for gradient in found[-1])
    for one, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-4)


def test_what_was_trained_is_kept_and_goes_on(handle, tmp_path):
    objective = handle.objective("lm", near=16)
    objective.settle()
    objective.save(tmp_path, {"window": 40, "tokens": 80, "documents": ["a"]})
    with Cepe(weights=tmp_path).attach(handle.decoder) as again:
        assert again.reader.hash == handle.reader.hash
        assert (again.reader.trained.states, again.reader.trained.tokens) == (24, 80)
        assert again.trained_on == {"a"}
        assert not again.caveats([])
    fresh = handle.objective("lm")
    for parameter in fresh.parameters():
        parameter.data.zero_()
    fresh.load(tmp_path)
    assert all(
        torch.equal(one, other) for one, other in zip(fresh.parameters(), again.reader.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("stage", "window", "states"), [("copy", 40, 16), ("copy", 9, 9), ("lm", 40, 24), ("mlm", 40, 0)]
)
def test_a_reader_is_trained_for_as_many_states_as_a_row_attended_to(handle, stage, window, states, tmp_path):
    objective = handle.objective(stage, **({} if stage == "mlm" else {"near": 16}))
    objective.save(tmp_path, {"window": window})
    assert handle.reader.trained.states == states
    assert bool(handle.reader.trained.note) == (not states)


def test_what_is_asked_for_stands_in_the_context(handle):
    """Values stand behind their keys in what is encoded, and what follows a beginning does so there."""
    tokenizer, objective = handle.decoder.tokenizer, handle.objective("recall", near=16, asked=3)
    for seed in range(12):
        calls = []
        objective._asked = lambda *given, calls=calls: calls.append(given) or 0.0
        objective(_batch(window=300, seed=seed))
        lists, begun = calls
        for context, some in zip(lists[0], lists[1], strict=True):
            text = tokenizer.decode(context)
            assert (len(context), len(some)) == (284, 3)
            for question, answer in some:
                value = tokenizer.decode(answer).strip()
                keys = re.findall(r"[\w-]{3,}", tokenizer.decode(question, skip_special_tokens=True))
                assert any(0 <= text.find(key) < text.find(value, text.find(key)) for key in keys)
        for context, some in zip(begun[0], begun[1], strict=True):
            for question, answer in some:
                passage = [*question[-16:].tolist(), *answer.tolist()]
                assert passage in [context[at : at + len(passage)].tolist() for at in range(len(context))]


def test_a_trained_reader_keeps_its_shape_and_one_that_is_not_there_is_named(handle, tmp_path):
    handle.reader.settle()
    handle.reader.save(tmp_path, {})
    with pytest.raises(UsageError, match="which has its own"):
        Cepe(weights=tmp_path, shape=SHAPE).attach(handle.decoder)
    with pytest.raises(IntegrityError, match="no installed reader of that name"):
        Cepe(weights=Path("nowhere")).attach(handle.decoder)


@pytest.mark.parametrize(
    ("stage", "settings", "words"),
    [
        ("lm", {"trains": ()}, "parts that this reader has"),
        ("lm", {"trains": ("gates", "gate")}, "out of gates, crossings, encoder"),
        ("lm", {"near": 40}, "below the window of 40"),
        ("lm", {"near": 1}, "from 2"),
        ("recall", {"near": 39}, "room for two pairs"),
        ("recall", {"asked": 0}, "something asked"),
        ("mlm", {"blanked": 0.0}, "between 0 and 1"),
        ("other", {}, "stage mlm, copy, lm, recall, distil"),
    ],
)
def test_what_makes_no_training_is_refused(handle, stage, settings, words):
    with pytest.raises(UsageError, match=words):
        handle.objective(stage, **settings)(_batch())
