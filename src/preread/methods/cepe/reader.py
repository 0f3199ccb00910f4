"""All that reads beside the decoder, as one thing to train, keep and attach: encoder, order of chunks, cross-attention.

Source: CEPE, arXiv 2402.16617, section 3. Theirs knows no order of chunks; ours may add a learned vector to the states
of a chunk, by how many chunks stand between it and the decoder's own text, as an addition leaves both ways of attending
exact (`crossing`). SharedLLM (arXiv 2410.19318) measured a small gain of positions for chunks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preread.core.config import build
from preread.core.errors import FingerprintMismatch, IntegrityError, PrereadError, UsageError
from preread.core.types import sha256
from preread.methods.cepe.attaching import Begin, Crossings
from preread.methods.cepe.borrowed import BorrowedConfig, BorrowedEncoder
from preread.methods.cepe.encoder import ContextEncoder, Encoder, EncoderConfig
from preread.methods.cepe.own import OwnEncoder, OwnEncoderConfig
from preread.models.cache import file_sha256
from preread.nn.hf import Decoder
from preread.nn.lora import compact, digest

MANIFEST, KIND, BORROWED = "manifest.json", "cepe-reader", "borrowed"
KINDS = frozenset({"own", "borrowed"})
"""Other encoders than the decoder's bottom."""
FILES = {"encoder": ("encoder.",), "crossings": ("crossings.", "order")}
"""What is in which file, by how its tensors' names begin: parts may be large, and stay apart."""


