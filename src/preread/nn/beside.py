"""What rows attend to beside their own positions: the states of an encoder, for cross-attention in a decoder's layers.

Who reads a prompt says here what stands beside it; the modules that a method has put into the layers look here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.core.types import Prompt


@dataclass(frozen=True, slots=True)
class Context:
    """What the rows of a batch may attend to.

    Args:
        states: [B, N, S]; one row of them stands for all rows of the batch.
        valid: [B, N] bool, False for what only fills rows up; None where nothing does.
    """

    states: Tensor
    valid: Tensor | None = None

    def of(self, rows: Tensor) -> Context:
        """The context of other rows, each that of the row with its number here, [B'] int64."""
        return Context(self.states[rows], None if self.valid is None else self.valid[rows])


class Beside:
    """The contexts in force on one decoder, by the name of the cross-attention that reads them.

    Args:
        turn: held by whoever uses the decoder; a block of another thread waits for it.

    Attributes:
        turn: as given.
        readers: names of the cross-attentions that are attached.
        contexts: what they read now.
    """

    def __init__(self, turn: threading.RLock) -> None:
        self.readers: set[str] = set()
        self.contexts: Mapping[str, Context] = {}
        self.turn = turn
        self._latest: tuple[tuple[Tensor | None, ...], Context] | None = None

    @contextmanager
    def use(self, contexts: Mapping[str, Context]) -> Iterator[None]:
        """Inside the block, each reader attends to its context."""
        with self.turn:
            before, self.contexts = self.contexts, contexts
            try:
                yield
            finally:
                self.contexts = before

    @contextmanager
    def reading(self, prompts: Sequence[Prompt], device: torch.device) -> Iterator[None]:
        """Inside the block, each row of a batch attends to its prompt's states.

        Args:
            prompts: one for each row; a single one stands for all rows.
            device: where the rows are.

        Raises:
            UsageError: as `require`.
        """
        names = {prompt.reader for prompt in prompts if prompt.reader is not None}
        with self.turn:  # nobody else's rows are joined meanwhile
            for prompt in prompts:
                self.require(prompt)
            with self.use({name: self._context(_of(name, prompts), device) for name in names}):
                yield

    def require(self, prompt: Prompt) -> None:
        """Refuse states that nothing here reads.

        Raises:
            UsageError: the prompt's reader is not attached.
        """
        if prompt.reader is not None and prompt.reader not in self.readers:
            attached = ", ".join(sorted(self.readers)) or "none is"
            raise UsageError(
                expected=f"a prompt for cross-attention that is attached ({attached})",
                got=f"states for {prompt.reader}",
                consequence="Nothing was computed: the states would not be seen.",
                remedy="Attach the method that made the prompt.",
            )

    def release(self) -> None:
        """Let go of the states that the latest rows attended to."""
        self._latest = None

    def _context(self, rows: tuple[Tensor | None, ...], device: torch.device) -> Context:
        """The rows' states side by side; the same tensors again, as in decoding, are not joined again."""
        latest = self._latest  # once: `release` waits for nobody
        if latest is not None and _same(latest[0], rows) and _usable(latest[1].states):
            return latest[1]
        made = _joined(rows, device)
        self._latest = None if made.states.requires_grad else (rows, made)
        return made


def _of(name: str, prompts: Sequence[Prompt]) -> tuple[Tensor | None, ...]:
    return tuple(prompt.states if prompt.reader == name else None for prompt in prompts)


def _same(one: tuple[Tensor | None, ...], other: tuple[Tensor | None, ...]) -> bool:
    return len(one) == len(other) and all(mine is theirs for mine, theirs in zip(one, other, strict=True))


def _usable(states: Tensor) -> bool:
    """Whether they may be read here: what inference has made, no gradient may pass."""
    return torch.is_inference_mode_enabled() or not states.is_inference()


def _joined(rows: tuple[Tensor | None, ...], device: torch.device) -> Context:
    first = next(row for row in rows if row is not None)
    if all(row is first for row in rows):
        return Context(first[None].to(device))
    filled = [first[:0] if row is None else row for row in rows]
    lengths = torch.tensor([len(row) for row in filled])
    states = torch.nn.utils.rnn.pad_sequence(filled, batch_first=True).to(device)
    return Context(states, (torch.arange(states.shape[1]) < lengths[:, None]).to(device))
