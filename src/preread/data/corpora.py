"""Streams of running text for training: JSON lines -> tokens -> windows."""

from __future__ import annotations

import gzip
import json
import lzma
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
from preread.core.types import text_hash

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
    def read(paths: Sequence[Path], tokenizer: PreTrainedTokenizerBase, max_characters: int | None = None) -> Corpus:
        """Tokenise the `text` of every record; at most `max_characters` of each file, if given, whole documents."""
        pieces: list[np.ndarray] = []
        documents: list[str] = []
        for path in paths:
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
        return Corpus(np.concatenate(pieces), np.cumsum([0, *map(len, pieces)]), tuple(documents))

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
