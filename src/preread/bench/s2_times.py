"""How long attention takes, in full and shifted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from preread.methods.longlora.attention import shifted_attention
from preread.methods.longlora.segments import Grouping

TIMED_HEADS, TIMED_KV_HEADS, TIMED_WIDTH = 9, 3, 64
"""The default decoder's heads."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of attention forward and back, the n-th of both lists taken one after the other."""

    full: list[float] = field(default_factory=list)
    shifted: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> list[float]:
        """How many times as long full attention takes."""
        return [full / shifted for full, shifted in zip(self.full, self.shifted, strict=True)]


def attention_times(length: int, repeats: int, seed: int = 0) -> Times:
    """One layer's attention by the same kernel, in full and in groups of a quarter, by turns; batch 1, float32."""
    draw = torch.Generator().manual_seed(seed)
    heads = TIMED_HEADS, TIMED_KV_HEADS, TIMED_KV_HEADS
    given = [torch.randn(1, h, length, TIMED_WIDTH, generator=draw, requires_grad=True) for h in heads]
    query, key, value = given
    weight = torch.randn(1, length, TIMED_HEADS, TIMED_WIDTH, generator=draw)
    whole = Grouping(length // 4, True, full_below=length).segments([length])
    groups = Grouping(length // 4, True, full_below=0).segments([length])
    times = Times()
    for repeat in range(repeats + 1):
        for segments, taken in ((whole, times.full), (groups, times.shifted)):
            start = time.perf_counter()
            torch.autograd.grad((shifted_attention(query, key, value, segments) * weight).sum(), given)
            if repeat:  # the first is for warmth
                taken.append(time.perf_counter() - start)
    return times
