"""A verdict is the answers' likelihood with and without an adapter, and says how sure it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from preread.core.types import Lesson, Prompt
from preread.nn.lora import Lora, LoraConfig
from preread.training.judging import judge


@pytest.fixture
def decoder(tiny_decoder):
    decoder = tiny_decoder("llama")
    for name in ("new", "old", "nothing"):
        lora = decoder.adapters.add(name, Lora(LoraConfig(rank=4, dropout=0.0), decoder.projections).eval())
        for b in lora.b.values() if name != "nothing" else ():
            torch.nn.init.normal_(b, std=0.1)
    return decoder


LESSONS = [Lesson(Prompt(torch.arange(5, 9 + i)), torch.arange(20, 22 + i)) for i in range(5)]
KINDS, UNITS = ["a", "a", "b", "b", "b"], ["1", "1", "2", "3", "3"]


@torch.no_grad()
def nll(decoder, lesson, adapter):
    """By transformers' own forward pass."""
    answer = lesson.answer[:-1]
    ids = torch.cat([lesson.prompt.ids, answer])
    with decoder.adapters.use(adapter):
        logits = decoder.model(ids[None]).logits[0]
    return float(F.cross_entropy(logits[len(lesson.prompt) - 1 : -1], answer))


def test_a_verdict_is_the_mean_of_its_questions(decoder):
    found = judge(decoder, LESSONS, KINDS, UNITS, "new", "old")
    before, after, old = ([nll(decoder, one, name) for one in LESSONS] for name in (None, "new", "old"))
    assert found.before == pytest.approx(sum(before) / 5, abs=1e-5)
    assert found.after == pytest.approx(sum(after) / 5, abs=1e-5)
    assert found.in_use == pytest.approx(sum(old) / 5, abs=1e-5)
    assert found.gain[0] == pytest.approx(found.before - found.after, abs=1e-5)
    assert found.gain[1] < found.gain[0] < found.gain[2]
    assert found.better == sum(a < b for a, b in zip(after, before, strict=True))
    assert found.kinds["b"] == pytest.approx((3, sum(before[2:]) / 3, sum(after[2:]) / 3), abs=1e-5)
    assert found.helps == (found.after < found.before and found.after <= found.in_use)


def test_what_ends_an_answer_is_not_judged(decoder):
    """An adapter that learned nothing but to end answers would be put in use, else."""
    ended = [replace(one, answer=torch.cat([one.answer[:-1], torch.tensor([2])])) for one in LESSONS]
    assert judge(decoder, ended, KINDS, UNITS, "new") == judge(decoder, LESSONS, KINDS, UNITS, "new")


def test_the_same_is_no_help_and_one_text_bounds_nothing(decoder):
    found = judge(decoder, LESSONS, KINDS, ["1"] * 5, "nothing")
    assert found.gain == (0.0, None, None)
    assert (found.better, found.in_use, found.helps) == (0, None, False)
