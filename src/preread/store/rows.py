"""Columns of the passages table, and how a document's rows become the project's types again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from preread.core.errors import UsageError
from preread.core.types import Document, Passage, sha256

PASSAGE = ("document", "index", "ids", "start", "end", "text", "place", "first_token")
"""Columns that make a `Passage`."""
ENTRY = (
    "collection",
    "source",
    "title",
    "document",
    "document_tokens",
    "document_passages",
    "document_keys",
    "added",
)
"""Columns that make an `Entry`; equal on every row of a document."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document that a library holds.

    Args:
        collection: the collection it belongs to.
        source: path or address it was read from; names the document within its collection.
        title: a name to show.
        hash: `Document.hash` of what was read.
        tokens: tokens of its passages together.
        passages: how many passages it has.
        added: when it was committed, in UTC.
        keys: payload key of each method's memory of the whole document.
    """

    collection: str
    source: str
    title: str
    hash: str
    tokens: int
    passages: int
    added: datetime
    keys: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """A passage with the payload key of each method's memory of it."""

    passage: Passage
    keys: dict[str, str]


def text_key(document: str) -> str:
    """Payload key of the text and marks of the document with this hash."""
    return sha256("document", document)


def row_name(collection: str, source: str) -> str:
    """What the ids of a document's rows begin with; no other document's do."""
    return sha256(collection, source)


def expect_unicode(text: str) -> None:
    """Refuse what no row can hold.

    Raises:
        UsageError: a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            expected="names and text in Unicode",
            got=f"a lone surrogate at character {error.start} of {text[:40]!r}",
            consequence="The document was not added.",
            remedy="Rename the file, or save its text as UTF-8.",
        ) from error


def passage(row: Mapping[str, Any]) -> Passage:
    """The passage of a row that has the columns `PASSAGE`."""
    columns: dict[str, Any] = {name: row[name] for name in PASSAGE}
    return Passage(**columns | {"ids": tuple(row["ids"])})


def entry(row: Mapping[str, Any]) -> Entry:
    """The document of a row that has the columns `ENTRY`."""
    return Entry(
        collection=row["collection"],
        source=row["source"],
        title=row["title"],
        hash=row["document"],
        tokens=row["document_tokens"],
        passages=row["document_passages"],
        added=row["added"].replace(tzinfo=UTC),
        keys=json.loads(row["document_keys"]),
    )


def _schema(width: int) -> Any:
    import pyarrow as pa

    # Strings lie uncompressed, so that a search through the folder's bytes proves that a document is gone.
    plain = {"lance-encoding:compression": "none"}
    strings = ("id", "collection", "source", "title", "document", "text", "place", "keys", "document_keys")
    numbers = ("document_tokens", "document_passages", "index", "start", "end", "first_token")
    return pa.schema(
        [pa.field(name, pa.string(), metadata=plain) for name in strings]
        + [pa.field(name, pa.int64()) for name in numbers]
        + [
            pa.field("added", pa.timestamp("us", tz="UTC")),
            pa.field("ids", pa.list_(pa.int32())),
            pa.field("vector", pa.list_(pa.float32(), width)),
        ]
    )


def table_of(
    collection: str,
    document: Document,
    passages: Sequence[Passage],
    vectors: np.ndarray,
    keys: Sequence[Mapping[str, str]],
    document_keys: Mapping[str, str],
) -> Any:
    """An Arrow table with one row a passage and every column."""
    import pyarrow as pa

    assert passages, "a document has at least one passage"
    assert len(passages) == len(vectors) == len(keys), "one vector and one mapping of keys for each passage"
    assert [passage.index for passage in passages] == list(range(len(passages))), "passages in order, from 0"
    assert {passage.document for passage in passages} == {document.hash}, "passages of this document"
    same = {
        "collection": collection,
        "source": document.source,
        "title": document.title,
        "document_keys": json.dumps(dict(document_keys), sort_keys=True),
        "document_tokens": sum(len(passage.ids) for passage in passages),
        "document_passages": len(passages),
        "added": datetime.now(UTC),
    }
    name = row_name(collection, document.source)
    rows = [
        {
            **same,
            **{column: getattr(passage, column) for column in PASSAGE},
            "id": f"{name}:{passage.index}",
            "vector": vector,
            "keys": json.dumps(dict(own), sort_keys=True),
        }
        for passage, vector, own in zip(passages, np.asarray(vectors, np.float32), keys, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=_schema(vectors.shape[1]))
