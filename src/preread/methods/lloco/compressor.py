"""The compressor: a decoder reads a segment and leaves summary embeddings behind it.

Source: AutoCompressor, arXiv 2305.14788, sections 3.1 and 3.2. A segment's input is `[summaries so far ; segment ;
summary tokens]`; the last hidden states at the summary tokens are the segment's summary embeddings.

Where we differ, and why:
- the weights are the frozen decoder's own plus a LoRA that acts only here, so the decoder that answers stays the base;
- the number of summary tokens follows the segment's length and a ratio, so one compressor serves 4x to 32x;
- the states pass through an RMS norm with a learned weight and scale: a model with tied embeddings puts out states
  many times larger than the embeddings it takes in;
- segments may also be read independently of one another (as ICAE does, arXiv 2307.06945), which lets passages be
  joined, dropped and stored one by one;
- summary tokens are one of three ways (`CompressorConfig.summary`), and the reading may look both ways.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.types import sha256
from preread.methods.lloco.shape import LATER, CompressorConfig, Trained, summary_length
from preread.methods.lloco.summaries import Clauses, anchors, even, pooled
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig, compact, digest

_numbers = count()
"""Several compressors may sit on one decoder, so each is attached under a name of its own."""


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
        if config.summary == "tokens":
            # Paper, section 3.1: the summary tokens start as the end-of-sequence token.
            end = decoder.embed(torch.tensor([decoder.tokenizer.eos_token_id])).float()
            self.summary_tokens = nn.Parameter(end.repeat(config.max_summary, 1))
        else:
            rank, width = config.projection, decoder.width
            self.down = nn.Parameter(torch.randn(width, rank, device=decoder.device) / width**0.5)
            self.up = nn.Parameter(torch.zeros(rank, width, device=decoder.device))
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
        if self.config.summary == "anchored" and not (self.training or self.up.any()):
            kept = self._kept(segments, lengths)  # nothing was learned that could be added: the states are not needed
            return [self.decoder.embed(ids[at]).float() for ids, at in zip(segments, kept, strict=True)]
        start = self.decoder.embed(self.decoder.start_ids if self.config.start else self.decoder.start_ids[:0])
        heads = [
            torch.cat([start, before.to(start), self.decoder.embed(ids)])
            for before, ids in zip(past, segments, strict=True)
        ]
        tails = [self.summary_tokens[:n].to(start) if self._appends else start[:0] for n in lengths]
        rows = [torch.cat([head, tail]) for head, tail in zip(heads, tails, strict=True)]
        # Padding stands on the right, where causal attention never looks: no mask, and no row feels its neighbours.
        both_ways = self.config.attention == "bidirectional"
        mask = self.decoder.open_mask([len(row) for row in rows]) if both_ways else None
        with self.decoder.adapters.use(self.adapter):
            states = self.decoder.hidden(nn.utils.rnn.pad_sequence(rows, batch_first=True), mask)
        if self._appends:
            return [
                self._norm(row[len(head) : len(head) + n].float())
                for row, head, n in zip(states, heads, lengths, strict=True)
            ]
        own = [row[len(head) - len(ids) : len(head)] for row, head, ids in zip(states, heads, segments, strict=True)]
        return self._condensed(own, segments, lengths)

    def _condensed(self, states: Sequence[Tensor], segments: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Summary embeddings [N, D] from each segment's own [T, D] states."""
        if self.config.summary == "pooled":
            means = [pooled(own.float(), even(len(own), n)) for own, n in zip(states, lengths, strict=True)]
            return [self._norm(mean + mean @ self.down @ self.up) for mean in means]
        return [
            self.decoder.embed(ids[at]).float() + self._norm(pooled(own.float(), at)) @ self.down @ self.up
            for own, ids, at in zip(states, segments, self._kept(segments, lengths), strict=True)
        ]

    def _kept(self, segments: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """[N] positions of each segment's anchors."""
        return [
            anchors(surprise, n, self._clauses.split(ids))
            for ids, surprise, n in zip(segments, self._surprise(segments), lengths, strict=True)
        ]

    @torch.no_grad()
    def _surprise(self, segments: Sequence[Tensor]) -> list[Tensor]:
        """[T] nats of each token of each segment behind those before it, for the bare decoder, on the CPU.

        They stand behind the beginning of the chat template. Training reads all at once. Else each is read alone:
        which clauses are kept hangs on small differences, so a memory must not depend on its neighbours.
        """
        framed, shared = self.decoder.frame("")
        found: list[Tensor] = []
        for some in [segments] if self.training else [[ids] for ids in segments]:
            rows = [self.decoder.embed(torch.cat([framed[:shared], ids[:-1]])) for ids in some]
            with self.decoder.adapters.use(None):
                states = self.decoder.hidden(nn.utils.rnn.pad_sequence(rows, batch_first=True))
            for row, ids in zip(states, some, strict=True):
                logits = self.decoder.logits(row[shared - 1 : shared - 1 + len(ids)]).float()
                found.append(F.cross_entropy(logits, ids.to(logits.device), reduction="none").cpu())
        return found

    @cached_property
    def _clauses(self) -> Clauses:
        return Clauses(self.decoder.tokenizer)

    @property
    def _appends(self) -> bool:
        return self.config.summary == "tokens"

    @property
    def nothing(self) -> Tensor:
        """[0, D]: the summary embeddings of no segment."""
        return torch.zeros((0, self.decoder.width), device=self.decoder.device)

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
        carried = [self.nothing for _ in documents]
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
        made = iter(self.extend([self.nothing] * len(flat), flat, [self.length(len(ids), ratio) for ids in flat]))
        return [[next(made) for _ in segments] for segments in documents]

    def length(self, tokens: int, ratio: float) -> int:
        """Summary tokens of a segment."""
        return self.config.max_summary if self.config.fixed else summary_length(tokens, ratio)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of every number of the compressor."""
        shape = asdict(self.config)
        shape.pop("projection")  # it shows in the numbers' shapes
        for later, plain in LATER.items():
            if shape[later] == plain:
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
