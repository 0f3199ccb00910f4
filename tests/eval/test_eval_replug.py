"""RePlug against a plain second implementation: every prompt read whole, every distribution averaged in full."""

from __future__ import annotations

import pytest
import torch

from preread.core.errors import UsageError
from preread.core.types import Document
from preread.eval.answerers.plain import Full, text_lead, text_prompts
from preread.eval.answerers.replug import Replug
from preread.eval.case import Case, Item, Stretch, Unfit
from tests.conftest import WordCounts

TALE = Document(
    "a",
    "a",
    "\n\n".join(
        f"On day {i} the keeper of the {what} wrote down the storm number {i * 7} and slept until the morning came."
        for i, what in enumerate(("lighthouse", "island", "harbour", "lamp", "schooner", "book", "weather", "ship"))
        for _ in range(3)
    ),
)
CASE = Case(
    "a",
    TALE,
    (
        Item("1", "Who kept the harbour?", ("The keeper", "he"), choices=("the keeper", "it"), gold=0),
        Item("2", "Who? Answer in a few words.", ("nobody knows at all",), query="the weather of day 6"),
    ),
)


def weights_of(kit, query):
    """Every passage's weight among the best three, by softmax of the cosine."""
    passages, embed = kit.passages(TALE), WordCounts().embed
    cosines = torch.tensor(embed([p.text for p in passages]) @ embed([query])[0])
    best = cosines.argsort(descending=True, stable=True)[:3]
    return [(passages[int(i)], w) for i, w in zip(best, cosines[best].exp() / cosines[best].exp().sum(), strict=True)]


@torch.inference_mode()
def mixed(decoder, wholes, weights, length):
    """[length, V] probabilities of the last tokens of prompts that end alike."""
    each = [decoder.model(ids[None]).logits[0, -length - 1 : -1].float().softmax(-1) for ids in wholes]
    return sum(weight * one for weight, one in zip(weights, each, strict=True))


@pytest.fixture
def kit(tiny_decoder, kit_of):
    kit = kit_of(tiny_decoder("qwen2"))
    kit.__dict__["embedder"] = WordCounts()
    assert len(kit.passages(TALE)) > 3
    return kit


def test_the_weighted_mean_of_probabilities(kit):
    decoder = kit.decoder
    found = Replug(3).respond(kit, CASE, 10)
    for item, response in zip(CASE.items, found.responses, strict=True):
        pairs = weights_of(kit, item.query or item.question)
        prompts = [text_prompts(decoder, passage.ids, [item])[0].ids for passage, _ in pairs]
        weights = [weight for _, weight in pairs]
        assert response.positions == sum(map(len, prompts))
        texts = zip((*item.answers, *item.choices), (*response.references, *response.choices), strict=True)
        for text, likelihood in texts:
            ids = decoder.tokens(text)
            mean = mixed(decoder, [torch.cat([prompt, ids]) for prompt in prompts], weights, len(ids))
            assert likelihood.nats == pytest.approx(-float(mean.gather(-1, ids[:, None]).log().sum()), abs=1e-3)
            assert likelihood.tokens == len(ids)
        written = torch.tensor([], dtype=torch.int64)
        while len(written) < 10:
            wholes = [torch.cat([prompt, written, written.new_zeros(1)]) for prompt in prompts]
            token = mixed(decoder, wholes, weights, 1)[0].argmax()
            if int(token) in decoder.end_ids:
                break
            written = torch.cat([written, token[None]])
        assert response.answer == decoder.tokenizer.decode(written, skip_special_tokens=True).rstrip("\ufffd").strip()
        assert response.written == len(written)


def test_one_passage_that_is_all_of_the_text_is_the_full_text(kit):
    short = Case("b", Document("b", "b", "The keeper slept."), CASE.items)
    one, full = (answerer.respond(kit, short, 10).responses for answerer in (Replug(5), Full()))
    for a, b in zip(one, full, strict=True):
        assert (a.answer, a.written, a.positions) == (b.answer, b.written, b.positions)
        assert [r.nats for r in a.references] == pytest.approx([r.nats for r in b.references], abs=1e-3)


def test_running_text_takes_its_own_passages_and_scores(kit):
    decoder = kit.decoder
    ids = decoder.tokens(TALE.text).tolist()
    far, near, target = tuple(ids[:120]), tuple(ids[120:150]), tuple(ids[150:170])
    stretch = Stretch("s", "a", "h", far, near, target, ((0, 50), (50, 90), (90, 120)), (0.1, 0.9, -0.4))
    found = Replug(2).losses(kit, stretch)
    weights = torch.tensor([0.9, 0.1]).softmax(0)
    prompts = [text_lead(decoder, (*piece, *near)).ids for piece in (far[50:90], far[:50])]
    wanted = torch.tensor(target)
    mean = mixed(decoder, [torch.cat([prompt, wanted]) for prompt in prompts], weights, len(wanted))
    torch.testing.assert_close(found.nats, -mean.gather(-1, wanted[:, None]).log()[:, 0], atol=1e-4, rtol=1e-4)
    assert found.positions == sum(len(prompt) + len(target) for prompt in prompts)
    with pytest.raises(Unfit, match="passages"):
        Replug().losses(kit, Stretch("s", "a", "h", far, near, target))


def test_what_does_not_fit_the_window_is_unfit(kit):
    asked = Item("long", "why " * 2100, ("so",))
    with pytest.raises(Unfit, match="positions"):
        Replug(2).respond(kit, Case("a", TALE, (asked,)), 4)
    with pytest.raises(UsageError, match="one passage"):
        Replug(0)
