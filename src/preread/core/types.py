"""Document -> Passage -> Memory -> Prompt: the nouns that everything else is made of (`core/answer.py` has the last).

Shape letters, used in every docstring and suffix of the project:

    B  rows of a batch              D  width of the decoder's residual stream
    T  positions of a sequence      H  query heads         K  key/value heads
    N  rows (vectors) of a memory   E  width of one head   V  vocabulary
    S  segments of a document       L  layers              R  rank of a LoRA
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # documents are read where no model library is loaded
    from torch import Tensor

MEMORY = -1
"""The id that marks a position of a prompt which an embedding fills instead of a token."""

Scope = Literal["passage", "document"]
"""What one memory was made of: one passage on its own, or a whole document read in order."""


def sha256(*parts: bytes | str) -> str:
    """Hex SHA-256 of the parts, each preceded by its length so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """What a manifest names a document by that something was trained on: 16 hex digits, of its words alone.

    Neither its title, its pages nor how its lines break change it.
    """
    return sha256(" ".join(text.split()))[:16]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a page or a section begins.

    Args:
        start: character offset in the document's text.
        kind: `page` or `section`.
        label: the page's number or the section's heading.
    """

    start: int
    kind: Literal["page", "section"]
    label: str


@dataclass(frozen=True, slots=True)
class Document:
    """Text with its pages or sections, and where it came from.

    Args:
        source: path or address it was read from, as the user would recognise it.
        title: a name to show.
        text: the plain text; every offset in the project counts its characters.
        marks: pages or sections in order of `start`.
    """

    source: str
    title: str
    text: str
    marks: tuple[Mark, ...] = ()

    @property
    def hash(self) -> str:
        """Hex SHA-256 of everything an answer could show of the document."""
        marks = "\n".join(f"{m.start} {m.kind} {m.label}" for m in self.marks)
        return sha256(self.title, self.text, marks)

    def place(self, start: int, end: int | None = None) -> str:
        """Where characters stand, for a citation: `page 3`, `pages 3-4`, `section "Storage"`, or an empty string.

        Args:
            start: the first character.
            end: one past the last; None is one character.
        """
        last = max(start, (end or start + 1) - 1)
        here = [mark for mark in self.marks if mark.start <= start][-1:]
        here += [mark for mark in self.marks if start < mark.start <= last]
        if not here:
            return ""
        first, final = here[0], here[-1]
        if first.kind == "page":
            return f"page {first.label}" if first is final else f"pages {first.label}-{final.label}"
        return f'section "{first.label}"' if first is final else f'sections "{first.label}" to "{final.label}"'


@dataclass(frozen=True, slots=True)
class Passage:
    """A token-exact piece of a document: the ids are a slice of the document's own tokens.

    Args:
        document: hash of the document.
        index: number of the passage in its document, from 0.
        ids: token ids, as the decoder's tokenizer gave them for the whole document.
        start: first character in the document's text.
        end: one past the last character.
        text: those characters.
        place: page or section of `start`, or an empty string.
        first_token: how many of the document's tokens stand before the passage.
    """

    document: str
    index: int
    ids: tuple[int, ...]
    start: int
    end: int
    text: str
    place: str
    first_token: int


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of some positions in every layer, as attention reads them.

    Args:
        keys: [L, K, N, E], rotated to where the positions stand in the prompt.
        values: [L, K, N, E].
        bias: [L, K, N] float32, added to the scaled scores of each key: a key that stands for several has their weight.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor

    def __len__(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the decoder reads: one sequence of positions.

    Args:
        ids: [T] int64; `MEMORY` marks the positions that `embeds` or `kv` fills, in order.
        embeds: [N, D] vectors in the space of the decoder's input embeddings, or None.
        kv: keys and values for the `MEMORY` positions, which then stand in one run, or None.
        states: [N, S] what every position may attend to beside those before it, by cross-attention, or None.
        reader: name of the cross-attention that reads `states`.
        adapter: name of the LoRA adapter to read it with, or None for the bare decoder.
        positions: [T] int64, where each position stands for RoPE; None is 0, 1, 2, ...
        shared: how many of the first positions other questions of the same memories begin with too, so that what was
            computed of them may be kept.
    """

    ids: Tensor
    embeds: Tensor | None = None
    kv: KeyValues | None = None
    states: Tensor | None = None
    reader: str | None = None
    adapter: str | None = None
    positions: Tensor | None = None
    shared: int = 0

    def __post_init__(self) -> None:
        rows = len(self.embeds) if self.embeds is not None else len(self.kv) if self.kv is not None else 0
        holes = (self.ids == MEMORY).nonzero().flatten()
        assert rows == len(holes), f"{rows} rows of memory for {len(holes)} memory positions"
        assert self.embeds is None or self.kv is None, "a memory is embeddings or keys and values, not both"
        assert self.kv is None or rows == 0 or int(holes[-1] - holes[0]) == rows - 1, "keys and values stand in one run"
        assert (self.states is None) == (self.reader is None), "states are for somebody"
        assert self.positions is None or len(self.positions) == len(self.ids), "a position for each id"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields in use, to hold against what an engine accepts."""
        used = {"ids"}
        if self.embeds is not None:
            used.add("embeds")
        if self.kv is not None:
            used.add("kv")
        if self.states is not None:
            used.add("states")
        if self.adapter is not None:
            used.add("adapter")
        return frozenset(used)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question that was asked before in the same conversation, and the answer that was given."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; the default is greedy.

    Args:
        max_tokens: most tokens to write.
        temperature: 0 takes the likeliest token.
        top_p: smallest set of tokens with at least this probability; 1 keeps all.
        top_k: keep this many tokens; 0 keeps all.
        repetition_penalty: above 1, tokens of the answer so far become less likely.
        stop: strings that end the answer and are not part of it.
        seed: makes a drawn answer repeatable.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with its answer, as training sees it.

    Args:
        prompt: what the student reads.
        answer: [T] int64, the tokens it should write, the end token included.
        teacher: what the same decoder reads to show how likely each of those tokens is (the text itself), or None where
            the answer alone is the aim.
    """

    prompt: Prompt
    answer: Tensor
    teacher: Prompt | None = None


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Windows of running text, and the seed of every draw made for them.

    Args:
        ids: [B, T] int64.
        seed: decides what an objective draws (lengths, ratios, picks), so that a step can be repeated exactly.
    """

    ids: Tensor
    seed: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Documents one behind the other in a single row; none of them sees another.

    Args:
        ids: [T] int64.
        lengths: tokens of each document, in order; together T.
        judged: [T] bool, tokens that a loss counts; never the first of a document, which nothing predicts.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    judged: Tensor


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that the retriever found, with its score (higher is better)."""

    passage: Passage
    score: float
    title: str = ""
    source: str = ""
    extra: dict[str, float] = field(default_factory=dict)
