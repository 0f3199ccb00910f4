"""A decoder of a config alone: every shape, no number, no memory. What it computes are shapes too.

It stands on torch's meta device, where a step of any model at any length is walked in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from preread.core.errors import UnknownModel, UnsupportedModel, first_line
from preread.models.loading import fetch
from preread.models.packaged import PACKAGED
from preread.models.quiet import quiet
from preread.nn.hf import Decoder
from preread.nn.kinds import layer_kinds

ATTENTION = "hollow"
"""Name of its attention. No mask is registered under it, so that none of [T, T] is made, as for fused kernels."""


def hollow(config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """The decoder that a config describes, without weights, with a tokenizer that knows no token.

    Args:
        config: of a decoder that attends in full in every layer.
        dtype: of the weights that it would have.

    Raises:
        UnsupportedModel: some of its layers attend in another way.
    """
    text = config.get_text_config()
    kinds = layer_kinds(config)
    if kinds != {"full_attention"} or getattr(text, "attn_logit_softcapping", None):
        raise UnsupportedModel(
            expected="a decoder whose layers all attend in full, by a fused kernel",
            got=f"{config.model_type} with {', '.join(sorted(kinds))}",
            consequence="Its memory was not estimated.",
            remedy="Take one real step at the length in question, and look at what it takes.",
        )
    AttentionInterface.register(ATTENTION, _attend)
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    return Decoder(model, tokenizer, config.model_type, fingerprint="", note="shapes alone")


def _attend(
    _: nn.Module, query: Tensor, key: Tensor, value: Tensor, __: Tensor | None, **_rest: Any
) -> tuple[Tensor, None]:
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def fused() -> Iterator[None]:
    """Inside the block attention of shapes makes what a fused kernel makes: its output, and a float for each query.

    Torch's own attention of shapes is the one that writes out the scores. A `TorchFunctionMode` would not act in layers
    that are computed again, for it is left while a backward pass runs.
    """
    own = F.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if query.is_meta:
            out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, is_causal=True)[0]
            return out
        return own(query, key, value, *args, **kwargs)

    with patch.object(F, "scaled_dot_product_attention", attend):
        yield


def config_of(name: str) -> PreTrainedConfig:
    """The config of a decoder, by any name that `loading.load` takes; of a hub's nothing else is fetched.

    Raises:
        UnknownModel, UnsupportedModel: there is none, or none of a decoder.
    """
    path = Path(name).expanduser()
    source: str | Path = name
    if name in PACKAGED or path.exists():
        source = path if (path / "config.json").is_file() else fetch(name).folder
    try:
        with quiet():
            config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnknownModel(
            expected=f"the config of a decoder at {name}",
            got=first_line(error),
            consequence="Nothing was estimated.",
            remedy="Name a folder with a config.json, or a model on the hub.",
        ) from error
    return config
