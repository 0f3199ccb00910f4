"""Stretches by PyTorch's flash attention for sequences of any length: nothing is cut, copied or masked."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from preread.methods.longlora.scoring import Scoring

NEEDS = (
    "PyTorch 2.12, a GPU of compute capability 8.0 or newer, float16 or bfloat16, heads of at most 256 numbers in "
    "steps of 8, and no attention dropout or soft cap"
)


def possible(query: Tensor, scoring: Scoring) -> bool:
    """Whether the kernel takes such queries."""
    width = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and width <= 256
        and width % 8 == 0
        and not scoring.dropout
        and scoring.softcap is None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _shares_keys()
    )


def within(query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scoring: Scoring) -> Tensor:
    """As `scoring.Kernel` says."""
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = _ends(tuple(sizes), query.device), max(sizes)
    out = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        ends,
        ends,
        longest,
        longest,
        scale=scoring.scale,
        window_size=(-1, 0),  # everything before, nothing behind
        enable_gqa=len(query) != len(key),
    )
    assert isinstance(out, Tensor), "the kernel gives more only where it is asked to"
    return out.transpose(0, 1)


@lru_cache(maxsize=4)  # one forward's layers ask for the same two
def _ends(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device)


@cache
def _shares_keys() -> bool:
    """Whether this PyTorch has the kernel, with keys that several heads share."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "enable_gqa" in inspect.signature(varlen_attn).parameters
