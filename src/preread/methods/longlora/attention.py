"""Shifted sparse attention of one layer: which heads attend in which stretches, and what computes it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.methods.longlora import flex, sdpa, varlen
from preread.methods.longlora.scoring import Kernel, Scoring
from preread.methods.longlora.segments import Segments

Backend = Literal["auto", "sdpa", "flex", "varlen"]
PLAIN = Scoring()
KERNELS: dict[str, Kernel] = {"sdpa": sdpa, "flex": flex, "varlen": varlen}


def shifted_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scoring: Scoring = PLAIN,
    plain: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attention of each half of the heads within its stretches.

    Args:
        query: [B, H, T, E], turned by their positions.
        key: [B, K, T, E].
        value: [B, K, T, E].
        segments: the stretches, of B * T tokens together.
        scoring: of the layer.
        plain: how many heads, the first ones, have the plain stretches; None is H // 2.
        backend: what computes it; `auto` takes the quickest that the device and the layer allow.

    Returns:
        [B, T, H, E].

    Raises:
        UsageError: the backend cannot compute such a layer here.
    """
    batch, heads, length, _ = query.shape
    plain = heads // 2 if plain is None else plain
    if segments.plain == segments.moved:
        plain = heads
    query, key, value = (_flat(_as_computed(x)) for x in (query, key, value))
    kernel, halves = _chosen(backend, query, scoring), []
    for first, last, sizes in ((0, plain, segments.plain), (plain, heads, segments.moved)):
        if first < last:
            shared_key, shared_value = (_shared(x, heads, first, last) for x in (key, value))
            halves.append(kernel.within(query[first:last], shared_key, shared_value, sizes, scoring))
    return torch.cat(halves).transpose(0, 1).reshape(batch, length, heads, -1)


def _chosen(backend: Backend, query: Tensor, scoring: Scoring) -> Kernel:
    if backend == "auto":
        if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
            return sdpa
        # FlexAttention has to be compiled, which only layers with bounded scores are worth: SDPA writes those out.
        order = (varlen, sdpa) if scoring.softcap is None else (flex, sdpa)
        return next(kernel for kernel in order if kernel.possible(query, scoring))
    kernel = KERNELS[backend]
    if not kernel.possible(query, scoring):
        raise UsageError(
            expected=f"for the attention of backend {backend}: {kernel.NEEDS}",
            got=f"{query.dtype} on {query.device.type}, heads of {query.shape[-1]} numbers, dropout {scoring.dropout}, "
            f"soft cap {scoring.softcap}",
            consequence="Nothing was computed.",
            remedy="Take backend='auto', which finds what is possible, or 'sdpa', which always is.",
        )
    return kernel


def _as_computed(x: Tensor) -> Tensor:
    """In the type of a surrounding autocast, which turned queries and keys escape and not every kernel asks for."""
    device = x.device.type
    if x.is_meta or x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def _flat(x: Tensor) -> Tensor:
    """[B, H, T, E] -> [H, B * T, E]."""
    return x.transpose(0, 1).flatten(1, 2)


def _shared(x: Tensor, heads: int, first: int, last: int) -> Tensor:
    """The keys or values [K, N, E] of some query heads: as few as they are where groups of heads stay whole."""
    group = heads // len(x)
    if first % group == 0 and last % group == 0:
        return x[first // group : last // group]
    return x.repeat_interleave(group, dim=0)[first:last]
