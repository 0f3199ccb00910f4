"""The door that every method goes through.

A `Method` is a description (settings and, where it has them, trained weights). Attached to a decoder it becomes
a `Handle`, which encodes passages, makes prompts and says what can be trained. Detached, the decoder is exactly
what it was. The laws of the door are tested for every method in `tests/contract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from preread.core.errors import UsageError
from preread.core.memory import Memory, Producer
from preread.core.types import Passage, Prompt, Scope, Turn

if TYPE_CHECKING:
    from preread.nn.hf import Decoder
    from preread.nn.sharing import Sharing


class Objective(nn.Module, ABC):
    """What one training stage minimises.

    The parameters that train are those with `requires_grad`; nothing else may change. `forward` is the loss, so that
    a distributed wrapper sees an ordinary module.

    Class attributes:
        batches: which ways of a recipe to read text it takes.
    """

    batches: ClassVar[frozenset[str]] = frozenset({"windows"})

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Loss terms by name, already weighted: the loss is their sum. Each is a scalar."""

    def expect(self, rows: int, window: int) -> None:
        """Refuse windows that this stage learns nothing from.

        Args:
            rows: of a batch.
            window: tokens of each.

        Raises:
            UsageError: they do not suit.
        """

    def share(self, sharing: Sharing) -> None:
        """From here on each process of several is given the same batches, and reads its part of their rows.

        Raises:
            UsageError: this stage cannot.
        """
        raise UsageError(
            expected="sequence_parallel: 1 for this stage",
            got=f"rows shared by {sharing.size} processes",
            consequence="Nothing was trained.",
            remedy="Let each process read rows of its own: set training.sequence_parallel to 1.",
        )

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that this stage trains, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @abstractmethod
    def settle(self) -> None:
        """End training: nothing of it changes any more, and dropout is off."""

    @abstractmethod
    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write what was trained into a folder.

        Args:
            folder: made if it is not there.
            training: how it was trained (recipe, data, tokens, figures), to be kept in the manifest.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Begin with what `save` wrote, in place of what was there.

        Raises:
            IntegrityError: it is damaged.
            UsageError: it has another shape.
        """


class Handle(ABC):
    """A method attached to a decoder.

    Class attributes:
        name: the method's name, as users type it.
        needs: fields of `Prompt` that its prompts may use; an engine must accept them all.
        reads: what a question is put to where the user does not say: all of the best `document`, or its best passages.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    reads: ClassVar[Scope]

    @property
    @abstractmethod
    def scopes(self) -> tuple[Scope, ...]:
        """Which memories a library keeps of each document; a method whose memories cost nothing to make keeps none.

        Passage memories are made independently of one another, so they may be joined, dropped and put in any order; a
        document's memory is one piece.
        """

    @property
    def trained_on(self) -> frozenset[str]:
        """Hashes of the documents that the method's own weights have seen in training, as their manifest says."""
        return frozenset()

    @property
    def alters(self) -> bool:
        """Whether the decoder is another one while this is attached, so that no other method may share it."""
        return False

    def caveats(self, memories: Sequence[Memory]) -> tuple[str, ...]:  # noqa: ARG002
        """What an answer from these memories must say, such as that the method's weights were not trained for them."""
        return ()

    @abstractmethod
    def producer(self, scope: Scope) -> Producer:
        """Who its memories say made them."""

    @abstractmethod
    def encode(self, passages: Iterable[Passage], scope: Scope = "passage") -> Iterator[Memory]:
        """One memory a passage, in order and as they become ready, or one for them all (`document`).

        The input may be longer than the machine's memory: it is read as it is needed.
        """

    @abstractmethod
    def prompt(
        self,
        question: str,
        memories: Sequence[Memory],
        adapter: str | None = None,
        history: Sequence[Turn] = (),
    ) -> Prompt:
        """The positions that put the question to the memories, in the order given, behind the turns before it.

        Among them may be memories that are the text itself (`Memory.plain`): every method reads those as plain tokens.
        """

    @abstractmethod
    def continuation(self, ids: Tensor, memories: Sequence[Memory]) -> Prompt:
        """Bare text that goes on behind the memories, without question or template.

        Args:
            ids: [T] int64, at least one token.
            memories: of what stands before it, in order; with none of them it is the text behind its start token.
        """

    def moving(self, prompt: Prompt, memories: Sequence[Memory]) -> Mapping[int, float]:  # noqa: ARG002
        """Which of a prompt's memories are worth more as text: number -> share of its attention, the largest first.

        Who has their text puts it in their place (as plain memories), and has another prompt made. None by default.
        """
        return {}

    @abstractmethod
    def objective(self, stage: str, **settings: Any) -> Objective:
        """The loss of a training stage.

        Raises:
            UsageError: the method has no such stage.
        """

    @abstractmethod
    def detach(self) -> None:
        """Put the decoder back exactly as it was; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


class Method(ABC):
    """A way for long context to reach a decoder, before it is attached to one."""

    name: ClassVar[str]

    @abstractmethod
    def attach(self, decoder: Decoder) -> Handle:
        """Bind to a decoder.

        Raises:
            FingerprintMismatch: the method's trained weights were made for another decoder.
            UnsupportedModel: the decoder's anatomy does not allow it.
        """


def expect_ratio(ratio: float, remedy: str) -> None:
    """Refuse a ratio that no memory can have.

    Raises:
        UsageError: it is below 1, infinite or no number.
    """
    if not 1 <= ratio < float("inf"):
        raise UsageError("a ratio of at least 1", f"{ratio}", "Nothing was done.", remedy)
