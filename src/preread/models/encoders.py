"""Encoders of text from a folder or the hub: safetensors alone, and no code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from preread.core.errors import UnsupportedModel, first_line
from preread.models.loading import fetch
from preread.models.quiet import quiet

LONGEST = 512
"""Tokens that an encoder reads at once, where its config does not say."""


def load_encoder(name: str, weights: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder in float32 on the CPU, with its tokenizer.

    Args:
        name: a folder, or a hub id.
        weights: whether its weights are read; else they are random, for somebody who has others to put there.

    Raises:
        UnknownModel, UnsupportedModel: as `loading.load`; or it is no model of tokens to states, or its tokenizer does
            not fit it or is none of the fast ones.
    """
    folder = fetch(name).folder if weights else Path(name)
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if weights:
                model = AutoModel.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
            else:
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                model = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ImportError, KeyError, OSError, ValueError, RuntimeError) as error:
        raise _unsupported(name, first_line(error)) from error
    if wrong := _wrong(model, tokenizer):
        raise _unsupported(name, wrong)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # any will do: what fills rows up is never seen
    found: PreTrainedModel = model
    return found, tokenizer


def most_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens an encoder may read at once, what its tokenizer adds among them."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    said = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST)
    if (filling := getattr(table, "padding_idx", None)) is not None:
        said -= filling + 1  # RoBERTa counts positions from behind the one of what fills rows up
    return min(said, int(tokenizer.model_max_length))


def _wrong(model: Any, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why this is no encoder that could be read with."""
    if hasattr(model, "decoder"):
        return f"an encoder with a decoder behind it, {type(model).__name__}"
    if not tokenizer.is_fast:
        return f"a tokenizer that does not tell what a long text overflows into, {type(tokenizer).__name__}"
    if (rows := model.get_input_embeddings().num_embeddings) < len(tokenizer):
        return f"a tokenizer of {len(tokenizer)} tokens to a table of {rows}"
    if (most := most_tokens(model, tokenizer)) <= (added := tokenizer.num_special_tokens_to_add()):
        return f"one that reads {most} tokens at once, of which {added} are no text"
    return None


def _unsupported(name: str, got: str) -> UnsupportedModel:
    return UnsupportedModel(
        expected=f"{name} to be an encoder that transformers reads without code from the repository",
        got=got,
        consequence="It was not loaded; remote code is never run.",
        remedy="Choose another, such as a BERT, RoBERTa or ModernBERT, with tokenizer and safetensors weights.",
    )
