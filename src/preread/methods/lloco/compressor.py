"""The compressor: a decoder reads a segment and leaves summary embeddings behind it.

Source: AutoCompressor, arXiv 2305.14788, sections 3.1 and 3.2. A segment's input is `[summaries so far ; segment ;
summary tokens]`; the last hidden states at the summary tokens are the segment's summary embeddings.

Where we differ, and why:
- the weights are the frozen decoder's own plus a LoRA that acts only here, so the decoder that answers stays the base;
- the number of summary tokens follows the segment's length and a ratio, so one compressor serves 4x to 32x;
- the states pass through an RMS norm with a learned weight and scale: a model with tied embeddings puts out states
  many times larger than the embeddings it takes in;
- segments may also be read independently of one another (as ICAE does, arXiv 2307.06945), which lets passages be
  joined, dropped and stored one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.types import sha256
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig, compact, digest

_numbers = count()
"""Several compressors may sit on one decoder, so each is attached under a name of its own."""


@dataclass(frozen=True, slots=True)
class CompressorConfig:
    """Shape of a compressor.

    Args:
        max_summary: summary tokens that exist, so the most one segment can have.
        lora: the adapter that the decoder wears while it compresses.
        norm: whether the output norm and scale are there (AutoCompressor's published checkpoints have none).
        start: whether every segment begins with the decoder's start token (theirs do not).
        fixed: whether every segment has all summary tokens, however long it is (theirs do); the ratio then decides
            nothing.
    """

    max_summary: int = 384
    lora: LoraConfig = LoraConfig(rank=16, alpha=32.0, dropout=0.0)
    norm: bool = True
    start: bool = True
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """What a compressor was trained for; zeros for one that was not trained.

    Args:
        segments: most segments read in a row.
        segment_tokens: longest segment.
        positions: most summary embeddings that the decoder read at once.
        ratios: smallest and largest ratio.
        tokens: training tokens seen, epochs included.
        note: what a reader of its results must know.
    """

    segments: int = 0
    segment_tokens: int = 0
    positions: int = 0
    ratios: tuple[float, float] = (0.0, 0.0)
    tokens: int = 0
    note: str = "not trained"


def summary_length(tokens: int, ratio: float) -> int:
    """Summary tokens of a segment: its tokens over the ratio, rounded, and at least one."""
    return max(1, round(tokens / ratio))


class Compressor(nn.Module):
    """Summary-token embeddings, LoRA, output norm and scale, on the weights of one decoder.

    Args:
        decoder: the decoder whose weights it borrows; nothing is attached until `attach`.
        config: its shape.
        trained: what it was trained for.

    Attributes:
        documents: hashes of the documents that it was trained on, as its manifest says.
    """

    def __init__(self, decoder: Decoder, config: CompressorConfig, trained: Trained | None = None) -> None:
        super().__init__()
        self.decoder, self.config, self.trained = decoder, config, trained or Trained()
        self.documents: frozenset[str] = frozenset()
        self.adapter = f"lloco/compressor/{next(_numbers)}"
        self.lora = Lora(config.lora, decoder.projections)
        # Paper, section 3.1: the summary tokens start as the end-of-sequence token.
        end = decoder.embed(torch.tensor([decoder.tokenizer.eos_token_id])).float()
        self.summary_tokens = nn.Parameter(end.repeat(config.max_summary, 1))
        if config.norm:
            # Summaries start at the size of the embeddings that the decoder is used to.
            some = decoder.embed(torch.arange(min(4096, len(decoder.tokenizer)))).float()
            self.weight = nn.Parameter(torch.ones(decoder.width, device=decoder.device))
            self.scale = nn.Parameter(some.pow(2).mean().sqrt())

    def attach(self) -> None:
        """Make the LoRA available to the decoder; it acts only inside `extend`."""
        self.decoder.adapters.add(self.adapter, self.lora)

    def detach(self) -> None:
        """Take the LoRA off the decoder."""
        self.decoder.adapters.remove(self.adapter)

    def extend(self, past: Sequence[Tensor], segments: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Compress one segment of each row.

        Args:
            past: per row [N, D] summary embeddings of the segments before, or [0, D].
            segments: per row [T] int64 token ids; rows may differ in length.
            lengths: per row the number of summary tokens.

        Returns:
            Per row [length, D] summary embeddings in float32.

        Raises:
            UsageError: a segment needs more summary tokens than the compressor has.
        """
        if max(lengths) > self.config.max_summary:
            raise UsageError(
                expected=f"at most {self.config.max_summary} summary tokens a segment",
                got=f"{max(lengths)} (segments of {max(map(len, segments))} tokens)",
                consequence="Nothing was compressed.",
                remedy="Choose a larger ratio or shorter segments.",
            )
        start = self.decoder.embed(self.decoder.start_ids if self.config.start else self.decoder.start_ids[:0])
        heads = [
            torch.cat([start, before.to(start), self.decoder.embed(ids)])
            for before, ids in zip(past, segments, strict=True)
        ]
        rows = [
            torch.cat([head, self.summary_tokens[:length].to(head)])
            for head, length in zip(heads, lengths, strict=True)
        ]
        # Padding stands on the right, where causal attention never looks: no mask, and no row feels its neighbours.
        batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with self.decoder.adapters.use(self.adapter):
            states = self.decoder.hidden(batch)
        return [
            self._norm(states[row, len(head) : len(head) + length].float())
            for row, (head, length) in enumerate(zip(heads, lengths, strict=True))
        ]

    def recursive(
        self, documents: Sequence[Sequence[Tensor]], ratio: float, detach_every: int | None = None
    ) -> list[list[Tensor]]:
        """Read each document's segments in order, every one behind the summaries of those before it.

        Args:
            documents: per document its segments, [T] ids each; documents may have different numbers of them.
            ratio: tokens a summary embedding stands for.
            detach_every: gradients through the recursion stop after this many compressions (paper: 2); None never
                stops them.

        Returns:
            Per document and segment [N, D]. Only what the next segment reads is cut from the graph; the returned
            embeddings keep theirs, so a loss on them trains every segment.
        """
        none = self.summary_tokens.new_zeros((0, self.decoder.width))
        carried = [none for _ in documents]
        summaries: list[list[Tensor]] = [[] for _ in documents]
        for step in range(max(map(len, documents))):
            rows = [row for row, segments in enumerate(documents) if step < len(segments)]
            segments = [documents[row][step] for row in rows]
            made = self.extend(
                [carried[row] for row in rows],
                segments,
                [self.length(len(ids), ratio) for ids in segments],
            )
            for row, summary in zip(rows, made, strict=True):
                summaries[row].append(summary)
                carried[row] = torch.cat([carried[row], summary])
                if detach_every and (step + 1) % detach_every == 0:
                    carried[row] = carried[row].detach()
        return summaries

    def independent(self, documents: Sequence[Sequence[Tensor]], ratio: float) -> list[list[Tensor]]:
        """Read every segment on its own; per document and segment [N, D]."""
        flat = [ids for segments in documents for ids in segments]
        none = self.summary_tokens.new_zeros((0, self.decoder.width))
        made = iter(self.extend([none] * len(flat), flat, [self.length(len(ids), ratio) for ids in flat]))
        return [[next(made) for _ in segments] for segments in documents]

    def length(self, tokens: int, ratio: float) -> int:
        """Summary tokens of a segment."""
        return self.config.max_summary if self.config.fixed else summary_length(tokens, ratio)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of every number of the compressor."""
        shape = asdict(self.config)
        for later, plain in (("start", True), ("fixed", False)):  # a compressor of before they were keeps its hash
            if shape[later] is plain:
                del shape[later]
        return sha256(json.dumps(shape, sort_keys=True), digest(self))

    def save(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Write `compressor.safetensors`, the LoRA in PEFT's layout and `manifest.json`.

        Args:
            folder: made if it is not there.
            manifest: what the caller knows of its training (recipe, data, figures); kept under `training`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        own = {name: compact(p) for name, p in self.named_parameters() if not name.startswith("lora.")}
        save_file(own, folder / "compressor.safetensors", metadata={"format": "pt"})
        self.lora.save(folder)
        record = {
            "kind": "lloco-compressor",
            "weights": self.hash,
            "base": self.decoder.fingerprint,
            "base_name": self.decoder.name,
            "base_note": self.decoder.note,
            "config": asdict(self.config),
            "trained": asdict(self.trained),
            "training": manifest,
        }
        (folder / "manifest.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path, decoder: Decoder) -> Compressor:
        """Read a compressor for this decoder.

        Raises:
            IntegrityError: files are missing or damaged.
            FingerprintMismatch: it was made for other weights.
        """
        try:
            record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            config = dict(record["config"])
            shape = LoraConfig(**{**config.pop("lora"), "targets": tuple(record["config"]["lora"]["targets"])})
            trained = Trained(**{**record["trained"], "ratios": tuple(record["trained"]["ratios"])})
            base, name, weights = record["base"], record["base_name"], record["weights"]
            documents = frozenset(map(str, record.get("training", {}).get("documents", ())))
            own = load_file(folder / "compressor.safetensors")
        except Exception as error:
            raise damaged(folder, f"{type(error).__name__}: {error}") from error
        if base != decoder.fingerprint:
            raise FingerprintMismatch(
                expected=f"a compressor made for {decoder.name} ({decoder.fingerprint[:12]})",
                got=f"one made for {name} ({base[:12]})",
                consequence="It was not loaded, because its summaries mean nothing to these weights.",
                remedy=f"Open {name}, or train a compressor for {decoder.name} with `preread train`.",
            )
        compressor = Compressor(decoder, CompressorConfig(**config, lora=shape), trained)
        lora = {f"lora.{name}": value for name, value in Lora.load(folder, decoder.projections).state_dict().items()}
        try:
            compressor.load_state_dict({**lora, **own})
        except RuntimeError as error:
            raise damaged(folder, str(error)) from error
        if compressor.hash != weights:
            raise damaged(folder, f"weights of hash {compressor.hash[:12]} under a manifest of {weights[:12]}")
        compressor.documents = documents
        return compressor

    def _norm(self, states: Tensor) -> Tensor:
        """[N, D] -> [N, D]: RMS norm, weight and scale."""
        return F.rms_norm(states, states.shape[-1:], self.weight, 1e-6) * self.scale if self.config.norm else states


def damaged(folder: Path, reason: str) -> IntegrityError:
    """The error of a compressor's folder that cannot be read."""
    return IntegrityError(
        expected=f"a compressor in {folder}",
        got=reason,
        consequence="It was not loaded.",
        remedy="Restore the folder, or train the compressor again with `preread train`.",
    )
