"""The ways to a summary embedding, against plain second implementations and by perturbation."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.core.errors import UsageError
from preread.core.types import Passage
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.shape import CompressorConfig
from preread.methods.lloco.summaries import LONGEST, Clauses, anchors, even, pooled
from preread.nn.lora import LoraConfig

WAYS = list(itertools.product(["tokens", "pooled", "anchored"], ["causal", "bidirectional"]))


@pytest.fixture(params=["llama", "gemma2"])
def decoder(tiny_decoder, request):
    return tiny_decoder(request.param)


def shape(summary, attention="causal"):
    lora = LoraConfig(rank=4, dropout=0.0)
    return CompressorConfig(max_summary=16, lora=lora, summary=summary, attention=attention, projection=8)


def trained(decoder, summary, attention="causal"):
    """A compressor none of whose numbers is zero."""
    torch.manual_seed(3)
    compressor = Compressor(decoder, shape(summary, attention)).eval()
    for b in (*compressor.lora.b.values(), *([compressor.up] if summary != "tokens" else [])):
        torch.nn.init.normal_(b, std=0.1)
    compressor.attach()
    return compressor


def segment(length, seed=0):
    return torch.randint(3, 390, (length,), generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 40).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t))))
def test_even_spans_cover_all_and_differ_by_one_token_at_most(sizes):
    tokens, length = sizes
    lasts = even(tokens, length).tolist()
    spans = [last - before for before, last in itertools.pairwise([-1, *lasts])]
    assert len(spans) == length
    assert sum(spans) == tokens
    assert max(spans) - min(spans) <= 1
    assert min(spans) >= 1


@given(st.integers(1, 30).flatmap(lambda t: st.tuples(st.just(t), st.sets(st.integers(0, t - 1), min_size=1))))
def test_pooling_is_the_mean_of_each_span(drawn):
    tokens, lasts = drawn
    states = torch.randn(tokens, 3, generator=torch.Generator().manual_seed(1))
    ends = [*sorted(lasts)[:-1], tokens - 1]
    expected = [states[a + 1 : b + 1].mean(0) for a, b in itertools.pairwise([-1, *ends])]
    torch.testing.assert_close(pooled(states, torch.tensor(sorted(lasts))), torch.stack(expected))


@settings(max_examples=200)
@given(st.data())
def test_anchors_are_the_best_clauses_whole_and_the_beginning_of_the_next(data):
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    bounds = [0, *itertools.accumulate(sizes)]
    clauses = [range(a, b) for a, b in itertools.pairwise(bounds)]
    nats = data.draw(st.permutations(range(1, bounds[-1] + 1)))
    surprise = torch.tensor(nats, dtype=torch.float64)
    length = data.draw(st.integers(1, bounds[-1]))
    kept = anchors(surprise, length, clauses).tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == length
    share = {clause: sum(at in kept for at in clause) / len(clause) for clause in clauses}
    worth = {clause: float(surprise[list(clause)].sum()) / len(clause) ** 0.5 for clause in clauses}
    whole = [worth[c] for c in clauses if share[c] == 1]
    part = [c for c in clauses if 0 < share[c] < 1]
    assert len(part) <= 1
    for clause in part:  # only its beginning
        taken = sum(at in kept for at in clause)
        assert all(at in kept for at in clause[:taken])
    assert min([*whole, 1e9]) >= max([worth[c] for c in clauses if share[c] == 0], default=-1)


def test_clauses_end_at_punctuation_of_many_scripts_and_never_grow_long(decoder):
    clauses = Clauses(decoder.tokenizer)
    for text in ("One, two; three.", "Nothing ends here " * 30, "\n".join("abc")):
        ids = decoder.tokens(text)
        split = clauses.split(ids)
        assert [at for clause in split for at in clause] == list(range(len(ids)))
        assert max(map(len, split)) <= LONGEST
        for clause in split[:-1]:
            piece = decoder.tokenizer.decode(ids[clause.start : clause.stop].tolist())
            assert len(clause) == LONGEST or any(mark in piece for mark in ",;.\n")


@pytest.mark.parametrize(("summary", "attention"), WAYS)
def test_a_batch_of_ragged_segments_equals_each_alone(decoder, summary, attention):
    compressor = trained(decoder, summary, attention)
    segments = [segment(n, n) for n in (20, 7, 13)]
    together = compressor.independent([[ids] for ids in segments], 4.0)
    for ids, (made,) in zip(segments, together, strict=True):
        ((alone,),) = compressor.independent([[ids]], 4.0)
        torch.testing.assert_close(made, alone, atol=1e-5, rtol=1e-4)
    compressor.detach()


@pytest.mark.parametrize(("summary", "attention"), WAYS)
def test_what_a_summary_sees(decoder, summary, attention):
    """The first summary embedding feels the segment's last token where it should, and nowhere else."""
    compressor = trained(decoder, summary, attention)
    ids = segment(20)
    other = ids.clone()
    other[-1] = (other[-1] + 7) % 390
    kept = torch.arange(3, 20, 4)  # anchors that do not move when a token does
    compressor._surprise = lambda segments: [torch.zeros(len(s)).index_fill(0, kept, 9.0) for s in segments]
    compressor._clauses.split = lambda s: [range(at, at + 1) for at in range(len(s))]
    (one,), (two,) = (compressor.independent([[s]], 4.0)[0] for s in (ids, other))
    felt = bool((one[0] - two[0]).abs().max() > 1e-6)
    assert felt == (summary == "tokens" or attention == "bidirectional")
    assert (one[-1] - two[-1]).abs().max() > 1e-6
    compressor.detach()


