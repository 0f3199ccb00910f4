"""Every term of the `compress` and `adapter` stages moves exactly the parameters it should, in the right direction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from preread.core.errors import BeyondTraining, UsageError
from preread.core.types import Lesson, Passage, TextBatch
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.objective import CompressObjective
from preread.methods.lloco.shape import CompressorConfig, Trained, summary_length
from preread.methods.text import Text
from preread.nn.lora import Lora, LoraConfig

TERMS = ["lm", "distil", "reconstruct", "general"]
SHAPE = CompressorConfig(max_summary=16, lora=LoraConfig(rank=4, dropout=0.0))


@pytest.fixture
def decoder(tiny_decoder):
    return tiny_decoder("llama")


def made(decoder, **changes):
    """A compressor that is past its beginning: nothing in it is zero."""
    torch.manual_seed(5)
    compressor = Compressor(decoder, replace(SHAPE, **changes))
    for b in (*compressor.lora.b.values(), *([compressor.up] if compressor.config.summary != "tokens" else [])):
        torch.nn.init.normal_(b, std=0.05)
    return compressor


@pytest.fixture(params=["tokens", "pooled", "anchored"])
def compressor(decoder, request):
    compressor = made(decoder, summary=request.param)
    compressor.attach()
    yield compressor
    compressor.detach()


def batch(seed=1, rows=2, length=60):
    return TextBatch(torch.randint(3, 390, (rows, length), generator=torch.Generator().manual_seed(2)), seed)


def objective(compressor, **weights):
    none = {"lm": 0.0, "distil": 0.0, "reconstruct": 0.0, "general": 0.0}
    return CompressObjective(compressor, segment_tokens=(12, 20), ratios=(2.0, 6.0), **{**none, **weights})


@pytest.mark.parametrize("reading", ["independent", "recursive", "mixed"])
@pytest.mark.parametrize("term", TERMS)
def test_each_term_moves_all_of_the_compressor_and_nothing_else(compressor, decoder, term, reading):
    stage = objective(compressor, **{term: 1.0}, segments=reading)
    terms = stage(batch())
    assert list(terms) == [term]
    terms[term].backward()
    moved = {name for name, p in stage.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == set(stage.trainable()) == {name for name, _ in stage.named_parameters()}
    assert all(p.grad is None and not p.requires_grad for p in decoder.model.parameters())


@pytest.mark.parametrize("term", TERMS)
def test_each_term_can_be_learned(compressor, term):
    stage = objective(compressor, **{term: 1.0})
    optimizer = torch.optim.Adam(stage.trainable().values(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = stage(batch())[term]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_a_weight_scales_its_term(compressor):
    once = objective(compressor, **dict.fromkeys(TERMS, 1.0))(batch())
    twice = objective(compressor, **dict.fromkeys(TERMS, 2.0))(batch())
    assert set(once) == set(TERMS)
    for name in once:
        torch.testing.assert_close(2 * once[name], twice[name])


def test_distillation_from_the_same_text_is_zero_and_from_another_is_not(decoder):
    """The loss itself: the teacher's own states give KL 0 with a full-vocabulary top k."""
    from preread.nn.losses import answer_losses, teach

    states = torch.randn(9, decoder.width, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(9)
    taught = teach(decoder.logits, states, k=decoder.model.config.vocab_size - 1)
    assert abs(float(answer_losses(decoder.logits, states, targets, taught)[1])) < 1e-4
    assert float(answer_losses(decoder.logits, states.flip(0), targets, taught)[1]) > 0.01


def test_chunked_cross_entropy_equals_the_plain_one(decoder, monkeypatch):
    import preread.nn.losses as losses

    states = torch.randn(23, decoder.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(23)
    plain = torch.nn.functional.cross_entropy(decoder.logits(states), targets)
    (expected,) = torch.autograd.grad(plain, states)
    monkeypatch.setattr(losses, "CHUNK", 5)
    chunked, _ = losses.answer_losses(decoder.logits, states, targets)
    (gradient,) = torch.autograd.grad(chunked, states)
    torch.testing.assert_close(chunked, plain)
    torch.testing.assert_close(gradient, expected)


def test_the_general_term_is_zero_behind_nothing_and_not_behind_another_memory(compressor):
    """What the term measures: the same segment behind the next document's memory, against behind nothing."""
    stage = objective(compressor, general=1.0)
    assert float(stage(batch())["general"].detach()) > 1e-4
    stage._read = lambda memories, segments, between: CompressObjective._read(
        stage, [memory[:0] for memory in memories], segments, between
    )
    assert abs(float(stage(batch())["general"].detach())) < 1e-5


def test_distractors_stand_before_a_document_and_only_then_does_another_document_count(compressor):
    """A row's loss feels the other row through its memory, and without distractors it does not."""
    ids = batch().ids
    other = ids.clone()
    other[1] = other[1].flip(0)
    felt = {}
    for distractors in (0, 1):
        stage = objective(compressor, lm=1.0, distractors=distractors)
        read = stage._read
        heads = []
        stage._read = lambda memories, segments, marker=None, read=read, heads=heads: (
            heads.append(memories),
            read(memories, segments, marker),
        )[1]
        for texts in (ids, other):
            stage(TextBatch(texts, seed=3))
        first, second = (memories[0] for memories in heads)  # behind the first row's first segment
        felt[distractors] = first.shape != second.shape or not torch.equal(first, second)
        assert torch.allclose(first[-1], second[-1], atol=1e-5)  # its own memory stands last, and is the same
    assert felt == {0: False, 1: True}


@pytest.mark.parametrize("asked", [{"general": 1.0}, {"distractors": 2}])
def test_other_documents_need_a_batch_of_several(compressor, asked):
    with pytest.raises(UsageError, match="two documents"):
        objective(compressor, **{"lm": 1.0, **asked})(batch(rows=1))


def test_the_batch_seed_decides_the_draws(compressor):
    stage = objective(compressor, lm=1.0, segments="mixed")
    assert torch.equal(stage(batch(seed=4))["lm"], stage(batch(seed=4))["lm"])
    assert len({float(stage(batch(seed=s))["lm"].detach()) for s in range(5)}) > 1


def lessons(decoder, handle, teacher=None):
    rows = []
    for question, answer in (("Who kept it?", "The keeper."), ("When did the storm come to the island?", "At night")):
        ids = tuple(decoder.tokens("In winter the storm reached the island at night.").tolist())
        passage = Passage("doc", 0, ids, 0, 48, "", "", 0)
        taught = teacher.prompt(question, list(teacher.encode([passage]))) if teacher else None
        prompt = handle.prompt(question, list(handle.encode([passage])), adapter="a")
        rows.append(Lesson(prompt, decoder.tokens(answer), taught))
    return rows


@pytest.mark.parametrize("student", ["text", "lloco"])
@pytest.mark.parametrize("term", ["answer", "distil"])
def test_the_adapter_stage_moves_the_adapter_and_nothing_else(decoder, student, term):
    method = Text() if student == "text" else Lloco(ratio=4, shape=SHAPE)
    with method.attach(decoder) as handle:
        torch.manual_seed(0)
        lora = decoder.adapters.add("a", Lora(LoraConfig(rank=4, dropout=0.0), decoder.projections))
        for b in lora.b.values():
            torch.nn.init.normal_(b, std=0.05)
        weights = {"ce": float(term == "answer"), "distil": float(term == "distil")}
        stage = handle.objective("adapter", adapter="a", **weights)
        # A teacher that reads something else, so that there is something to learn even for `text`.
        terms = stage(lessons(decoder, handle, Text().attach(decoder)))
        assert list(terms) == [term]
        terms[term].backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora.parameters())
        assert all(p.grad is None for p in decoder.model.parameters())
        if student == "lloco":
            assert all(p.grad is None for p in handle.compressor.parameters())
        decoder.adapters.remove("a")


def test_the_adapter_stage_equals_a_plain_loss_row_by_row(decoder):
    """Padding, offsets and the choice of answer positions, against one unpadded forward a row."""
    with Lloco(ratio=4, shape=SHAPE).attach(decoder) as handle:
        decoder.adapters.add("a", Lora(LoraConfig(rank=4, dropout=0.0), decoder.projections))
        rows = lessons(decoder, handle)
        loss = handle.objective("adapter", adapter="a", distil=0.0)(rows)["answer"]
        total, count = 0.0, 0
        for row in rows:
            inputs = torch.cat([decoder.embed(row.prompt.ids, row.prompt.embeds), decoder.embed(row.answer)])
            logits = decoder.model(inputs_embeds=inputs[None]).logits[0].log_softmax(-1)
            for i, token in enumerate(row.answer.tolist()):
                total -= float(logits[len(row.prompt) - 1 + i, token])
                count += 1
        assert float(loss.detach()) == pytest.approx(total / count, abs=1e-5)
        decoder.adapters.remove("a")


@pytest.mark.parametrize(("tokens", "ratio", "expected"), [(240, 30, 8), (240, 4, 60), (1536, 30, 51), (3, 30, 1)])
def test_summary_length(tokens, ratio, expected):
    assert summary_length(tokens, ratio) == expected


def test_going_past_what_was_trained_warns(decoder):
    with Lloco(ratio=4, segments="recursive", segment_tokens=10, shape=SHAPE).attach(decoder) as handle:
        passage = Passage("doc", 0, tuple(range(3, 33)), 0, 1, "", "", 0)
        list(handle.encode([passage], "document"))  # untrained: there is no limit to go past
        handle.compressor.trained = Trained(segments=2, segment_tokens=10)
        with pytest.warns(BeyondTraining, match="more than 2 segments in a row"):
            list(handle.encode([passage], "document"))
        with pytest.warns(BeyondTraining, match="more than 10 tokens a segment"):
            list(handle.encode([passage], "passage"))
        list(handle.encode([passage], "passage"))  # said once


def test_too_many_summary_tokens_are_refused(decoder):
    with (
        Lloco(ratio=1, shape=SHAPE).attach(decoder) as handle,
        pytest.raises(UsageError, match="at most 16 summary tokens"),
    ):
        list(handle.encode([Passage("doc", 0, tuple(range(3, 33)), 0, 1, "", "", 0)]))


def test_what_is_saved_is_what_was_settled(compressor, tmp_path):
    """Settling rounds once; the file is half the size and gives the settled numbers back bit for bit."""
    stage = objective(compressor, lm=1.0)
    compressor.lora.save(tmp_path / "before")
    stage.settle()
    stage.save(tmp_path / "after", {"window": 60, "tokens": 7})
    again = Compressor.load(tmp_path / "after", compressor.decoder)
    for name, value in compressor.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    sizes = [(tmp_path / folder / "adapter_model.safetensors").stat().st_size for folder in ("before", "after")]
    assert sizes[1] < 0.7 * sizes[0]
    assert again.trained == Trained(segments=1, segment_tokens=20, positions=24, ratios=(2.0, 6.0), tokens=7, note="")
