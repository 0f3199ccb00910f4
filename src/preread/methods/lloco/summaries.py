"""Where summary embeddings come from without summary tokens: spans of states, and anchors among the tokens.

An anchor is a token of the segment that stands in the memory as itself, with what the compressor adds to it: a memory
that is made of the text's own tokens is read by a decoder that was never trained to read any. Which tokens: whole
clauses, those that surprise the decoder most, because those cannot be guessed back. That surprise tells what to keep is
from Selective Context (Li et al., arXiv 2310.06201, section 3), and so are phrases in place of tokens; ours are the
worth of a clause (its surprise over the root of its length) and that its bounds are punctuation, in any language.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

ENDS = frozenset(".,;:!?\n\u2026\u3002\uff01\uff1f\uff1b\uff0c\u3001\uff1a\u061f\u060c\u061b\u06d4\u0964")
"""Characters that end a clause: Latin, full-width, Arabic and Devanagari stops, commas and the like, and a new line."""
LONGEST = 32
"""Tokens after which a clause ends anyway, as in tables, code and scripts without such characters."""


class Clauses:
    """Cuts tokens into clauses.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ends: dict[int, bool] = {}

    def split(self, ids: Tensor) -> list[range]:
        """The clauses of [T] ids in order, as ranges of their positions."""
        found: list[range] = []
        start = 0
        for at, token in enumerate(ids.tolist()):
            if self._ends_one(token) or at - start == LONGEST - 1 or at == len(ids) - 1:
                found.append(range(start, at + 1))
                start = at + 1
        return found

    def _ends_one(self, token: int) -> bool:
        if token not in self._ends:
            self._ends[token] = not ENDS.isdisjoint(self._tokenizer.decode([token]))
        return self._ends[token]


def anchors(surprise: Tensor, length: int, clauses: list[range]) -> Tensor:
    """Positions of the tokens that a segment is remembered by.

    Args:
        surprise: [T] nats of each of the segment's tokens behind those before it.
        length: N, how many are kept, at most T.
        clauses: of the segment.

    Returns:
        [N] int64, rising: the clauses with the most surprise over the root of their length; of the last one that is
        taken as much of its beginning as there is room for.
    """
    worth = [float(surprise[clause.start : clause.stop].sum()) / len(clause) ** 0.5 for clause in clauses]
    kept: list[int] = []
    for number in sorted(range(len(clauses)), key=lambda i: -worth[i]):
        kept += clauses[number][: length - len(kept)]
    return torch.tensor(sorted(kept))


def even(tokens: int, length: int) -> Tensor:
    """[N] int64: the last position of each of N spans that share T >= N tokens as evenly as can be."""
    return torch.arange(1, length + 1) * tokens // length - 1


def pooled(states: Tensor, lasts: Tensor) -> Tensor:
    """Means of spans of [T, D] states, [N, D]: each goes from behind the one before it to its own last position.

    The last span takes all that follows.
    """
    ends = (lasts + 1).to(states.device)
    ends[-1] = len(states)
    sizes = torch.diff(ends, prepend=ends.new_zeros(1))
    owner = torch.repeat_interleave(torch.arange(len(ends), device=states.device), sizes)
    sums = states.new_zeros(len(ends), states.shape[1]).index_add(0, owner, states)
    return sums / sizes[:, None]
