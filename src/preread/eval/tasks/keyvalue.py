"""Key-value recall: a JSON object of random UUIDs, and the value of one key (arXiv 2307.03172, section 3)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from preread.core.types import Document
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.tasks.haystack import Generated, fitted, some_uuid

LEAST_TOKENS = 20
"""Of a pair of UUIDs in any tokenizer."""


@dataclass(frozen=True)
class KeyValue(Generated):
    """One object a case, read once, and asked for the values at all depths.

    Args:
        depths: share of the pairs before the one that is asked for.
    """

    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    kind: ClassVar[str] = "keyvalue"

    @property
    def label(self) -> str:
        """As tables name it."""
        return "key-value recall"

    @property
    def max_tokens(self) -> int:
        """Room for the key and the value, as the paper gives it."""
        return 100

    def cases(self, kit: Kit, length: int, name: str, draw: random.Random) -> Iterator[Case]:
        """One object of about `length` tokens."""
        pairs = [(some_uuid(draw), some_uuid(draw)) for _ in range(2 + length // LEAST_TOKENS)]
        count = fitted(kit.decoder, lambda n: _json(pairs[:n]), len(pairs), length)
        text = _json(pairs[:count])
        items = [self._item(name, text, pairs[round(depth * (count - 1))], length, depth) for depth in self.depths]
        yield Case(name, Document(name, self.label, text), tuple(items))

    def _item(self, name: str, text: str, pair: tuple[str, str], length: int, depth: float) -> Item:
        key, value = pair
        line = _line(key, value)
        start = text.index(line)
        question = f'Extract the value of this key from the JSON object.\n\nKey: "{key}"\nCorresponding value:'
        at = (("length", length), ("depth", depth))
        evidence = ((start, start + len(line)),)
        return Item(f"{name}-{depth}", question, (value,), evidence=evidence, at=at, query=key)


def _json(pairs: Sequence[tuple[str, str]]) -> str:
    return "{" + ",\n ".join(_line(key, value) for key, value in pairs) + "}"


def _line(key: str, value: str) -> str:
    return f'"{key}": "{value}"'
