"""The control of every answerer: it reads another document of the same task, and must gain nothing by it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from preread.eval.answerer import Answerer
from preread.eval.case import Answers, Case, Losses, Stretch, Unfit
from preread.eval.kit import Kit

if TYPE_CHECKING:  # a task knows answerers
    from preread.eval.task import Task


@dataclass(frozen=True)
class Other(Answerer):
    """Another answerer on another document; the questions, and what is near in running text, stay their own.

    Args:
        of: the other answerer's `kind` and settings.
    """

    of: dict[str, Any]
    kind: ClassVar[str] = "other"

    def __post_init__(self) -> None:
        assert self.inner  # its settings are refused now, not when its turn comes

    @cached_property
    def inner(self) -> Answerer:
        """The other answerer.

        Raises:
            UsageError: an unknown kind or setting.
        """
        from preread.eval.answerers import ANSWERERS  # which names this one too
        from preread.eval.recipe import built

        return built(ANSWERERS, self.of, "answerer")

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self.inner.label}, another document's"

    def key(self, kit: Kit) -> str:
        """The other answerer's; which document it reads is a part of the unit's."""
        return f"{self.kind} {self.inner.key(kit)}"

    def caveats(self, kit: Kit) -> tuple[str, ...]:
        """The other answerer's."""
        return self.inner.caveats(kit)

    def trained_on(self, kit: Kit) -> frozenset[str]:
        """The other answerer's."""
        return self.inner.trained_on(kit)

    def on(self, task: Task) -> Answerer:
        """With the other answerer as it stands in the task's table."""
        inner = self.inner.on(task)
        return self if inner is self.inner else replace(self, of={"kind": inner.kind, **asdict(inner)})  # type: ignore[call-overload]  # every answerer is a dataclass

    def ready(self, kit: Kit, until: float | None = None) -> bool:
        """The other answerer's."""
        return self.inner.ready(kit, until)

    def respond(self, kit: Kit, case: Case, max_tokens: int) -> Answers:
        """As `Answerer.respond`.

        Raises:
            Unfit: the task has no other document, or as the other answerer says.
        """
        if case.other is None:
            raise _alone("document")
        return self.inner.respond(kit, replace(case, document=case.other), max_tokens)

    def losses(self, kit: Kit, stretch: Stretch) -> Losses:
        """As `Answerer.losses`, with the far text of another document.

        Raises:
            Unfit: the task has no other document or no far text, or as the other answerer says.
        """
        if stretch.other is None or not stretch.other.far:
            raise _alone("document with far text")
        other = stretch.other
        return self.inner.losses(kit, replace(stretch, far=other.far, passages=other.passages, scores=other.scores))


def _alone(what: str) -> Unfit:
    return Unfit(f"another {what} in the task", "none", "The row leaves it out.", "Take more documents.")