@dataclass(frozen=True)
class ReaderConfig:
    """Shape of a reader.

    Args:
        encoder: of the context encoder, where it is the decoder's bottom.
        own: of a context encoder of its own, as in the paper, which then is the one; `encoder` says nothing.
        borrowed: an encoder from Hugging Face, which then is the one.
        layers: of the decoder that attend to its states, counted from 0; None is all, as in the paper.
        begin: as what the cross-attention begins (`Crossings`).
        order: chunks, counted back from the decoder's text, that have a vector of their own for their place; those
            further away share the last one. 0 marks no order, as in the paper.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    own: OwnEncoderConfig | None = None
    borrowed: BorrowedConfig | None = None
    layers: tuple[int, ...] | None = None
    begin: Begin = "gated"
    order: int = 0

    def __post_init__(self) -> None:
        if self.own and self.borrowed:
            raise UsageError(
                expected="one context encoder, `own` or `borrowed`",
                got="both",
                consequence="Nothing was attached.",
                remedy="Leave one of them out of `shape`.",
            )


@dataclass(frozen=True)
class Trained:
    """What a reader was trained for; zeros for one that was not trained.

    Args:
        states: most states that one row attended to.
        tokens: training tokens seen, epochs included.
        note: what a reader of its results must know.
    """

    states: int = 0
    tokens: int = 0
    note: str = "not trained: the decoder does not see the context"


class Reader(nn.Module):
    """An encoder, the order of its chunks and cross-attention in a decoder's layers; float32 until `settle`.

    Args:
        decoder: whose weights it borrows; nothing is attached until `attach`.
        config: its shape.
        trained: what it was trained for.
        folder: that `save` wrote, where it is read from one.

    Attributes:
        documents: hashes of the documents that it was trained on.

    Raises:
        UsageError: the decoder has no such layers.
        UnsupportedModel: its layers are built otherwise.
    """

    def __init__(
        self, decoder: Decoder, config: ReaderConfig, trained: Trained | None = None, folder: Path | None = None
    ) -> None:
        super().__init__()
        self.decoder, self.config, self.trained = decoder, config, trained or Trained()
        self.documents: frozenset[str] = frozenset()
        self.encoder = _encoder(decoder, config, folder)
        self.crossings = Crossings(decoder, self.encoder.width, config.layers, config.begin)
        self.order = nn.Parameter(torch.zeros(config.order, self.encoder.width, device=decoder.device))

    @property
    def hash(self) -> str:
        """Hex SHA-256 of its shape and of every number of it."""
        shape = {name: value for name, value in asdict(self.config).items() if name not in KINDS or value}
        if self.config.borrowed:
            del shape["borrowed"]["name"]  # wherever it came from: its weights are here
        return sha256(json.dumps(shape, sort_keys=True), digest(self))  # with the usual encoder as ever

    def attach(self) -> None:
        """Put it on the decoder."""
        self.encoder.attach()
        self.crossings.attach()

    def detach(self) -> None:
        """The decoder is what it was; a second call does nothing."""
        self.encoder.detach()
        self.crossings.detach()

    def joined(self, chunks: Sequence[Tensor]) -> Tensor:
        """[N, S] of chunks in reading order, each [N_i, S] with what marks its place; [0, S] of none."""
        if not chunks:
            return self.order.new_zeros(0, self.encoder.width)
        together = torch.cat(list(chunks))
        if not self.config.order:
            return together
        away = torch.arange(len(chunks) - 1, -1, -1).clamp_max(self.config.order - 1)
        places = away.repeat_interleave(torch.tensor([len(chunk) for chunk in chunks]))
        return together + self.order.to(together)[places.to(together.device)]

    def round_to(self, dtype: torch.dtype) -> None:
        """Compute in a dtype; what turns positions stays in float32."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)

    def settle(self) -> None:
        """Round it as its file holds it, in bfloat16, and let nothing of it train."""
        self.requires_grad_(False).eval()
        for parameter in self.parameters():
            parameter.copy_(parameter.bfloat16())

    def save(self, folder: Path, training: dict[str, Any]) -> None:
        """Write what was added to the decoder, `encoder.safetensors` and `crossings.safetensors`, and `manifest.json`.

        Args:
            folder: made if it is not there.
            training: what the caller knows of its training (recipe, data, figures).
        """
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.encoder, BorrowedEncoder):
            self.encoder.keep(folder / BORROWED)
        tensors = {name: compact(parameter) for name, parameter in self.named_parameters()}
        for part, begins in FILES.items():
            own = {name: tensor for name, tensor in tensors.items() if name.startswith(begins)}
            save_file(own, folder / f"{part}.safetensors", metadata={"format": "pt"})
        record = {
            "kind": KIND,
            "weights": self.hash,
            "base": self.decoder.fingerprint,
            "base_name": self.decoder.name,
            "base_note": self.decoder.note,
            "config": asdict(self.config),
            "trained": asdict(self.trained),
            "training": training,
            "files": {file.name: file_sha256(file) for file in sorted((folder / BORROWED).glob("*"))},
        }
        (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path, decoder: Decoder) -> Reader:
        """Read one for this decoder; it is not attached.

        Raises:
            IntegrityError: files are missing or damaged.
            FingerprintMismatch: it was made for other weights.
        """
        try:
            record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            config, trained = build(ReaderConfig, record["config"]), build(Trained, record["trained"])
            base, name, weights = record["base"], record["base_name"], record["weights"]
            documents = frozenset(map(str, record["training"].get("documents", ())))
            parts = [load_file(folder / f"{part}.safetensors") for part in FILES]
            tensors = {name: tensor for part in parts for name, tensor in part.items()}
            for file, said in record.get("files", {}).items():  # what reads text by the weights, and is none of them
                if file_sha256(folder / BORROWED / file) != said:
                    raise ValueError(f"{file} is not the one that was saved")
        except Exception as error:
            raise damaged(folder, f"{type(error).__name__}: {error}") from error
        if base != decoder.fingerprint:
            raise FingerprintMismatch(
                expected=f"a reader made for {decoder.name} ({decoder.fingerprint[:12]})",
                got=f"one made for {name} ({base[:12]}) in {folder}",
                consequence="It was not loaded, because its states mean nothing to these weights.",
                remedy="Open the decoder that it was made for, or train one for this: preread train cepe RECIPE",
            )
        try:
            reader = Reader(decoder, config, trained, folder)
            reader.load_state_dict(tensors)
        except (PrereadError, RuntimeError) as error:
            raise damaged(folder, str(error)) from error
        if reader.hash != weights:
            raise damaged(folder, f"weights of hash {reader.hash[:12]} under a manifest of {weights[:12]}")
        reader.documents = documents
        return reader


def _encoder(decoder: Decoder, config: ReaderConfig, folder: Path | None) -> Encoder:
    """The context encoder of a reader, which may be kept in a folder."""
    if config.borrowed:
        return BorrowedEncoder(decoder, config.borrowed, folder and folder / BORROWED)
    return OwnEncoder(decoder, config.own) if config.own else ContextEncoder(decoder, config.encoder)


def damaged(folder: Path, reason: str) -> IntegrityError:
    """The error of a reader's folder that cannot be read."""
    return IntegrityError(
        expected=f"a reader, as `preread train cepe` leaves one, in {folder}",
        got=reason,
        consequence="It was not loaded.",
        remedy="Train it again, or name another folder.",
    )
