"""The door of everything that is compared: a case in, responses out; running text in, losses out.

An answerer is a frozen dataclass of its settings. All share the decoder, greedy decoding and the same engine; they
differ in what the decoder reads. To add one: a class in `answerers/`, and its entry in `answerers/__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from preread.core.types import Prompt
from preread.eval.case import Answers, Case, Item, Losses, Stretch, Unfit, Unit
from preread.eval.kit import Kit
from preread.eval.measuring import losses, respond
from preread.nn.hf import Decoder

if TYPE_CHECKING:  # a task knows answerers
    from preread.eval.task import Task


@dataclass(frozen=True, slots=True)
class Layout:
    """A case as prompts.

    Args:
        decoder: who reads them; the kit's, or a changed view of it.
        prompts: one an item.
        stored_bytes: what is kept of the context for further questions.
    """

    decoder: Decoder
    prompts: Sequence[Prompt]
    stored_bytes: int = 0


class Answerer(ABC):
    """Something that answers, with its settings.

    Class attributes:
        kind: as recipes name it.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def label(self) -> str:
        """As tables name it, settings included: `hybrid 16x`; unique in a recipe."""

    def key(self, kit: Kit) -> str:  # noqa: ARG002 for those whose weights decide too
        """Everything of it that decides its answers; those with weights of their own add the weights' hash."""
        settings = asdict(self)  # type: ignore[call-overload]  # every answerer is a dataclass
        return f"{self.kind} {sorted(settings.items())}"

    def caveats(self, kit: Kit) -> tuple[str, ...]:  # noqa: ARG002
        """What its row must say."""
        return ()

    def trained_on(self, kit: Kit) -> frozenset[str]:  # noqa: ARG002
        """Hashes of the documents that weights of it have seen in training, as their manifests say."""
        return frozenset()

    def on(self, task: Task) -> Answerer:  # noqa: ARG002 for those who learn from the task's own set
        """The answerer as it stands in a task's table; the label of the row stays its own."""
        return self

    def ready(self, kit: Kit, until: float | None = None) -> bool:  # noqa: ARG002
        """Do, with progress, what comes before all judging, such as training; what was done is not done again.

        Args:
            kit: the run's.
            until: when to stop in the middle, as `time.monotonic` has it; the next call goes on from there.

        Returns:
            Whether it can be judged; not where the time was over before.
        """
        return True

    def plainly(self, kit: Kit, unit: Unit) -> tuple[Answerer, int]:  # noqa: ARG002 for those that come down to another
        """The plainest answerer that reads the very same of a unit, so that it need not be done twice.

        Returns:
            That answerer, or itself, and the bytes that this one keeps of the unit's context (0 for itself).
        """
        return self, 0

    @abstractmethod
    def respond(self, kit: Kit, case: Case, max_tokens: int) -> Answers:
        """Answer every item, and judge every reference and choice by likelihood; the context is read once.

        Raises:
            Unfit: it cannot do this case.
        """

    def losses(self, kit: Kit, stretch: Stretch) -> Losses:  # noqa: ARG002
        """Negative log-likelihood of every target token, in one pass.

        Raises:
            Unfit: it cannot do this stretch.
        """
        raise Unfit("an answerer for running text", self.label, "The row is empty.", "Choose another answerer.")


class Prompted(Answerer):
    """An answerer that differs in its prompts alone."""

    @abstractmethod
    def laid(
        self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None
    ) -> AbstractContextManager[Layout]:
        """The items as prompts; what was attached for them is detached behind the block.

        Args:
            kit: the run's.
            case: whose context is read.
            items: what is asked; those of the case, or training questions about its document.
            adapter: name of a LoRA to read them with.

        Raises:
            Unfit: it cannot do this case.
        """

    def respond(self, kit: Kit, case: Case, max_tokens: int) -> Answers:
        """As `Answerer.respond`, by the prompts of `laid`."""
        with self.laid(kit, case, case.items) as layout:
            responses = respond(layout.decoder, layout.prompts, case.items, max_tokens)
        return Answers(tuple(responses), layout.stored_bytes)

    def continued(self, kit: Kit, stretch: Stretch) -> AbstractContextManager[Layout]:  # noqa: ARG002
        """Far and near text as one bare prompt, without a question; the only one of the layout.

        Raises:
            Unfit: it cannot do this stretch.
        """
        raise Unfit("an answerer for running text", self.label, "The row is empty.", "Choose another answerer.")

    def losses(self, kit: Kit, stretch: Stretch) -> Losses:
        """As `Answerer.losses`, by the prompt of `continued`."""
        with self.continued(kit, stretch) as layout:
            [prompt] = layout.prompts
            nats = losses(layout.decoder, prompt, stretch.target)
        return Losses(nats, len(prompt) + len(nats), layout.stored_bytes)
