"""Shifted sparse attention by PyTorch's own kernels: stretches of equal length are the rows of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from preread.methods.longlora.segments import Segments


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores become weights, as the layer has it.

    Args:
        scale: what scores are multiplied by; None is 1 / sqrt(E).
        dropout: share of the weights that is dropped.
        softcap: bound of the scores (Gemma 2), or None.
    """

    scale: float | None = None
    dropout: float = 0.0
    softcap: float | None = None


def shifted_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scoring: Scoring = Scoring(),
    plain: int | None = None,
) -> Tensor:
    """Attention of each half of the heads within its stretches.

    Args:
        query: [B, H, T, E], turned by their positions.
        key: [B, K, T, E].
        value: [B, K, T, E].
        segments: the stretches, of B * T tokens together.
        scoring: of the layer.
        plain: how many heads, the first ones, have the plain stretches; None is H // 2.

    Returns:
        [B, T, H, E].
    """
    batch, heads, length, _ = query.shape
    plain = heads // 2 if plain is None else plain
    if segments.plain == segments.moved:
        plain = heads
    query, key, value = (_flat(x) for x in (query, key, value))
    halves = []
    for first, last, sizes in ((0, plain, segments.plain), (plain, heads, segments.moved)):
        if first < last:
            shared_key, shared_value = (_shared(x, heads, first, last) for x in (key, value))
            halves.append(within(query[first:last], shared_key, shared_value, sizes, scoring))
    return torch.cat(halves).transpose(0, 1).reshape(batch, length, heads, -1)


def within(query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scoring: Scoring) -> Tensor:
    """[H, N, E] causal attention inside stretches of these sizes, which follow one another.

    They are cut by `split`, whose gradient is one concatenation; that of slices would be a whole tensor of zeros each.
    """
    pieces = [torch.split(x, list(sizes), dim=1) for x in (query, key, value)]
    of_size: dict[int, list[int]] = {}
    for number, size in enumerate(sizes):
        of_size.setdefault(size, []).append(number)
    out: list[Tensor] = [query] * len(sizes)
    for numbers in of_size.values():
        rows = [torch.stack([each[number] for number in numbers]) for each in pieces]
        for number, attended in zip(numbers, _causal(rows[0], rows[1], rows[2], scoring).unbind(), strict=True):
            out[number] = attended
    return torch.cat(out, dim=1)


def _flat(x: Tensor) -> Tensor:
    """[B, H, T, E] -> [H, B * T, E]."""
    return x.transpose(0, 1).flatten(1, 2)


def _shared(x: Tensor, heads: int, first: int, last: int) -> Tensor:
    """The keys or values [K, N, E] of some query heads: as few as they are where groups of heads stay whole."""
    group = heads // len(x)
    if first % group == 0 and last % group == 0:
        return x[first // group : last // group]
    return x.repeat_interleave(group, dim=0)[first:last]


def _causal(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
    """[S, H, L, E] causal attention."""
    if scoring.softcap is None:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=scoring.dropout,
            is_causal=True,
            scale=scoring.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    group, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scale = query.shape[-1] ** -0.5 if scoring.scale is None else scoring.scale
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / scoring.softcap) * scoring.softcap
    future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    weights = scores.float().masked_fill(future, float("-inf")).softmax(-1).to(value.dtype)
    return F.dropout(weights, scoring.dropout) @ value
