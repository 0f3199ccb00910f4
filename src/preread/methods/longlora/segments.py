"""Where heads may look in shifted sparse attention: stretches of tokens, the same arithmetic for every backend.

LongLoRA (arXiv 2309.12307, section 3.2) attends in groups of G tokens, and half of the heads in groups that are moved
by G / 2. The authors roll the sequence for it, which shows its end to its beginning; here the moved groups begin with
one of half the size, and nothing is rolled. Groups are counted from the start of each document, so that documents that
are packed into one row, or padded at either side, attend as each would alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from preread.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Segments:
    """Sizes of the stretches, over all rows of a batch one behind the other.

    Args:
        plain: for the first half of the heads.
        moved: for the other half.
    """

    plain: tuple[int, ...]
    moved: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grouping:
    """How documents are divided.

    Args:
        size: G, tokens of a group.
        shifted: whether half of the heads have groups moved by G / 2.
        full_below: longest document that is not divided.

    Raises:
        UsageError: the size is odd or below 2.
    """

    size: int
    shifted: bool
    full_below: int

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise UsageError(
                expected="an even group of at least 2 tokens, half of which the shifted heads begin with",
                got=str(self.size),
                consequence="Nothing was attached.",
                remedy="Choose a quarter of the length that is trained.",
            )

    def segments(self, lengths: Sequence[int]) -> Segments:
        """The stretches of documents of these lengths."""
        plain = [size for length in lengths for size in self._divided(length, self.size)]
        first = self.size // 2 if self.shifted else self.size
        return Segments(tuple(plain), tuple(size for length in lengths for size in self._divided(length, first)))

    def _divided(self, length: int, first: int) -> list[int]:
        if length <= max(self.full_below, first):
            return [length]
        whole, rest = divmod(length - first, self.size)
        return [first, *[self.size] * whole, *([rest] if rest else [])]


def documents(begins: Tensor) -> list[int]:
    """Lengths of the documents of all rows, in order.

    Args:
        begins: [B, T] bool, the first token of each document; a row's first token begins one in any case.
    """
    begins = begins.clone()
    begins[:, 0] = True
    starts = begins.flatten().nonzero().flatten()
    ends = torch.cat([starts[1:], starts.new_tensor([begins.numel()])])
    lengths: list[int] = (ends - starts).tolist()
    return lengths
