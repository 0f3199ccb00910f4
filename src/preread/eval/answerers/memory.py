"""Memories by any method: all of the document's, or those of the passages that are best for each question.

Where memories stand beside the decoder's positions (`states`), what a task says is near is read there as text; and of
every method's memories, those that it would rather have as text (`Handle.moving`) are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from preread.core.config import build
from preread.core.errors import BeyondTraining, PrereadWarning, UsageError
from preread.core.memory import Memory
from preread.core.method import Handle, Method
from preread.core.types import Passage, Prompt, Scope
from preread.data.passages import split
from preread.eval.answerer import Layout, Prompted
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.case import Case, Item, Stretch, Unfit
from preread.eval.kit import PASSAGE_TOKENS, Kit
from preread.methods import METHODS
from preread.methods.text import Text
from preread.nn.reading import same

STATES_TOKENS = 256
"""Of a piece of running text whose states stand beside the decoder's positions, as in CEPE's protocol."""


@dataclass(frozen=True)
class Remembered(Prompted):
    """Reads what a method made of the context; attached for a case at a time.

    Args:
        method: its name.
        settings: its own, such as `ratio`.
        reads: `whole` is every memory of the document, read in one piece where the method keeps such ones; `passages`
            those that the product's hybrid search finds, in the order of the document (of running text: the passages
            with the best scores).
        passages: how many of those.

    Raises:
        UsageError: no such method or setting, or no passages.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    reads: Literal["whole", "passages"] = "whole"
    passages: int = 5
    kind: ClassVar[str] = "memory"

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.passages < 1:
            raise UsageError(
                expected=f"a method ({', '.join(METHODS)}) and one passage or more",
                got=f"{self.method} and {self.passages}",
                consequence="Nothing was judged.",
                remedy="Correct `method` and `passages` in the recipe.",
            )
        assert self._method  # its settings are refused now, not when its turn comes

    @cached_property
    def _method(self) -> Method:
        method: Method = build(METHODS[self.method], self.settings)
        return method

    @property
    def label(self) -> str:
        """As tables name it: `kv 16x`, `lloco 30x recursive`, `kv 16x, 5 passages`."""
        ratio = getattr(self._method, "ratio", None)
        told = [self.method, *([f"{ratio:g}x"] if ratio else []), *_told(self.settings)]
        return " ".join(told) + (f", {self.passages} passages" if self.reads == "passages" else "")

    def key(self, kit: Kit) -> str:
        """The settings, and who makes the memories: weights of the method and of the decoder."""
        with self._method.attach(kit.decoder) as handle:
            return f"{super().key(kit)} {handle.producer(self._scope(handle)).key}"

    def caveats(self, kit: Kit) -> tuple[str, ...]:
        """What the method says of any memory; what it says of a case's own is warned of there."""
        with self._method.attach(kit.decoder) as handle:
            return handle.caveats(())

    def ready(self, kit: Kit, until: float | None = None) -> bool:  # noqa: ARG002
        """Has the embedder loaded before anything is timed."""
        return self.reads == "whole" or kit.embedder is not None

    def trained_on(self, kit: Kit) -> frozenset[str]:
        """The documents of the method's own weights."""
        with self._method.attach(kit.decoder) as handle:
            return handle.trained_on

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`."""
        with self._method.attach(kit.decoder) as handle:
            near, far = _parted(kit, case, handle) if self.reads == "whole" else ([], kit.passages(case.document))
            passages, memories = [*near, *far], [*_texts(kit, near), *self._encoded(handle, far)]
            chosen: list[Sequence[int]] = [range(len(memories))] * len(items)
            if self.reads == "passages":
                rankings = Retrieved(passages=self.passages).ranked(kit, case, items, self.passages)
                chosen = [sorted(passage.index for passage in own[: self.passages]) for own in rankings]
            warn(handle, [memories[number] for number in max(chosen, key=len, default=[])])
            prompts = [
                _read(kit, handle, partial(handle.prompt, item.question, adapter=adapter), passages, memories, own)
                for item, own in zip(items, chosen, strict=True)
            ]
            prompts = _shared(prompts) if self.reads == "whole" else prompts
            yield Layout(kit.decoder, prompts, stored_bytes(memories))

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`: a memory of the far text, then the near text as it is.

        Raises:
            Unfit: there is no near text to go on from, or no scores to choose passages by.
        """
        if not stretch.near or (self.reads == "passages" and not stretch.scores):
            raise Unfit(
                expected="near text" if not stretch.near else "far text in passages with scores",
                got="none",
                consequence="The row leaves it out.",
                remedy="Choose another task, or whole memories.",
            )
        with self._method.attach(kit.decoder) as handle:
            passages = _pieces(stretch, STATES_TOKENS if "states" in handle.needs else PASSAGE_TOKENS)
            memories = self._encoded(handle, passages)
            chosen: Sequence[int] = range(len(memories))
            if self.reads == "passages":
                chosen = sorted(sorted(chosen, key=lambda number: -stretch.scores[number])[: self.passages])
            warn(handle, [memories[number] for number in chosen])
            make = partial(handle.continuation, torch.tensor(stretch.near))
            prompt = _read(kit, handle, make, passages, memories, chosen)
            yield Layout(kit.decoder, [prompt], stored_bytes(memories))

    def _scope(self, handle: Handle) -> Scope:
        return "document" if self.reads == "whole" and "document" in handle.scopes else "passage"

    def _encoded(self, handle: Handle, passages: Sequence[Passage]) -> list[Memory]:
        """Memories of the passages; none of none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BeyondTraining)  # the handle's caveats say the same with numbers
            return list(handle.encode(passages, self._scope(handle))) if passages else []


