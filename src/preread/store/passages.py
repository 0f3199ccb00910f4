"""The passages table: the one truth about which documents a library holds.

A document is there when its rows are there, and they come and go in one commit of the table. Document-level
columns are repeated on every row, so that no second table can disagree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from preread.core.errors import FingerprintMismatch
from preread.core.types import Document, Hit, Passage
from preread.store.faults import room, settle
from preread.store.rows import ENTRY, PASSAGE, Entry, Stored, entry, passage, table_of, text_key

TABLE = "passages"
INDEX_FROM = 50_000
"""Rows from which a collection is searched by an index: a scan of 100,000 x 384 takes 80 to 300 ms.

IVF_FLAT: built in 1.3 s for 100,000 rows, where IVF_HNSW_SQ took 41 s, answers in 13 ms with exact distances.
"""

HALF_WRITTEN = ".tmp*"
"""Names that Lance gives to files until they are whole; the only writer finds none but those of the dead."""
_AT_ONCE = timedelta(milliseconds=1)
_TRIES = 20


class PassageTable:
    """Rows of passages in a LanceDB database; made on the first `replace`, empty until then.

    Every read sees the newest commit of any process. Writes expect that the caller is the only writer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, folder / f"{TABLE}.lance"
        self._opened: Any = None
        self._settled: set[tuple[Path, int]] = set()

    @property
    def version(self) -> list[tuple[str, int, int]]:
        """What stands for the table's newest commit, without opening it: equal versions, equal rows."""
        versions = self._files / "_versions"
        while versions.is_dir():
            # A manifest that is pruned while it is looked at is no table that is gone: look again.
            with suppress(FileNotFoundError), os.scandir(versions) as manifests:
                stats = [(file.name, file.stat()) for file in manifests]
                return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
        return []

    def replace(
        self,
        collection: str,
        document: Document,
        passages: Sequence[Passage],
        vectors: np.ndarray,
        keys: Sequence[Mapping[str, str]],
        document_keys: Mapping[str, str],
    ) -> None:
        """Put the document's rows in the place of those of the same collection and source, in one commit."""
        rows = table_of(collection, document, passages, vectors, keys, document_keys)
        with room(f'the passages of "{document.source}"'):
            table = self._table()
            if table is None:  # not `or`: an empty table is falsy
                table = self._create(rows.schema)
            _expect_width(table, vectors.shape[1])
            mine = _where(collection, [document.source])
            if table.search().where(mine).select(["index"]).limit(1).to_arrow().num_rows == 0:
                table.add(rows)
            else:
                merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(mine).execute(rows)
            self._settle()

    def delete(self, collection: str, sources: Sequence[str] | None) -> None:
        """Take some documents, or all of a collection, out of every reader's sight; `scrub` clears the disk."""
        if sources != [] and (table := self._table()) is not None:
            with room("the deletion"):
                table.delete(_where(collection, sources))

    def entries(self, collection: str | None, source: str | None = None) -> list[Entry]:
        """The documents, ordered by collection and source."""
        from lancedb.expr import col, lit

        first = col("index") == lit(0)
        where = first if collection is None else first & _where(collection, None if source is None else [source])
        rows = self._read(lambda table: table.search().where(where).select(list(ENTRY)).to_arrow())
        entries = [entry(row) for row in rows]
        return sorted(entries, key=lambda entry: (entry.collection, entry.source))

    def passages(self, collection: str, source: str) -> list[Stored]:
        """The passages of one document, in order."""
        where, columns = _where(collection, [source]), [*PASSAGE, "keys"]
        rows = self._read(lambda table: table.search().where(where).select(columns).to_arrow())
        return sorted(
            (Stored(passage(row), json.loads(row["keys"])) for row in rows), key=lambda one: one.passage.index
        )

    def keys(self, collection: str | None = None) -> dict[tuple[str, str], set[str]]:
        """Every payload key that rows name, by collection and source."""
        columns = ["collection", "source", "keys", "document_keys", "document"]

        def query(table: Any) -> Any:
            search = table.search() if collection is None else table.search().where(_where(collection))
            return search.select(columns).to_arrow()

        named: dict[tuple[str, str], set[str]] = {}
        for row in self._read(query):
            own = named.setdefault((row["collection"], row["source"]), set())
            own |= {text_key(row["document"]), *json.loads(row["keys"]).values()}
            own |= set(json.loads(row["document_keys"]).values())
        return named

    def nearest(self, collection: str, vector: np.ndarray, k: int) -> list[Hit]:
        """The k passages with the largest cosine to a [d] vector; the score is that cosine."""
        where, columns = _where(collection), [*PASSAGE, "title", "source", "_distance"]

        def query(table: Any) -> Any:
            search = table.search(np.asarray(vector, np.float32), vector_column_name="vector")
            search = search.distance_type("cosine").where(where).select(columns).limit(k)
            # An index probes the partitions nearest in the library; few rows of a small collection lie there.
            small = table.search().where(where).select(["index"]).to_arrow().num_rows < INDEX_FROM
            return (search.bypass_vector_index() if small else search).to_arrow()

        return _hits(self._read(query), lambda row: 1.0 - row["_distance"])

    def matching(self, collection: str, words: str, k: int) -> list[Hit]:
        """The k passages with the highest BM25 for the words, which are never parsed as a query."""
        from lancedb.query import MatchQuery

        where, columns = _where(collection), [*PASSAGE, "title", "source", "_score"]
        match = MatchQuery(words.encode("utf-8", "replace").decode(), "text")

        def query(table: Any) -> Any:
            return table.search(match, query_type="fts").where(where).select(columns).limit(k).to_arrow()

        return _hits(self._read(query), lambda row: row["_score"])

    def optimize(self) -> None:
        """Fold new rows into the indexes, merge small files and drop old versions."""
        self._drop_half_written()
        if (table := self._table()) is not None:
            with room("the indexes"):
                _index(table, anew=False)
                _prune(table)

    def scrub(self) -> None:
        """Leave on disk only what `entries` and `passages` can see.

        A deletion only masks rows, and an index keeps the words of rows that are gone: both are written anew.
        """
        self._drop_half_written()
        if (table := self._table()) is not None:
            with room("the table without what was forgotten"):
                table.update(where="true", values_sql={"place": "place"})
                _index(table, anew=True)
                _prune(table)
            self._settle()

    def _drop_half_written(self) -> None:
        """Remove what a killed writer had begun: Lance writes files aside, and its own cleaning does not know those."""
        for file in list(self._files.rglob(HALF_WRITTEN)):
            file.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Have the commit outlast a power cut: Lance leaves it to the system when files reach the disk."""
        now = {(path, path.stat().st_mtime_ns) for path in (self._files, *self._files.rglob("*"))}
        settle(path for path, _ in now - self._settled)
        self._settled = now

    @cached_property
    def _database(self) -> Any:
        """Connected on first use: the import takes a second, and what only lists documents can do without it."""
        os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")  # else the index warns on stderr
        import lancedb

        return lancedb.connect(self._folder, read_consistency_interval=timedelta(0))

    def _table(self) -> Any:
        if self._opened is None and self._files.exists():
            try:
                self._opened = self._database.open_table(TABLE)
            except ValueError as error:
                if "was not found" not in str(error):
                    raise
        return self._opened

    def _create(self, schema: Any) -> Any:
        self._opened = self._database.create_table(TABLE, schema=schema)
        _index(self._opened, anew=False)
        return self._opened

    def _read(self, query: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """Rows of a query; asked again where a writer removed the version that was being read."""
        for attempt in range(_TRIES):
            if (table := self._table()) is None:
                return []
            try:
                rows: list[dict[str, Any]] = query(table).to_pylist()
                return rows
            except (OSError, RuntimeError, ValueError) as error:
                if "not found" not in str(error).lower() or attempt == _TRIES - 1:
                    raise
                self._opened = None
        raise AssertionError("the last try returns or raises")


def _where(collection: str, sources: Sequence[str] | None = None) -> Any:
    from lancedb.expr import col, lit

    where = col("collection") == lit(collection)
    if sources is None:
        return where
    return where & col("source").isin([lit(source) for source in sources])


def _expect_width(table: Any, width: int) -> None:
    stored = table.schema.field("vector").type.list_size
    if stored != width:
        raise FingerprintMismatch(
            expected=f"vectors of {stored} numbers, as this library holds",
            got=f"vectors of {width}",
            consequence="The document was not added.",
            remedy="Use the embedder that the library was made with, or start a new library.",
        )


def _hits(rows: Sequence[Mapping[str, Any]], score: Callable[[Mapping[str, Any]], float]) -> list[Hit]:
    hits = [Hit(passage(row), score(row), row["title"], row["source"]) for row in rows]
    return sorted(hits, key=lambda hit: (-hit.score, hit.source, hit.passage.index))


def _index(table: Any, anew: bool) -> None:
    """Have the full-text index and, from `INDEX_FROM` rows, the vector index; `anew` builds from nothing."""
    from lancedb.index import FTS, IvfFlat

    present = {index.columns[0]: index.name for index in table.list_indices()}
    if anew or "text" not in present:
        table.create_index("text", config=FTS(remove_stop_words=False), replace=True)
    wanted = table.count_rows() >= INDEX_FROM
    if wanted and (anew or "vector" not in present):
        table.create_index("vector", config=IvfFlat(distance_type="cosine"), replace=True)
    elif anew and "vector" in present:
        table.drop_index(present["vector"])


def _prune(table: Any) -> None:
    # The first pass may write new versions (merged files, longer indexes) after it has dropped the old ones.
    for _ in range(2):
        table.optimize(cleanup_older_than=_AT_ONCE, delete_unverified=True)
