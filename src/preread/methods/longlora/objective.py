"""The stages of an extension: `extend` on running text, `instruct` on long instructions (arXiv 2309.12307, section 3).

Both are the cross-entropy of some tokens, read at the new length with the attention and the RoPE that the handle has
put in force; they differ in what their batches hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.core.types import PackedBatch, TextBatch
from preread.methods.longlora.attaching import Rows, share
from preread.methods.longlora.extension import Extension
from preread.nn.hf import Decoder
from preread.nn.losses import answer_losses
from preread.nn.sharing import Sharing, Span

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class _Rows:
    """[B, T] tokens, positions, and which tokens count; a mask of ones where gaps in positions part nothing.

    `documents` are the lengths of what is read as one, over all rows.
    """

    ids: Tensor
    positions: Tensor
    judged: Tensor
    mask: Tensor | None
    documents: tuple[int, ...]


class ExtendObjective(Objective):
    """Mean cross-entropy of the judged tokens; the extension trains.

    Args:
        decoder: with the window and the RoPE of the new length.
        extension: what trains, in force already.
        made: what the manifest says beside the training.
        pose: PoSE (arXiv 2309.10400): each training window is read as two chunks with a gap between their positions,
            drawn so that all positions of the new window are met while only the training window is computed.
        finish: undoes, once the training is over, what the handle put in force for it alone.
    """

    batches: ClassVar[frozenset[str]] = frozenset({"windows", "packed"})

    def __init__(
        self,
        decoder: Decoder,
        extension: Extension,
        made: Mapping[str, Any],
        pose: bool,
        finish: Callable[[], object],
    ) -> None:
        super().__init__()
        self.decoder, self.made, self.pose, self.finish = decoder, made, pose, finish
        self.extension = extension.requires_grad_(True)
        self.shared: Rows | None = None
        self.train()

    def train(self, mode: bool = True) -> ExtendObjective:
        """As torch's, for the decoder too: sparse attention and checkpointing act in training only."""
        super().train(mode)
        self.decoder.model.train(mode)
        return self

    def forward(self, batch: TextBatch | PackedBatch) -> dict[str, Tensor]:
        """Loss term `lm`, in nats a token.

        Raises:
            UsageError: `pose` is asked for and the batch is packed, or its windows are longer than the new one.
        """
        rows = self._windows(batch) if isinstance(batch, TextBatch) else self._packed(batch)
        if (longest := int(rows.positions.max()) + 1) > self.decoder.window:
            raise _senseless(f"windows of at most {self.decoder.window} tokens, the new window", str(longest))
        self.extension.refresh()
        device = self.decoder.device
        first, last = self._own(rows)
        states = self.decoder.hidden(
            self.decoder.embed(rows.ids[:, first:last]),
            None if rows.mask is None else rows.mask[:, first:last].to(device),
            rows.positions[:, first:last].to(device),
        )
        # The state before a judged token predicts it; what stands first in a row is never judged.
        # Their places are known here: a mask on the device would make it wait, and one without numbers has none.
        row, place = rows.judged[:, first + 1 : last + 1].nonzero(as_tuple=True)
        predicting = states[row.to(device), place.to(device)]
        targets = rows.ids[row, place + first + 1].to(device)
        if self.shared is None:
            return {"lm": answer_losses(self.decoder.logits, predicting, targets)[0]}
        return {"lm": self._whole(states, predicting, targets, int(rows.judged[:, 1:].sum()))}

    def share(self, sharing: Sharing) -> None:
        """As `Objective.share`."""
        self.shared = share(self.decoder.model, sharing)

    def _own(self, rows: _Rows) -> Span:
        """Which tokens of the rows this process reads; the others' are told of them."""
        length = rows.ids.shape[1]
        if self.shared is None:
            return 0, length
        if length < self.shared.sharing.size:
            raise _senseless(f"rows of at least {self.shared.sharing.size} tokens, one a process", str(length))
        self.shared.documents = rows.documents
        return self.shared.sharing.own(length)

    def _whole(self, states: Tensor, predicting: Tensor, targets: Tensor, judged: int) -> Tensor:
        """The mean over all processes' tokens, whose gradient, averaged over the processes, is the mean's own."""
        assert self.shared is not None, "asked for where rows are shared"
        # A process without any judged token takes part in the backward pass all the same.
        part = states[:, :0].float().sum()
        if len(targets):
            part = part + answer_losses(self.decoder.logits, predicting, targets)[0] * (len(targets) / judged)
        rest = self.shared.sharing.total(part) - self.shared.sharing.size * part
        return self.shared.sharing.size * part + rest.detach()

    def settle(self) -> None:
        """Freeze the extension, rounded as its files hold it; attention is full from here on."""
        self.extension.requires_grad_(False)
        self.eval()
        self.extension.settle()
        self.finish()
        self.shared = None  # what is read from here on every process reads whole

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the extension, and `manifest.json` beside it."""
        self.extension.save(folder)
        before, seen = self.made["trained_on"], training.get("documents", ())
        record = {**self.made, "trained_on": sorted({*before, *seen}), "training": dict(training)}
        (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """As `Objective.load`."""
        before = Extension.load(folder, self.decoder)
        if before.config != self.extension.config:
            raise UsageError(
                expected=f"an extension of the shape {self.extension.config}",
                got=f"{before.config} in {folder}",
                consequence="Nothing was trained.",
                remedy="Keep `settings.extension` as it was, or start afresh.",
            )
        self.extension.load_state_dict(before.state_dict())

    def _windows(self, batch: TextBatch) -> _Rows:
        rows, window = batch.ids.shape
        positions = torch.arange(window).expand(rows, -1)
        if self.pose:
            positions = self._skipping(batch)
        judged = torch.ones_like(batch.ids, dtype=torch.bool)
        judged[:, 0] = False
        return _Rows(batch.ids, positions, judged, torch.ones_like(batch.ids), (window,) * rows)

    def _skipping(self, batch: TextBatch) -> Tensor:
        """[B, T] positions with one gap in each row, its place and its width drawn uniformly."""
        generator = torch.Generator().manual_seed(batch.seed)
        rows, window = batch.ids.shape
        room = max(0, self.decoder.window - window)
        split = torch.randint(1, window, (rows, 1), generator=generator)
        gap = torch.randint(0, room + 1, (rows, 1), generator=generator)
        places = torch.arange(window)
        return places + gap * (places >= split)

    def _packed(self, batch: PackedBatch) -> _Rows:
        if self.pose:
            raise _senseless("batches of windows with `pose`", "packed ones")
        positions = torch.tensor([*chain.from_iterable(map(range, batch.lengths))])
        return _Rows(batch.ids[None], positions[None], batch.judged[None], None, tuple(batch.lengths))


class InstructObjective(ExtendObjective):
    """The same over long instructions, of which the answers are judged."""

    batches: ClassVar[frozenset[str]] = frozenset({"instructions"})


def _senseless(expected: str, got: str) -> UsageError:
    return UsageError(expected, got, "Nothing was trained.", "Correct it in the recipe.")
