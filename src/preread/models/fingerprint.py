"""The identity of a decoder: a hash of everything that decides its numbers."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preread.core.types import sha256

BOOKKEEPING = frozenset(
    {"_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version", "use_cache"}
)
"""Fields of a config that change no number; the dtype is hashed with each tensor."""


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
    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)}".encode())
    digest.update(flat.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(model: PreTrainedModel) -> str:
    fields = {key: value for key, value in model.config.to_diff_dict().items() if key not in BOOKKEEPING}
    return json.dumps(fields, sort_keys=True, default=str)


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # A call that pads or truncates leaves its settings here; they are the call's, not the tokenizer's.
    backend.update(padding=None, truncation=None)
    return json.dumps(backend, sort_keys=True)
