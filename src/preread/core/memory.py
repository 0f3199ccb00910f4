"""A memory: what a method made of a passage or a document, and the proof of which weights may read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from preread.core.errors import FingerprintMismatch, IntegrityError
from preread.core.types import Scope, sha256

FORMAT = "preread-memory-1"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""As safetensors names them."""


@dataclass(frozen=True, slots=True)
class Producer:
    """Everything that decides what a memory's numbers are; two equal producers make equal memories.

    Args:
        method: name of the method.
        base: fingerprint of decoder and tokenizer.
        weights: hash of the method's own weights (compressor), or an empty string where it has none.
        settings: the method's settings that change its output, as sorted JSON.
        dtype: dtype of the stored vectors.
        trained_segments: how many segments in a row the weights were trained for; 0 is no limit.
    """

    method: str
    base: str
    weights: str
    settings: str
    dtype: str
    trained_segments: int = 0

    @property
    def key(self) -> str:
        """Hex SHA-256 that names this producer."""
        return sha256(json.dumps(asdict(self), sort_keys=True))


@dataclass(frozen=True, slots=True)
class Memory:
    """Tensors and their manifest; valid only for the decoder that the producer names.

    Args:
        producer: who made it.
        scope: whether it stands for one passage or a whole document.
        source: hash of what was read: the token ids, in order.
        tokens: how many tokens of text it stands for.
        tensors: the method's tensors; the first dimension counts positions that the decoder will read, or, of `states`,
            what its positions attend to from beside.
    """

    producer: Producer
    scope: Scope
    source: str
    tokens: int
    tensors: dict[str, Tensor]

    @property
    def positions(self) -> int:
        """How many positions of the decoder it takes; states that stand beside them take none."""
        if "states" in self.tensors:
            return 0
        return max(len(tensor) for tensor in self.tensors.values())

    @property
    def plain(self) -> Tensor | None:
        """[N] int64 token ids of a memory that is the text itself; None of any other."""
        ids = self.tensors.get("ids")
        return None if ids is None else ids.long()

    def to_bytes(self) -> bytes:
        """One safetensors file with the manifest in its header."""
        manifest = {
            "format": FORMAT,
            "producer": json.dumps(asdict(self.producer), sort_keys=True),
            "scope": self.scope,
            "source": self.source,
            "tokens": str(self.tokens),
        }
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self.tensors.items()}
        return save_tensors(tensors, metadata=manifest)

    @staticmethod
    def from_bytes(raw: bytes | np.ndarray, expect: Producer | None = None) -> Memory:
        """Read a memory back, bit for bit.

        Args:
            raw: what `to_bytes` made; of an array ([bytes] uint8, such as of a mapped file) the tensors are views, so
                that nothing of it is copied here. safetensors itself copies whatever it is given as bytes.
            expect: who must have made it.

        Raises:
            IntegrityError: the bytes are not a whole memory file.
            FingerprintMismatch: `expect` is given and another producer made it.
        """
        whole = raw if isinstance(raw, np.ndarray) else np.frombuffer(bytearray(raw), np.uint8)
        header, begin = _header(whole)
        manifest = header.pop("__metadata__")
        try:
            producer = Producer(**json.loads(manifest["producer"]))
            scope: Scope = "document" if manifest["scope"] == "document" else "passage"
            tensors = {name: _tensor(whole[begin:], **entry) for name, entry in header.items()}
            memory = Memory(producer, scope, manifest["source"], int(manifest["tokens"]), tensors)
        except Exception as error:
            raise _corrupt(str(error)) from error
        if expect is not None and producer != expect:
            raise FingerprintMismatch(
                expected=f"a memory made by {expect.method} for base {expect.base[:12]} ({expect.settings})",
                got=f"one made by {producer.method} for base {producer.base[:12]} ({producer.settings})",
                consequence="It was not loaded, because its numbers mean nothing to these weights.",
                remedy="Add the document again, or open the library with the model it was made for.",
            )
        return memory


def _header(raw: np.ndarray) -> tuple[dict[str, Any], int]:
    """What safetensors writes in front, and where the numbers begin."""
    size = int.from_bytes(raw[:8].tobytes(), "little")
    try:
        if not 0 < size <= len(raw) - 8:
            raise ValueError("the header's length lies outside the file")
        header: dict[str, Any] = json.loads(raw[8 : 8 + size].tobytes())
        if header["__metadata__"]["format"] != FORMAT:
            raise ValueError(f"format {header['__metadata__']['format']!r}")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise _corrupt(str(error)) from error
    return header, 8 + size


def _tensor(raw: np.ndarray, dtype: str, shape: Sequence[int], data_offsets: tuple[int, int]) -> Tensor:
    """A view of the bytes that a header's entry names."""
    first, last = data_offsets
    if not 0 <= first <= last <= len(raw):
        raise ValueError("a tensor lies outside the file")
    return torch.from_numpy(raw[first:last]).view(DTYPES[dtype]).view(list(shape))


def _corrupt(reason: str) -> IntegrityError:
    return IntegrityError(
        expected=f"a memory file of format {FORMAT}",
        got=f"bytes that are not one ({reason})",
        consequence="Nothing was loaded.",
        remedy="Add the document again to rebuild its memory.",
    )
