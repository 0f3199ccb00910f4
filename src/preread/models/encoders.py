"""Encoders of text from a folder or the hub: safetensors alone, and no code of theirs."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from preread.core.errors import UnsupportedModel, first_line
from preread.models.loading import fetch
from preread.models.quiet import quiet


def load_encoder(name: str, weights: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder in float32 on the CPU, with its tokenizer.

    Args:
        name: a folder, or a hub id.
        weights: whether its weights are read; else they are random, for somebody who has others to put there.

    Raises:
        UnknownModel, UnsupportedModel: as `loading.load`; or it is no model of tokens to states.
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
        raise UnsupportedModel(
            expected=f"{name} to be an encoder that transformers reads without code from the repository",
            got=first_line(error),
            consequence="It was not loaded; remote code is never run.",
            remedy="Choose another, such as a BERT, RoBERTa or ModernBERT, with tokenizer and safetensors weights.",
        ) from error
    found: PreTrainedModel = model
    return found, tokenizer
