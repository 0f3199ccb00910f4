"""No context, and the full text: the two ends that everything else stands between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from preread.core.types import Prompt
from preread.eval.answerer import Layout, Prompted
from preread.eval.case import Case, Item, Stretch
from preread.eval.kit import Kit
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class Nothing(Prompted):
    """The question alone, in the plain chat template; of running text the near part alone."""

    kind: ClassVar[str] = "none"

    @property
    def label(self) -> str:
        """As tables name it."""
        return "no context"

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:  # noqa: ARG002
        """As `Prompted.laid`."""
        yield Layout(kit.decoder, text_prompts(kit.decoder, (), items, adapter))

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`."""
        yield Layout(kit.decoder, [text_lead(kit.decoder, stretch.near)])


@dataclass(frozen=True)
class Full(Prompted):
    """The whole context as plain text; unfit where it is longer than the window."""

    kind: ClassVar[str] = "full"

    @property
    def label(self) -> str:
        """As tables name it."""
        return "full text"

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`."""
        ids = kit.decoder.tokens(case.document.text).tolist()
        yield Layout(kit.decoder, text_prompts(kit.decoder, ids, items, adapter), len(case.document.text.encode()))

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`."""
        yield Layout(kit.decoder, [text_lead(kit.decoder, (*stretch.far, *stretch.near))])


def text_prompts(
    decoder: Decoder, context: Sequence[int], items: Sequence[Item], adapter: str | None = None
) -> list[Prompt]:
    """The items behind token ids of context; none of those is the plain chat template."""
    pieces = [torch.tensor(context, dtype=torch.int64)] if len(context) else []
    framed = [decoder.frame(item.question, pieces) for item in items]
    return [Prompt(ids, adapter=adapter, shared=shared) for ids, shared in framed]


def text_lead(decoder: Decoder, ids: Sequence[int]) -> Prompt:
    """Bare text as the decoder was trained on: its start token, if it has one, then the ids."""
    return Prompt(torch.cat([decoder.start_ids, torch.tensor(ids, dtype=torch.int64)]))
