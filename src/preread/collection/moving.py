"""What a question attends to most is read as text, where memories leave the decoder's positions free for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from preread.collection.as_text import place
from preread.collection.choosing import Chosen, texts_of
from preread.collection.context import positions
from preread.core.method import Handle
from preread.core.types import Hit

if TYPE_CHECKING:
    from preread.library import Collection

BEFORE = 2
"""Questions before this one that it is heard with, as it is searched for with them."""


def moved(
    collection: Collection, handle: Handle, question: str, earlier: Sequence[str], chosen: Chosen, free: int
) -> Chosen:
    """What was chosen, with the passages that the method moves as text, the largest share first and as far as they fit.

    Those come before all other hits, so that they are the first citations; their score is the share of the attention.

    Args:
        collection: what is asked.
        handle: the method that reads it.
        question: the user's words.
        earlier: the questions before this one.
        chosen: passages as memories.
        free: positions that documents may take.
    """
    if "states" not in handle.needs:
        return chosen
    memories = [piece.memory for piece in chosen.pieces]
    prompt = handle.prompt("\n".join([*earlier[-BEFORE:], question]), memories)
    titles = {hit.source: hit.title for hit in chosen.hits}
    pieces, texts, taken = list(chosen.pieces), dict(chosen.texts), positions(memories)
    hits: dict[int, Hit] = {}
    for number, share in handle.moving(prompt, memories).items():
        [passage], source = pieces[number].passages, pieces[number].source
        text = texts_of(collection, [passage])[place(passage)]
        if taken + text.positions > free:
            break
        taken += text.positions
        texts[place(passage)], pieces[number] = text, replace(pieces[number], memory=text)
        hits[number] = Hit(passage, share, titles[source], source)
    if not hits:
        return chosen
    note = f"{len(hits)} of the passages, those that the question attends to most, are read as text"
    notes = [*chosen.notes, note]
    if chosen.whole:
        seen = {place(hit.passage) for hit in hits.values()}
        rest = [hit for hit in chosen.hits if place(hit.passage) not in seen]
        return replace(chosen, hits=[*hits.values(), *rest], pieces=pieces, texts=texts, notes=notes)
    others = [number for number in range(len(pieces)) if number not in hits]
    in_order = [*hits.values(), *(chosen.hits[number] for number in others)]
    return Chosen(in_order, [pieces[number] for number in [*hits, *others]], False, texts, notes)
