"""The stages of a reader: cross-entropy of text with its context beside it; the decoder is frozen.

Source: CEPE, arXiv 2402.16617, sections 3.2 and 3.3:

- `copy`, the warm-up: the text is the context itself;
- `lm`, the main stage: the text is what follows the context, and of some batches a part of the context is hidden;
- `distil`, CEPED's: the same with KL to the decoder that reads context and text itself.

Where we differ: the teacher is computed on the spot, its k likeliest tokens and the rest as one, where the authors keep
the 50 likeliest of every position on disk.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.core.types import TextBatch
from preread.methods.cepe.reader import Reader
from preread.nn.beside import Context
from preread.nn.losses import TopK, answer_losses, teach

Part = Literal["gates", "crossings", "encoder"]
HIDDEN, WHOLE = 0.3, 0.1
"""Share of the batches whose context is partly hidden, and of those the share with all of it hidden (the paper's)."""


class ReaderObjective(Objective):
    """A stage that trains some parts of a reader, and whose result is the reader.

    Args:
        reader: what trains.
        finish: undoes, once the training is over, what the handle put in force for it alone.
        trains: which parts: `gates`, the numbers that heads are multiplied by; `crossings`, all else of the
            cross-attention and the order of chunks; `encoder`.

    Raises:
        UsageError: nothing trains, or something that the reader does not have.
    """

    def __init__(self, reader: Reader, finish: Callable[[], object], trains: tuple[Part, ...]) -> None:
        super().__init__()
        self.reader, self.finish = reader, finish
        if unknown := [part for part in trains if part not in get_args(Part)]:
            raise senseless(f"parts out of {', '.join(get_args(Part))}, in `trains`", ", ".join(unknown))
        reader.float().requires_grad_(False)
        for part in trains:
            for parameter in _parameters(reader, part):
                parameter.requires_grad_(True)
        if not self.trainable():
            raise senseless("parts that this reader has, in `trains`", ", ".join(trains) or "none")
        self.train()

    @abstractmethod
    def attended(self, window: int) -> int:
        """States that a row of a window attends to; 0 where the decoder has no part."""

    def settle(self) -> None:
        """As `Reader.settle`."""
        self.reader.settle()
        self.eval()
        self.finish()

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the reader with what it was trained for."""
        before, reader = self.reader.trained, self.reader
        tokens = before.tokens + int(training.get("tokens", 0))
        states = self.attended(int(training.get("window", 0)))
        note = "" if states else before.note
        reader.trained = replace(before, states=max(before.states, states), tokens=tokens, note=note)
        reader.documents = frozenset({*reader.documents, *training.get("documents", ())})
        reader.save(folder, {**training, "documents": sorted(reader.documents)})

    def load(self, folder: Path) -> None:
        """As `Objective.load`."""
        before = Reader.load(folder, self.reader.decoder)
        if before.config != self.reader.config:
            raise UsageError(
                expected=f"a reader of the shape {self.reader.config}",
                got=f"{before.config} in {folder}",
                consequence="Nothing was trained.",
                remedy="Keep `settings.shape` as it was, or start afresh.",
            )
        self.reader.load_state_dict(before.state_dict())
        self.reader.trained, self.reader.documents = before.trained, before.documents


class ReadObjective(ReaderObjective):
    """Loss term `lm`: the text behind its context.

    Args:
        reader: what trains.
        finish: as `ReaderObjective`'s.
        near: tokens at the end of each window that the decoder reads itself; those before are the context.
        trains: which parts.
        hidden: share of the batches of whose context a part cannot be seen.

    Raises:
        UsageError: as `ReaderObjective`.
    """

    term: ClassVar[str] = "lm"

    def __init__(
        self,
        reader: Reader,
        finish: Callable[[], object],
        near: int = 512,
        trains: tuple[Part, ...] = get_args(Part),
        hidden: float = HIDDEN,
    ) -> None:
        super().__init__(reader, finish, trains)
        self.near, self.hidden = near, hidden

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Loss terms by name.

        Raises:
            UsageError: as `expect`.
        """
        context, text = self._divided(batch.ids)
        return {self.term: self._losses(self._states(list(context), batch.seed), text)[0]}

    def expect(self, rows: int, window: int) -> None:  # noqa: ARG002 - for other stages
        """As `Objective.expect`: refuse windows that hold no context."""
        if not 1 < self.near < window:
            raise senseless(f"`near` from 2 to below the window of {window}", str(self.near))

    def attended(self, window: int) -> int:
        """All that stands before `near`."""
        return window - self.near

    def _divided(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] windows as context [B, N] and text [B, T - N]."""
        self.expect(*ids.shape)
        return ids[:, : -self.near], ids[:, -self.near :]

    def _states(self, contexts: Sequence[Tensor], seed: int) -> Context:
        """The encoder's states of each row's chunks, of which some cannot be seen."""
        chunks = [torch.split(row, self.reader.encoder.chunk) for row in contexts]
        states = iter(self.reader.encoder([chunk for row in chunks for chunk in row]))
        joined = [self.reader.joined([next(states) for _ in row]) for row in chunks]
        together = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True)
        return Context(together, self._seen([len(row) for row in joined], seed, together.device))

    def _seen(self, counts: Sequence[int], seed: int, device: torch.device) -> Tensor | None:
        """[B, N], False for the suffix of a row that is hidden or only fills it up; None where there is no such."""
        generator = torch.Generator().manual_seed(seed)
        hides, whole, share = (torch.rand(len(counts), generator=generator) for _ in range(3))
        own = torch.tensor(counts)
        shown = torch.where(hides < self.hidden, torch.where(whole < WHOLE, 0.0, share * own).long(), own)
        most = max(counts)
        if bool((shown == most).all()):
            return None
        return (torch.arange(most) < shown[:, None]).to(device)

    def _losses(self, context: Context, text: Tensor, taught: TopK | None = None) -> tuple[Tensor, Tensor]:
        """Cross-entropy and KL of [B, T] text with the context beside it, over all that stands behind something."""
        decoder = self.reader.decoder
        with decoder.adapters.use(None), decoder.beside.use({self.reader.crossings.name: context}):
            states = decoder.hidden(decoder.embed(self._led(text)))
        return answer_losses(decoder.logits, self._predicting(states, text), self._judged(text).flatten(), taught)

    def _led(self, text: Tensor) -> Tensor:
        """[B, lead + T]: behind the decoder's start token, as a prompt is."""
        return torch.cat([self.reader.decoder.start_ids.expand(len(text), -1), text], 1)

    def _judged(self, text: Tensor) -> Tensor:
        """[B, T'] the tokens that something predicts: all but the first where nothing leads."""
        return text[:, 1 - min(1, len(self.reader.decoder.start_ids)) :].to(self.reader.decoder.device)

    def _predicting(self, states: Tensor, text: Tensor) -> Tensor:
        """[B * T', D] the states before the judged tokens, of the states of rows that end with the text."""
        return states[:, -self._judged(text).shape[1] - 1 : -1].flatten(0, 1)


class CopyObjective(ReadObjective):
    """Loss term `copy`: the last `near` tokens of a window, with themselves beside them."""

    term: ClassVar[str] = "copy"

    def expect(self, rows: int, window: int) -> None:
        """Windows of any size: the text is its own context."""

    def attended(self, window: int) -> int:
        """The text itself."""
        return min(self.near, window)

    def _divided(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        text = ids[:, -self.near :]
        return text, text


class DistilObjective(ReadObjective):
    """Loss terms `lm` and `distil`, KL to the decoder that reads the whole window (CEPED: cross-entropy + 2 KL).

    Args:
        weight: of the KL.
        top_k: how much of the teacher's distribution is used.
        strange: share of the rows beside which the context of another row stands, and whose teacher reads the text
            alone: that what has nothing to do with a text is to change nothing. Ours, not the paper's.

    Raises:
        UsageError: as `ReadObjective`; or `strange` is no share.
    """

    def __init__(
        self,
        reader: Reader,
        finish: Callable[[], object],
        weight: float = 2.0,
        top_k: int = 50,
        strange: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(reader, finish, **settings)
        if not 0 <= strange <= 1:
            raise senseless("`strange` from 0 to 1", str(strange))
        self.weight, self.top_k, self.strange = weight, top_k, strange

    def expect(self, rows: int, window: int) -> None:
        """As `Objective.expect`: refuse windows that hold no context, or none of another row to take."""
        super().expect(rows, window)
        if self.strange and rows < 2:
            raise senseless("`rows` of 2 or more where `strange` is above 0", str(rows))

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Loss terms by name.

        Raises:
            UsageError: as `expect`.
        """
        context, text = self._divided(batch.ids)
        draw = torch.Generator().manual_seed(batch.seed + 1)  # not what hides contexts
        strange = torch.rand(len(text), generator=draw) < self.strange
        beside = torch.where(strange[:, None].to(context.device), context.roll(1, 0), context)
        taught = self._taught(batch.ids, text, strange)
        lm, distil = self._losses(self._states(list(beside), batch.seed), text, taught)
        return {"lm": lm, "distil": self.weight * distil}

    @torch.no_grad()
    def _taught(self, ids: Tensor, text: Tensor, strange: Tensor) -> TopK:
        """What the decoder says behind each judged token, reading the whole window, or a strange row's text alone."""
        decoder, predicting = self.reader.decoder, []
        with decoder.adapters.use(None), decoder.beside.use({}):
            for window, own, alone in zip(ids, text, strange, strict=True):  # one by one, being of two lengths
                states = decoder.hidden(decoder.embed(self._led((own if alone else window)[None])))
                predicting.append(self._predicting(states, own[None]))
        return teach(decoder.logits, torch.cat(predicting), self.top_k)


def _parameters(reader: Reader, part: Part) -> list[torch.nn.Parameter]:
    named = dict(reader.named_parameters())
    if part == "encoder":
        return [value for name, value in named.items() if name.startswith("encoder.")]
    gates = {name for name in named if name.endswith(".gate")}
    if part == "gates":
        return [named[name] for name in sorted(gates)]
    return [value for name, value in named.items() if name not in gates and not name.startswith("encoder.")]


def senseless(expected: str, got: str) -> UsageError:
    """The error of settings that make no training."""
    return UsageError(expected, got, "Nothing was trained.", "Correct `objective` in the recipe.")
