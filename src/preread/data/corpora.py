"""Streams of running text for training: JSON lines -> tokens -> windows."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from preread.core.errors import UnreadableDocument, UsageError
from preread.core.progress import progress
from preread.core.types import PackedBatch, sha256, text_hash

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a `.jsonl`, `.jsonl.gz` or `.jsonl.xz` file, one a line.

    Raises:
        UnreadableDocument: no such file, or a line that is not JSON.
    """
    number = 0  # of the last whole line, for the message
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("a line that is not a JSON object")
                yield record
                number += 1
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise UnreadableDocument(
            expected=f"JSON lines in {path}",
            got=f"{error} (after line {number})",
            consequence="The file was not read further.",
            remedy="Check the path and the file; plain, .gz and .xz are known.",
        ) from error


@dataclass(frozen=True)
class Corpus:
    """Tokens of documents, one behind the other.

    Args:
        tokens: [T] int32, all documents.
        bounds: [documents + 1] int64, where each begins.
        documents: hash of each one's text.
    """

    tokens: np.ndarray
    bounds: np.ndarray
    documents: tuple[str, ...]

    @staticmethod
    def read(
        paths: Sequence[Path],
        tokenizer: PreTrainedTokenizerBase,
        max_characters: int | None = None,
        kept: Path | None = None,
        tokenizer_key: str = "",
    ) -> Corpus:
        """Tokenise the `text` of every record.

        Args:
            paths: files of JSON lines.
            tokenizer: the decoder's.
            max_characters: most of each file, in whole documents; None reads all.
            kept: folder in which each file's tokens are left, a shard a file, and found again by a later run.
            tokenizer_key: names the tokenizer there.
        """
        shards = []
        for path in paths:
            shard = kept / f"{sha256(_hash(path), tokenizer_key, str(max_characters))[:32]}.npz" if kept else None
            corpus = _kept(shard)
            if corpus is None:
                corpus = Corpus._tokenised(path, tokenizer, max_characters)
                if shard:
                    _keep(corpus, shard)
            shards.append(corpus)
        lengths = np.concatenate([np.diff(shard.bounds) for shard in shards])
        return Corpus(
            np.concatenate([shard.tokens for shard in shards]),
            np.cumsum([0, *lengths]),
            tuple(document for shard in shards for document in shard.documents),
        )

    @staticmethod
    def _tokenised(path: Path, tokenizer: PreTrainedTokenizerBase, max_characters: int | None) -> Corpus:
        pieces: list[np.ndarray] = []
        documents: list[str] = []
        read = 0
        with progress(f"tokenising {path.name}", None) as advance:
            for record in records(path):
                if max_characters is not None and read >= max_characters:
                    break
                text = record.get("text")
                if not isinstance(text, str):
                    raise UnreadableDocument(
                        expected=f'a "text" in every record of {path}',
                        got=", ".join(map(str, record)) or "an empty record",
                        consequence="Nothing was trained.",
                        remedy="Name files of running text in the recipe's `data`.",
                    )
                ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
                pieces.append(np.asarray(ids, dtype=np.int32))
                documents.append(text_hash(text))
                read += len(text)
                advance()
        tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
        return Corpus(tokens, np.cumsum([0, *map(len, pieces)]), tuple(documents))

    def windows(self, count: int, length: int, seed: int) -> Tensor:
        """[count, length] int64: windows inside single documents, drawn uniformly over all of them.

        The draw is a function of the seed alone, so a training step can be repeated exactly.

        Raises:
            UsageError: no document is as long as a window.
        """
        starts = np.maximum(np.diff(self.bounds) - length + 1, 0)
        if not starts.sum():
            raise UsageError(
                expected=f"a document of at least {length} tokens, the recipe's window",
                got=f"{len(starts)} shorter ones",
                consequence="Nothing was trained.",
                remedy="Choose a smaller window or longer texts.",
            )
        ends = np.cumsum(starts)
        picks = np.random.default_rng(seed).integers(0, ends[-1], size=count)
        documents = np.searchsorted(ends, picks, side="right")
        offsets = self.bounds[documents] + picks - (ends[documents] - starts[documents])
        return torch.from_numpy(np.stack([self.tokens[o : o + length] for o in offsets]).astype(np.int64))

    @property
    def size(self) -> int:
        """Tokens of all documents."""
        return len(self.tokens)

    def packed(self, count: int, length: int, seed: int) -> PackedBatch:
        """`count` stretches of `length` tokens each, drawn uniformly over all documents as they follow one another.

        A stretch that reaches past the end of a document goes on with the next one, and after the last with the first.
        Texts of any length are used to the last token so, without padding. The draw is a function of the seed alone.

        Raises:
            UsageError: all documents together are not as long as a stretch.
        """
        if self.size < length:
            raise UsageError(
                expected=f"texts of at least {length} tokens together, the recipe's window",
                got=f"{self.size}",
                consequence="Nothing was trained.",
                remedy="Choose a smaller window or more texts.",
            )
        ids, lengths = [], []
        for start in np.random.default_rng(seed).integers(0, self.size, size=count):
            places = (start + np.arange(length)) % self.size
            ids.append(self.tokens[places])
            document = np.searchsorted(self.bounds, places, side="right")
            parted = (np.diff(document) != 0) | (np.diff(places) != 1)  # round from the last to the first, too
            edges = [0, *np.flatnonzero(parted) + 1, length]
            lengths += np.diff(edges).tolist()
        judged = np.ones(count * length, dtype=bool)
        judged[np.cumsum([0, *lengths[:-1]])] = False
        return PackedBatch(
            torch.from_numpy(np.concatenate(ids).astype(np.int64)), tuple(lengths), torch.from_numpy(judged)
        )


def _hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        UnreadableDocument: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableDocument(
            expected=f"a file of JSON lines at {path}",
            got=str(error),
            consequence="Nothing was trained.",
            remedy="Correct `data` in the recipe, or --data.",
        ) from error


def _kept(shard: Path | None) -> Corpus | None:
    """A file's tokens as an earlier run left them; None where none did, or they are damaged: they are made again."""
    if shard is None:
        return None
    try:
        with shard.open("rb") as file, np.load(file, allow_pickle=False) as held:  # it leaves a damaged file open
            return Corpus(held["tokens"], held["bounds"], tuple(held["documents"].tolist()))
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):  # one bit may say "encrypted"
        return None


def _keep(corpus: Corpus, shard: Path) -> None:
    """Leave a file's tokens for the next run, whole or not at all; a full disk costs time and nothing else."""
    part = shard.with_name(f"{shard.name}.{os.getpid()}.part")
    try:
        shard.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, tokens=corpus.tokens, bounds=corpus.bounds, documents=np.array(corpus.documents, dtype=str))
        part.replace(shard)
    except OSError:
        part.unlink(missing_ok=True)
