"""A decoder that attends by another function for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
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
