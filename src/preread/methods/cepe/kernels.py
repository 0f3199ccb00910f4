"""How queries attend to states: through keys and values of them, or, where few ask, through the states themselves.

No query is hidden from a state by its place, so the queries of heads that share keys and values are rows of one
product, on every device; in the absorbed way those of all heads are. For a token or a few on CUDA that product, the
softmax and the mean are one kernel (`fused`).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from preread.nn.cpu import many_row_products, two_products

PIECE_BYTES = 256 * 2**20
"""Most bytes at once of keys and values, or of scores: 127k states of LLaMA-2-7B's shape have 2 GiB of them a layer."""
HALF = (torch.bfloat16, torch.float16)


def expanded(
    query: Tensor, states: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, most: int = PIECE_BYTES
) -> Tensor:
    """Attention over keys and values of every state, some heads at a time, which need nothing of each other.

    Args:
        query: [B, H, T, E].
        states: [B, N, S].
        key: [K * E, S], what makes a state's keys.
        value: [K * E, S], what makes its values.
        mask: [B, 1, 1, N], True for the states that count; None where all do.
        most: bytes of keys and values at once; those of one head are not divided.

    Returns:
        [B, H, T, E].
    """
    rows, _, _, width = query.shape
    grouped = _grouped(query, len(key) // width)
    at_once = max(1, most // (2 * rows * states.shape[1] * width * states.element_size()))
    pieces = []
    for first in range(0, grouped.shape[1], at_once):
        own = slice(first * width, (first + at_once) * width)
        keys, values = (
            F.linear(states, matrix[own]).view(*states.shape[:2], -1, width).transpose(1, 2) for matrix in (key, value)
        )
        asked = grouped[:, first : first + at_once]
        pieces.append(F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask))
    return torch.cat(pieces, 1).view_as(query)


def absorbed(
    query: Tensor, states: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, most: int = PIECE_BYTES
) -> Tensor:
    """The same without keys and values: q (K s) is (q K) s, and the mean of V s is V times the mean of s.

    Args:
        query: [B, H, T, E].
        states: [B, N, S].
        key: [K * E, S].
        value: [K * E, S].
        mask: [B, 1, 1, N] or None.
        most: bytes of scores at once.

    Returns:
        [B, H, T, E].
    """
    width = query.shape[-1]
    keys, values = (matrix.view(-1, width, states.shape[-1]) for matrix in (key, value))
    with many_row_products():  # a token's heads are several rows, also where the layers around read a single one
        folded = torch.matmul(_grouped(query, len(keys)) * width**-0.5, keys)
        at_once = max(1, most // (4 * states.shape[0] * states.shape[1]))
        pieces = [_seen(some, states, mask) for some in torch.split(folded.flatten(1, 2), at_once, dim=1)]
        return torch.matmul(torch.cat(pieces, 1).view_as(folded), values.mT).view_as(query)


def _seen(rows: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    """[B, R, S] means of the states, weighted by how well they fit each of the [B, R, S] scaled rows."""
    kernel = _fused() if rows.is_cuda else None
    if kernel and kernel.serves(rows, states):
        means: Tensor = kernel.fused(rows, states, mask)
        return means
    asked, shared = rows[:, None], states[:, None]
    if rows.dtype in HALF:  # no fused kernel of torch's takes heads as wide as states, and its plain one copies them
        return two_products(asked, shared, shared, mask)[:, 0]
    return F.scaled_dot_product_attention(asked, shared, shared, attn_mask=mask, scale=1.0)[:, 0]


@cache
def _fused() -> ModuleType | None:
    """Our own kernel, where Triton is installed."""
    return import_module("preread.methods.cepe.fused") if find_spec("triton") else None


def _grouped(query: Tensor, kv_heads: int) -> Tensor:
    """[B, H, T, E] -> [B, K, H / K * T, E]."""
    return query.reshape(query.shape[0], kv_heads, -1, query.shape[-1])