def _told(settings: Mapping[str, Any]) -> list[str]:
    """Settings but the ratio, as labels say them."""
    rest = {name: value for name, value in sorted(settings.items()) if name != "ratio"}
    plain = {name: Path(value).name if isinstance(value, str) else f"{name} {value}" for name, value in rest.items()}
    return [name if rest[name] is True else told for name, told in plain.items()]


def _parted(kit: Kit, case: Case, handle: Handle) -> tuple[Sequence[Passage], Sequence[Passage]]:
    """The passages of the sections that stand near, and those of the others, none of which reaches into two."""
    if not case.near or "states" not in handle.needs:
        return [], kit.passages(case.document)
    text = case.document.text
    starts = [mark.start for mark in case.document.marks if mark.kind == "section"][case.near :]
    sections = [text[start:end] for start, end in pairwise([0, *starts, len(text)])]
    near, *far = [
        split(replace(case.document, text=one, marks=()), kit.decoder.tokenizer, PASSAGE_TOKENS) for one in sections
    ]
    return near, list(chain.from_iterable(far))


def _texts(kit: Kit, passages: Sequence[Passage]) -> list[Memory]:
    """The passages as memories that are plain text."""
    return list(Text().attach(kit.decoder).encode(passages))


def _read(
    kit: Kit,
    handle: Handle,
    make: Callable[[Sequence[Memory]], Prompt],
    passages: Sequence[Passage],
    memories: Sequence[Memory],
    chosen: Sequence[int],
) -> Prompt:
    """The prompt that is made of the chosen memories, with those that move as text.

    Args:
        kit: the run's.
        handle: whose memories they are.
        make: a prompt of memories.
        passages: what they were made of.
        memories: all of them.
        chosen: numbers of those that are read.
    """
    read = [memories[number] for number in chosen]
    prompt = make(read)
    moving = [*handle.moving(prompt, read)]
    if not moving:
        return prompt
    for place, text in zip(moving, _texts(kit, [passages[chosen[place]] for place in moving]), strict=True):
        read[place] = text
    return make(read)


def _shared(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts of the same memories, which then hold them once and not once each; states but for those that moved."""
    first = prompts[0]
    shared = [replace(prompt, embeds=first.embeds, kv=first.kv) for prompt in prompts]
    return [replace(one, states=first.states) if same(one.states, first.states) else one for one in shared]


def stored_bytes(memories: Sequence[Memory]) -> int:
    """Bytes that memories take on disk."""
    return sum(len(memory.to_bytes()) for memory in memories)


def warn(handle: Handle, memories: Sequence[Memory]) -> None:
    """Warn of what the method says of these memories and not of any."""
    always = handle.caveats(())
    for note in handle.caveats(memories):
        if note not in always:
            warnings.warn(note, PrereadWarning, stacklevel=2)


def _pieces(stretch: Stretch, tokens: int) -> list[Passage]:
    """The far text as its own passages, or where it is one text as pieces of so many tokens."""
    starts = range(0, len(stretch.far), tokens)
    borders = stretch.passages or [(start, start + tokens) for start in starts]
    return [Passage(stretch.document, i, stretch.far[a:b], 0, 0, "", "", a) for i, (a, b) in enumerate(borders)]
