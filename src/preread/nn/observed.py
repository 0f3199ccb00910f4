"""What attention sees while a decoder reads: the queries, keys and values of every layer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from preread.nn.attending import attend, attending, scale_of
from preread.nn.hf import Decoder

OBSERVED = "observed"


@dataclass(frozen=True, slots=True)
class Seen:
    """What attention was given in every layer, RoPE applied.

    Args:
        queries: [L, H, T, E].
        keys: [L, K, T, E].
        values: [L, K, T, E].
        scale: what scores are multiplied by before the softmax.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float


class _Watch(threading.local):
    """What this thread's reading has shown so far: queries, keys and values a layer, and the scale of scores."""

    layers: list[tuple[Tensor, Tensor, Tensor]] | None = None
    scale = 0.0


_watch = _Watch()


@torch.inference_mode()
def observe(decoder: Decoder, ids: Tensor) -> Seen:
    """Read [T] token ids with the bare decoder and keep what its attention is given."""
    with attending(decoder, OBSERVED, _attend):
        _watch.layers = []
        try:
            decoder.hidden(decoder.embed(ids)[None])
            queries, keys, values = (torch.stack(states) for states in zip(*_watch.layers, strict=True))
        finally:
            _watch.layers = None
    return Seen(queries, keys, values, _watch.scale)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """[B, T, H, E]: attention as the decoder's own, for `_watch` to see if this thread observes."""
    if _watch.layers is not None:
        _watch.layers.append((query[0], key[0], value[0]))
        _watch.scale = scale_of(query, rest)
    return attend(module, query, key, value, mask, **rest), None
