"""Stretches by FlexAttention: one compiled kernel, which skips blocks that no stretch needs and can bound scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from preread.methods.longlora.scoring import Scoring

NEEDS = "a CUDA GPU with triton (on a CPU it computes no gradients), and no attention dropout"
BLOCK = 128
"""Tokens of a block; a block that no stretch reaches costs nothing."""


def possible(query: Tensor, scoring: Scoring) -> bool:
    """Whether it can train such a layer, or, on a CPU, compute it without gradients."""
    if query.is_cuda:
        return not scoring.dropout and find_spec("triton") is not None
    return not scoring.dropout and not (torch.is_grad_enabled() and query.requires_grad)


def within(query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scoring: Scoring) -> Tensor:
    """As `scoring.Kernel` says."""
    attended: Tensor = _attention(query.is_cuda)(
        query[None],
        key[None],
        value[None],
        score_mod=None if scoring.softcap is None else _bounded(scoring.softcap),
        block_mask=block_mask(tuple(sizes), query.device),
        scale=scoring.scale,
        enable_gqa=len(query) != len(key),
    )
    return attended[0]


@lru_cache(maxsize=4)  # one forward's layers ask for the same two
def block_mask(sizes: tuple[int, ...], device: torch.device) -> BlockMask:
    """Which blocks of keys each block of queries meets, in full or in part, for N tokens in stretches.

    `create_block_mask` would find the same by a mask of [N, N], 4 GiB at 65,536 tokens. Stretches are numbered in
    order, so the first and the last token of a block tell all.
    """
    total = sum(sizes)
    stretch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
    blocks = F.pad(stretch, (0, -total % BLOCK), value=len(sizes)).view(-1, BLOCK)
    first, last, place = blocks[:, 0], blocks[:, -1], torch.arange(len(blocks), device=device)
    met = (place[:, None] >= place[None, :]) & (last[None, :] >= first[:, None])  # [queries, keys]
    whole = (place[:, None] > place[None, :]) & (first[None, :] == last[:, None])

    def sees(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (stretch[query] == stretch[key])

    return BlockMask.from_kv_blocks(
        *_listed(met & ~whole), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(total, total)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[Q, K] bool -> how many blocks [1, 1, Q], and their numbers before all others [1, 1, Q, K]; int32."""
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], numbers.int()[None, None]


@cache
def _bounded(softcap: float) -> Callable[..., Tensor]:
    def score(score: Tensor, *_place: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return score


@cache
def _attention(compiled: bool) -> Callable[..., Any]:
    """Compiled where layers are trained; as one graph, so that it never falls back to all scores at once."""
    if not compiled:
        return flex_attention
    made: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True)
    return made
