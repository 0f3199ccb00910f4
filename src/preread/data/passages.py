"""Documents become passages: consecutive slices of the document's own tokens that end where a thought does.

Laws, for every text and every fast tokenizer: the passages' ids, joined, are the ids of the whole document; their
texts, joined, are its text.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from preread.core.errors import UsageError
from preread.core.types import Document, Passage

# In each, group 1 ends where the paragraph or sentence may be cut, and the white space behind it is as good a place.
PARAGRAPH_END = re.compile(r"(\n[^\S\n]*\n)\s*")
SENTENCE_END = re.compile(r"((?:[.!?…][\"'”’»)\]]*)(?=\s)|[。！？][”’」』]*)\s*")

Offsets = NDArray[np.int64]


def split(document: Document, tokenizer: PreTrainedTokenizerBase, size: int = 240) -> list[Passage]:
    """The document as passages of at most `size` tokens.

    The document is tokenised once, as a whole and without special tokens; what looks like one in the text is
    ordinary text. A passage ends at the last paragraph end in its last quarter, else at the last sentence end there,
    else at `size`. White space that no token covers belongs to the passage before it. Cuts fall between characters:
    a passage is longer than `size` only where a single character has more tokens than that.

    Raises:
        UsageError: `size` is below 1.
    """
    if size < 1:
        raise UsageError(
            expected="a passage size of at least one token",
            got=str(size),
            consequence="The document was not split.",
            remedy="Take the default of 240, or what the method was trained with.",
        )
    encoded = tokenizer(  # verbose: a document is longer than the model's window, and that is no accident
        document.text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids: list[int] = encoded["input_ids"]
    if not ids:
        return []
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64)
    cuts = _cuts(document.text, offsets, size)
    starts = [0, *offsets[cuts[1:-1], 0].tolist(), len(document.text)]
    name = document.hash
    return [
        Passage(
            document=name,
            index=index,
            ids=tuple(ids[first:last]),
            start=start,
            end=end,
            text=document.text[start:end],
            place=document.place(start, end),
            first_token=first,
        )
        for index, (first, last, start, end) in enumerate(
            zip(cuts, cuts[1:], starts, starts[1:], strict=False)  # each list pairs with its own rest
        )
    ]


def _cuts(text: str, offsets: Offsets, size: int) -> list[int]:
    """Numbers of the tokens that begin a passage, then the number of tokens."""
    starts, total = offsets[:, 0], len(offsets)
    # Tokens of one character all span it, so a token begins a character if nothing before it reaches past its start.
    reach = np.maximum.accumulate(offsets[:, 1])
    clean = np.flatnonzero(starts[1:] >= reach[:-1]) + 1
    preferences = [clean[_behind(pattern, text, starts[clean])] for pattern in (PARAGRAPH_END, SENTENCE_END)]
    cuts = [0]
    while total - cuts[-1] > size:
        here = cuts[-1]
        found = (_last(places, here + size - size // 4, here + size) for places in preferences)
        cut = next((place for place in found if place), None) or _last(clean, here + 1, here + size)
        if not cut:  # one character of more than `size` tokens
            after = clean[np.searchsorted(clean, here, side="right") :]
            cut = int(after[0]) if len(after) else total
        cuts.append(cut)
    return cuts if cuts[-1] == total else [*cuts, total]


def _behind(pattern: re.Pattern[str], text: str, places: Offsets) -> NDArray[np.bool_]:
    """Which character offsets lie in the white space behind a match's group 1, or at its end."""
    spans = np.asarray([(0, -1), *((match.end(1), match.end()) for match in pattern.finditer(text))], dtype=np.int64)
    match = np.searchsorted(spans[:, 0], places, side="right") - 1
    found: NDArray[np.bool_] = places <= spans[match, 1]
    return found


def _last(places: Offsets, low: int, high: int) -> int:
    """The last of the sorted places in [low, high], or 0."""
    at = int(np.searchsorted(places, high, side="right")) - 1
    return int(places[at]) if at >= 0 and places[at] >= low else 0