def test_an_untrained_anchored_compressor_keeps_words_of_the_text_as_they_are(decoder):
    compressor = Compressor(decoder, shape("anchored")).eval()
    compressor.attach()
    ids = decoder.tokens(
        "In winter the storm reached the island at night, and the keeper of the lamp slept. It was late."
    )
    ((made,),) = compressor.independent([[ids]], 4.0)
    kept = anchors(compressor._surprise([ids])[0], len(made), Clauses(decoder.tokenizer).split(ids))
    assert torch.equal(made, decoder.embed(ids[kept]).float())
    # Nothing is added, so nothing is computed; with something that is next to nothing the same comes of all of it.
    torch.nn.init.constant_(compressor.up, 1e-12)
    ((computed,),) = compressor.independent([[ids]], 4.0)
    torch.testing.assert_close(made, computed, atol=1e-7, rtol=0)
    compressor.detach()


def test_surprise_is_the_decoders_own_loss(decoder):
    compressor = trained(decoder, "anchored")
    ids = segment(9)
    framed, shared = decoder.frame("")
    whole = torch.cat([framed[:shared], ids])
    logits = decoder.model(whole[None]).logits[0].float().log_softmax(-1)
    expected = [-float(logits[shared - 1 + at, token]) for at, token in enumerate(ids.tolist())]
    assert compressor._surprise([ids])[0].tolist() == pytest.approx(expected, abs=1e-4)
    compressor.train()  # all at once: the same numbers
    together = compressor._surprise([segment(5), ids, segment(12)])
    assert together[1].tolist() == pytest.approx(expected, abs=1e-4)
    compressor.detach()


@pytest.mark.parametrize(("summary", "attention"), WAYS)
def test_saved_and_read_again_it_gives_the_same_memories(decoder, summary, attention, tmp_path):
    compressor = trained(decoder, summary, attention)
    for parameter in compressor.parameters():
        parameter.data.copy_(parameter.data.bfloat16())
    compressor.save(tmp_path, {})
    again = Compressor.load(tmp_path, decoder).eval()
    assert (again.hash, again.config) == (compressor.hash, compressor.config)
    again.attach()
    ((one,),), ((two,),) = (c.independent([[segment(20)]], 4.0) for c in (compressor, again))
    assert torch.equal(one, two)
    for made in (compressor, again):
        made.detach()


def test_every_way_has_a_hash_of_its_own_and_the_first_one_keeps_its_old(decoder):
    hashes = {Compressor(decoder, shape(*way)).hash for way in WAYS}
    assert len(hashes) == len(WAYS)


def test_a_fixed_number_is_for_summary_tokens_alone():
    with pytest.raises(UsageError, match="fixed"):
        CompressorConfig(summary="pooled", fixed=True)


@pytest.mark.parametrize(("summary", "attention"), WAYS)
def test_behind_the_door_passages_and_documents_are_read(decoder, summary, attention):
    """The method's own laws are in the contract; here, that each way gives memories of the right size through it."""
    passages = [Passage("doc", n, tuple(segment(20, n).tolist()), 0, 1, "", "", 20 * n) for n in range(3)]
    method = Lloco(ratio=4.0, segments="recursive", segment_tokens=20, shape=shape(summary, attention), fresh=True)
    with method.attach(decoder) as handle:
        assert [len(m.tensors["embeds"]) for m in handle.encode(passages)] == [5, 5, 5]
        (whole,) = handle.encode(passages, "document")
        assert len(whole.tensors["embeds"]) == 15
