"""What attention sees while a decoder reads: the queries, keys and values of every layer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from preread.nn.attending import attending
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
    scale = query.shape[-1] ** -0.5 if rest.get("scaling") is None else rest["scaling"]
    if _watch.layers is not None:
        _watch.layers.append((query[0], key[0], value[0]))
        _watch.scale = scale
    if (cap := rest.get("softcap")) is not None:
        return _capped(query, key, value, mask, scale, cap), None
    attended: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, mask, **rest)
    return attended


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """[B, T, H, E] attention with a soft cap on its scores (Gemma 2), which PyTorch's own kernels do not have."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / cap) * cap
    allowed = mask if mask is not None else scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    weights = scores.float().masked_fill(~allowed, float("-inf")).softmax(-1).to(value.dtype)
    return (weights @ value).transpose(1, 2)
