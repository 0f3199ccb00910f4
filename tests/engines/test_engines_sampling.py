"""Drawing the next token."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from preread.core.errors import UsageError
from preread.core.types import Sampling
from preread.engines.sampling import Sampler

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0])


def test_greedy_takes_the_likeliest():
    assert Sampler(Sampling())(LOGITS, []) == 1


def test_repetition_penalty_counts_the_answer_alone():
    sampler = Sampler(Sampling(repetition_penalty=4.0))
    assert sampler(LOGITS, []) == 1
    assert sampler(LOGITS, [1]) == 2


def test_draws_follow_the_tempered_distribution():
    sampler, draws = Sampler(Sampling(temperature=2.0, seed=0)), 4000
    counts = Counter(sampler(LOGITS, []) for _ in range(draws))
    for token, share in enumerate((LOGITS / 2).softmax(-1).tolist()):
        assert abs(counts[token] / draws - share) < 0.04


@pytest.mark.parametrize(
    ("limits", "allowed"), [({"top_k": 2}, {1, 2}), ({"top_p": 0.6}, {1}), ({"top_p": 0.8}, {1, 2})]
)
def test_limits_keep_the_likeliest(limits: dict[str, float], allowed: set[int]):
    sampler = Sampler(Sampling(temperature=1.0, seed=3, **limits))
    assert {sampler(LOGITS, []) for _ in range(300)} == allowed


def test_a_seed_repeats_and_no_seed_does_not():
    flat = torch.zeros(1000)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler(flat, []) for _ in range(8)]

    assert draw(7) == draw(7) != draw(8)
    assert draw(None) != draw(None)


@pytest.mark.parametrize(
    "off",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
    ],
)
def test_senseless_values_are_refused_by_name(off: dict[str, object]):
    with pytest.raises(UsageError, match=next(iter(off))):
        Sampler(Sampling(**off))
