"""Stretches by `scaled_dot_product_attention`, on any device: those of equal length are the rows of one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from preread.methods.longlora.scoring import Scoring

NEEDS = "any layer"


def possible(query: Tensor, scoring: Scoring) -> bool:  # noqa: ARG001
    """It always can."""
    return True


def within(query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scoring: Scoring) -> Tensor:
    """As `scoring.Kernel` says.

    Stretches are cut by `split`, whose gradient is one concatenation; that of slices would be a whole tensor of zeros
    each.
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
