"""A decoder that attends by another function for a while, and its own attention, to be a part of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preread.nn.hf import Decoder

Attend = Callable[..., tuple[Tensor, Tensor | None]]
"""As transformers calls it: the layer, queries [B, H, T, E], keys and values [B, K, T_all, E], mask, and the rest; it
gives [B, T, H, E] and no weights."""


@contextmanager
def attending(decoder: Decoder, name: str, attend: Attend, mask: Callable[..., Any] = sdpa_mask) -> Iterator[None]:
    """Inside the block the bare decoder attends by `attend`; holding `adapters.use` keeps other readers waiting.

    Transformers knows such a function by one name for all decoders and threads, so it must find out by itself for whom
    it attends.

    Args:
        decoder: who reads.
        name: of the function, the same at every call.
        attend: the function.
        mask: makes the masks that it is given.
    """
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)
    model = decoder.model
    with decoder.adapters.use(None):
        before = model.config.get_text_config()._attn_implementation
        model.set_attn_implementation(name)
        try:
            yield
        finally:
            model.set_attn_implementation(before)


def scale_of(query: Tensor, settings: Mapping[str, Any]) -> float:
    """What scores are multiplied by before the softmax, from what transformers hands over beside [..., E] queries."""
    scale: float | None = settings.get("scaling")
    return float(query.shape[-1] ** -0.5 if scale is None else scale)


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Tensor:
    """[B, T, H, E] attention as a decoder that attends with `sdpa` has it, soft cap included."""
    if (cap := rest.get("softcap")) is not None:
        return _capped(query, key, value, mask, scale_of(query, rest), cap)
    attended: Tensor = sdpa_attention_forward(module, query, key, value, mask, **rest)[0]
    return attended


def _capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """[B, T, H, E] attention with a soft cap on its scores (Gemma 2), which PyTorch's own kernels do not have."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / cap) * cap
    allowed = mask if mask is not None else scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    weights = scores.float().masked_fill(~allowed, float("-inf")).softmax(-1).to(value.dtype)
    return (weights @ value).transpose(1, 2)
