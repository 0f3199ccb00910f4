"""Keys with a bias: a key that stands for several positions has their weight in attention.

A bias differs from head to head and layer to layer, so as a mask it would cost a tensor of every score. Instead a
biased key carries it in components of its own, behind the E that are its content; a query meets them with ones. Softmax
then sees `scaled score + bias`, and any attention that can read wide keys needs no other change.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from preread.core.types import KeyValues

EXTRA = 8
"""Components behind a key's content: a multiple of 8 keeps the quick kernels of GPUs available."""
PARTS = 3
"""How many of them hold the bias: bfloat16 has 8 bits, so three parts of a number are as exact as float32."""
NOTHING = -30_000.0
"""What stands for a bias of minus infinity, a key that does not count: its exponential is zero in every dtype."""


def weigh(keys: Tensor, bias: Tensor) -> Tensor:
    """Keys that carry a bias.

    Args:
        keys: [..., N, E].
        bias: [..., N], added to the scaled score of each key; minus infinity takes a key out.

    Returns:
        [..., N, E + EXTRA] in the dtype of the keys.
    """
    rest, parts = bias.float().clamp_min(NOTHING), []
    for _ in range(PARTS):
        parts.append(rest.to(keys.dtype))
        rest = rest - parts[-1].float()
    return torch.cat([keys, F.pad(torch.stack(parts, -1), (0, EXTRA - PARTS))], -1)


def is_wide(query: Tensor, keys: Tensor) -> bool:
    """Whether these keys may carry a bias."""
    return keys.shape[-1] > query.shape[-1]


def meet(query: Tensor, scale: float) -> Tensor:
    """[..., E] queries -> [..., E + EXTRA], scaled, whose product with wide keys is `scaled score + bias`."""
    scaled = query * scale
    ones = scaled.new_ones((*scaled.shape[:-1], PARTS))
    return torch.cat([scaled, F.pad(ones, (0, EXTRA - PARTS))], -1)


def by_layer(
    given: KeyValues, biased: bool, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each layer keys and values as [1, K, N, E], the keys with their bias if they are to carry one."""
    for keys, values, bias in zip(given.keys, given.values, given.bias, strict=True):
        ready = keys.to(device, dtype)
        yield (weigh(ready, bias.to(device)) if biased else ready)[None], values.to(device, dtype)[None]
