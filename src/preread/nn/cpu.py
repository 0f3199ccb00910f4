"""What makes one token at a time quick on a CPU: folded heads, and the right kernel for a product of one row.

Both change which kernel computes, never what is computed; they serve every prompt alike, of text or of memory.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preread.core.errors import UnsupportedModel
from preread.nn.hf import Decoder
from preread.nn.weighted import EXTRA, is_wide, meet

FOLDED = "sdpa_folded"
_switch = threading.RLock()
"""oneDNN is on or off for the whole process: who changes it keeps others from doing so until it is back."""


def folded_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention that reads each key and value once for all the query heads that share it.

    For one query position the H / K query heads of a key/value head are H / K rows of one product. PyTorch's own way of
    sharing (`enable_gqa`) reads keys and values once for each head on a CPU: 5 times slower in bfloat16 at 8,000
    positions. In bfloat16 two plain products are twice as fast again as the fused kernel, whose single block of
    queries keeps one thread busy; their scores are rounded to bfloat16, as in transformers' own `eager` attention.
    Anything else is left to transformers. Keys that are wider than the queries carry a bias (`weighted`).

    Args:
        module: the attention layer.
        query: [B, H, T, E].
        key: [B, K, T_all, E or E + EXTRA].
        value: [B, K, T_all, E].
        attention_mask: [B, 1, T, T_all], True where a key counts, or None.
        rest: what else transformers hands over, the scale of the scores among it.

    Returns:
        [B, T, H, E], and no weights.
    """
    rows, heads, positions, width = query.shape
    scale = width**-0.5 if rest.get("scaling") is None else rest["scaling"]
    wide = is_wide(query, key)
    shared = attention_mask is None or attention_mask.shape[1] == 1
    if positions > 1 or query.device.type != "cpu" or not shared or rest.get("position_bias") is not None:
        if wide:  # the quick kernels want values as wide as keys
            query, value, rest = meet(query, scale), F.pad(value, (0, EXTRA)), rest | {"scaling": 1.0}
        attended, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return attended[..., :-EXTRA] if wide else attended, None
    folded = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    if query.dtype == torch.bfloat16 or wide:
        out = two_products(meet(folded, scale) if wide else folded * scale, key, value, attention_mask)
    else:
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scale)
    return out.reshape(rows, 1, heads, value.shape[-1]), None


def two_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q K^T) V of queries that all see the same; reads keys and values in their order.

    Args:
        query: [B, K, R, E], scaled; all rows of a key head, be they of several heads or positions.
        key: [B, K, N, E].
        value: [B, K, N, E'].
        mask: [B, 1, 1, N], True where a key counts, or None.

    Returns:
        [B, K, R, E'].
    """
    with many_row_products():  # `one_row_products` has oneDNN off for the layers around
        scores = torch.matmul(key, query.transpose(-1, -2)).transpose(-1, -2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return torch.matmul(scores.softmax(-1).to(value.dtype), value)


def fold_heads(decoder: Decoder) -> bool:
    """Let a decoder that attends with `sdpa` use `folded_attention`; whether it does so now. Another stays as it is."""
    with decoder.adapters.use(None):  # nobody reads meanwhile, and nobody has put another attention in its place
        if _attention(decoder) == "sdpa":
            AttentionInterface.register(FOLDED, folded_attention)
            AttentionMaskInterface.register(FOLDED, sdpa_mask)
            decoder.model.set_attn_implementation(FOLDED)
        return _attention(decoder) == FOLDED


def require_weighted(decoder: Decoder) -> None:
    """See that a decoder can read keys with a bias.

    Raises:
        UnsupportedModel: it attends by something else than `sdpa`, such as with a soft cap on its scores.
    """
    if _attention(decoder) != FOLDED and not fold_heads(decoder):
        raise UnsupportedModel(
            expected="a decoder that attends with sdpa, which can read keys with a bias",
            got=f"{type(decoder.model).__name__} with {_attention(decoder)} attention",
            consequence="Nothing was computed.",
            remedy="Choose a decoder of the Llama, Qwen or Mistral families, or another method.",
        )


def _attention(decoder: Decoder) -> str:
    return str(decoder.model.config.get_text_config()._attn_implementation)


@contextmanager
def heads_unfolded(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, the model attends as transformers alone would let it; for comparison."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    model.set_attn_implementation("sdpa" if before == FOLDED else before)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def one_row_products(x: Tensor) -> Iterator[None]:
    """Inside the block, products of a single bfloat16 row use PyTorch's own kernel in place of oneDNN's.

    For one row oneDNN takes about twice as long (seen on x86-64, where alone this acts); with more rows it is the
    faster by far, so nothing changes for them. The switch belongs to the process: hold it for one step and no longer,
    for a wide product in another thread is slow meanwhile.

    Args:
        x: [B, T, D] what the model is about to read.
    """
    one_row = x.shape[:-1].numel() == 1 and x.dtype == torch.bfloat16 and x.device.type == "cpu"
    if not one_row or platform.machine() not in ("x86_64", "AMD64"):
        yield
        return
    with _onednn(enabled=False):
        yield


def many_row_products() -> AbstractContextManager[None]:
    """Inside the block, products of many rows are quick, also inside `one_row_products`."""
    return _onednn(enabled=True)


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    """Whether PyTorch may use oneDNN inside the block."""
    with _switch:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = before
