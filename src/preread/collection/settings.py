"""What a collection is made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.method import Handle
from preread.methods import METHODS
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class Settings:
    """What a collection was made with; it stays so.

    Args:
        model: decoder, as `preread.models.load` takes it.
        method: the method that memories are kept for; the others work too, and make theirs anew for each question.
        options: the method's own settings, such as `ratio`.
        passage_tokens: most tokens a passage. 240 is 8 summary embeddings at 30x, and what the embedder reads whole.
        window: positions that the decoder reads at once, fewer than it was trained for; None takes all. Memories do not
            depend on it.
    """

    model: str = "default"
    method: str = "lloco"
    options: dict[str, Any] = field(default_factory=dict)
    passage_tokens: int = 240
    window: int | None = None

    def __post_init__(self) -> None:
        build(known(self.method), self.options)  # refuses unknown options and senseless values before anything is read


def known(method: str) -> Any:
    """The class of a method by name.

    Raises:
        UsageError: there is no such method.
    """
    if method not in METHODS:
        raise UsageError(
            expected=f"a method ({', '.join(METHODS)})",
            got=method,
            consequence="Nothing was done.",
            remedy="Choose one of them with --method.",
        )
    return METHODS[method]


def attach(method: str, options: Mapping[str, Any], decoder: Decoder) -> Handle:
    """A method by name, attached to the decoder that all of a collection's methods share.

    Raises:
        UsageError: there is no such method, or it would make another decoder of it for all of them.
    """
    handle: Handle = build(known(method), options).attach(decoder)
    if handle.alters:
        handle.detach()
        raise UsageError(
            expected=f"a method that leaves {decoder.name} as it is, for others read with it too",
            got=f"{method} with {dict(options)}",
            consequence="Nothing was read.",
            remedy="Export the altered decoder (preread train longlora RECIPE --export FOLDER): --model FOLDER.",
        )
    return handle


def expect_name(collection: str) -> None:
    """Refuse a name of a collection that no list could show.

    Raises:
        UsageError: it is empty, or not all of it can be printed.
    """
    if not collection.strip() or not collection.isprintable():
        raise UsageError(
            expected="a name of a collection, of characters that can be printed",
            got=repr(collection) if collection else "an empty one",
            consequence="Nothing was done.",
            remedy="Choose another with --collection.",
        )
