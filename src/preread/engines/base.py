"""What an engine is: prompts in, pieces of text out as they are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from preread.core.errors import EngineMismatch
from preread.core.types import Prompt, Sampling

Finish = Literal["stop", "length", "cancelled"]

ACCEPTED: Mapping[str, frozenset[str]] = {"local": frozenset({"ids", "embeds", "kv", "states", "adapter"})}
"""Fields of `Prompt` that each engine accepts, by the engine's name."""


@dataclass(frozen=True, slots=True)
class Event:
    """One more token of one row.

    Args:
        row: number of the prompt in the call.
        text: what the token adds to the text: whole characters only, and empty while it may belong to a stop string.
        tokens: how many tokens the row has written, the end token not counted.
        first_token_s: seconds from the call to the row's first token; 0 before there is one.
        per_token_s: mean seconds of each further token.
        finish: why the row ended, on its last event alone.
    """

    row: int
    text: str
    tokens: int
    first_token_s: float
    per_token_s: float
    finish: Finish | None = None


class Engine(ABC):
    """Writes the answers to prompts.

    Class attributes:
        name: as users type it.
        accepts: fields of `Prompt` it can read.
    """

    name: ClassVar[str]
    accepts: ClassVar[frozenset[str]]

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Write every row; an event a token, rows interleaved as they come.

        A row's text depends on its own prompt and sampling alone. Closing the iterator stops the work.

        Args:
            prompts: what to read.
            sampling: one for all rows or one for each; None is the default, greedy.
            cancelled: asked between tokens; once it is true every unfinished row ends as `cancelled`.

        Raises:
            EngineMismatch: a prompt uses a field that the engine does not accept.
            UsageError: an empty prompt, an unknown adapter or a senseless sampling.
            WindowExceeded: a prompt and its `max_tokens` do not fit the decoder's window.
            IntegrityError: the embeddings of a prompt are not finite.
        """

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[Event]:
        """The last event of each row, in the order of the prompts, with the row's whole text; raises as `generate`."""
        done: dict[int, Event] = {}
        for event in self.generate(prompts, sampling, cancelled):
            before = done[event.row].text if event.row in done else ""
            done[event.row] = replace(event, text=before + event.text)
        return [done[row] for row in range(len(prompts))]


def check(needs: frozenset[str], engine: Engine) -> None:
    """Hold what a method's prompts use against what an engine accepts.

    Raises:
        EngineMismatch: something is not accepted; the message names an engine that would do.
    """
    missing = needs - engine.accepts
    if not missing:
        return
    fit = [name for name, accepted in ACCEPTED.items() if needs <= accepted]
    raise EngineMismatch(
        expected=f"an engine that accepts {', '.join(sorted(needs))}",
        got=f"{engine.name}, which does not accept {', '.join(sorted(missing))}",
        consequence="Nothing was computed.",
        remedy=f"Use the engine {' or '.join(fit)}." if fit else "No engine accepts them: choose another method.",
    )
