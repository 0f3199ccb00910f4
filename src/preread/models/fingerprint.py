"""The identity of a decoder: a hash of everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preread.core.types import sha256

DECISIVE = (
    "model_type",
    "hidden_act",
    "hidden_activation",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "layer_norm_eps",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "scale_emb",
    "scale_depth",
    "dim_model_base",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
"""Fields of a config that change the numbers of equal weights.

Named one by one, because the rest of a config changes between versions of transformers, and a memory must not go stale
with an upgrade.
"""

PROBE = "It's 1,024 tokens.\n\n12 caf\u00e9s\tat naïve §7? \U0001f40b  end"
"""Its token ids tell two tokenizers of one vocabulary apart: digits, blank lines, accents, runs of spaces."""


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex SHA-256 of weights, architecture and tokenizer, as they are in memory.

    The same weights in another folder or on another device have the same fingerprint; in another dtype they
    have another one, for they give other numbers. The chat template is left out: no memory depends on it.
    """
    state = sorted(model.state_dict().items())
    with ThreadPoolExecutor() as pool:  # hashlib works outside the interpreter's lock
        digests = list(pool.map(_tensor_digest, [tensor for _, tensor in state]))
    weights = [f"{name} {digest}" for (name, _), digest in zip(state, digests, strict=True)]
    return sha256(*weights, _architecture(model), _vocabulary(tokenizer))


def _tensor_digest(tensor: Tensor) -> str:
    if hasattr(tensor, "__tensor_flatten__"):  # a quantised one, made of several plain ones
        names, _ = tensor.__tensor_flatten__()
        return sha256(str(tuple(tensor.shape)), *(f"{n} {_tensor_digest(getattr(tensor, n))}" for n in sorted(names)))
    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)}".encode())
    digest.update(flat.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(model: PreTrainedModel) -> str:
    config = model.config.get_text_config()
    fields = {key: value for key in DECISIVE if (value := getattr(config, key, None)) is not None}
    return json.dumps(fields, sort_keys=True, default=str)


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    ids = tokenizer(PROBE, add_special_tokens=True)["input_ids"]
    return json.dumps([sorted(tokenizer.get_vocab().items()), ids])
