"""Which parts of which documents an answer rests on, and which not: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from preread.core.answer import DocumentRead, Extent
from preread.core.types import Document, Passage
from preread.store.rows import Entry
from preread.store.store import Store

ALL = "all"
"""Stands for every place of a document."""


def coverage(
    store: Store,
    entries: Sequence[Entry],
    read: Mapping[str, Sequence[Passage]],
    text: Mapping[str, Sequence[Passage]],
    positions: Mapping[str, int],
) -> tuple[DocumentRead, ...]:
    """What was read of each document of a collection: those that were read first, then the others.

    Args:
        store: where they are.
        entries: all documents of the collection.
        read: the passages that were read, by source.
        text: those of them that were read as plain text; the others were read as memory.
        positions: positions of the prompt that they took, by source.
    """
    covered = []
    for entry in sorted(entries, key=lambda entry: entry.source not in read):
        plain = {passage.index for passage in text.get(entry.source, ())}
        taken = read.get(entry.source, ())
        parts = [[p for p in taken if p.index in plain], [p for p in taken if p.index not in plain]]
        as_text, as_memory, unread = _extents(store, entry, parts)
        position = positions.get(entry.source, 0)
        covered.append(DocumentRead(entry.source, entry.title, as_text, as_memory, unread, position))
    return tuple(covered)


def _extents(store: Store, entry: Entry, parts: Sequence[Sequence[Passage]]) -> list[Extent]:
    """Parts of a document, and what is in none of them; only where one is neither all nor nothing must its text be
    looked at.
    """
    inside = {passage.index for part in parts for passage in part}
    counts = [*map(len, parts), entry.passages - len(inside)]
    if entry.passages in counts:
        return [Extent(entry.tokens, ALL) if count else Extent() for count in counts]
    document = store.document(entry.collection, entry.source)
    stored = [one.passage for one in store.passages(entry.collection, entry.source)]
    left = [passage for passage in stored if passage.index not in inside]
    return [_extent(document, part) for part in (*parts, left)]


def _extent(document: Document, passages: Sequence[Passage]) -> Extent:
    return Extent(sum(len(passage.ids) for passage in passages), places(document, [(p.start, p.end) for p in passages]))


def places(document: Document, spans: Sequence[tuple[int, int]]) -> str:
    """Where some characters stand: `pages 1-3, part of 4`, `section "Terms"`, or `characters 0-800` without marks.

    Args:
        document: with its pages or sections; one without text counts with those around it.
        spans: first character and one past the last, each; they do not overlap.
    """
    if not document.marks:
        joined = _joined(spans)
        return "characters " + ", ".join(f"{start:,}-{end:,}" for start, end in joined) if joined else ""
    kind = document.marks[0].kind
    named = [(mark.start, mark.label if kind == "page" else f'"{mark.label}"') for mark in document.marks]
    if named[0][0] > 0:
        named.insert(0, (0, "the beginning"))
    regions = [
        (label, start, end)
        for (start, label), (end, _) in pairwise([*named, (len(document.text), "")])
        if document.text[start:end].strip()
    ]
    found = [(_share(document.text, start, end, spans), label) for label, start, end in regions]
    runs = [(share, [label for _, label in run]) for share, run in groupby(found, key=lambda one: one[0]) if share]
    if [len(labels) for _, labels in runs] == [1]:
        [(share, [label])] = runs
        return f"part of {kind} {label}" if share == "part" else f"{kind} {label}"
    names = [("part of " if share == "part" else "") + _run(kind, labels) for share, labels in runs]
    return f"{kind}s {', '.join(names)}" if names else ""


def _share(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> str:
    """How much of a region is in the spans, white space aside: `whole`, `part`, or nothing."""
    inside = "".join(text[max(start, a) : min(end, b)] for a, b in spans if a < end and start < b)
    held, all_ = len("".join(inside.split())), len("".join(text[start:end].split()))
    return "whole" if held == all_ else "part" if held else ""


def _run(kind: str, labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    return f"{labels[0]}-{labels[-1]}" if kind == "page" else f"{labels[0]} to {labels[-1]}"


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
