"""Long instructions to fine-tune on: a text to read, what is asked of it, and the answer.

Two formats are read. LongAlpaca's (arXiv 2309.12307, section 4.3): a JSON array, or a line each, of `instruction`,
`output` and perhaps `input`; its instruction holds the text to read. And files of questions about documents, as the
evaluation has them: `text` and `questions`, each of which becomes an instruction if it has an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preread.core.errors import UnreadableDocument, UsageError
from preread.core.types import PackedBatch, text_hash
from preread.data.corpora import records
from preread.nn.hf import Decoder

TRIES = 64
"""Draws for one row: enough to fill it, and to find one that fits where most are too long."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """What is asked of a text.

    Args:
        text: number of the text in `Instructions.texts`; None where the question stands alone.
        question: the user's words.
        answer: what the decoder should write.
    """

    text: int | None
    question: str
    answer: str


@dataclass(frozen=True)
class Instructions:
    """All instructions of some files.

    Args:
        decoder: whose tokens and chat template they are put in.
        texts: what is read, each once.
        items: what is asked of it.
    """

    decoder: Decoder
    texts: tuple[str, ...]
    items: tuple[Instruction, ...]

    @staticmethod
    def read(paths: Sequence[Path], decoder: Decoder) -> Instructions:
        """The instructions of JSON files.

        Raises:
            UnreadableDocument: no such file, none in it, or an entry of neither format.
        """
        texts: list[str] = []
        items: list[Instruction] = []
        for path in paths:
            for number, record in enumerate(_entries(path), start=1):
                try:
                    if "questions" in record:
                        texts.append(_words(record["text"]))
                        items += [
                            Instruction(len(texts) - 1, _words(asked["question"]), _words(asked["answers"][0]))
                            for asked in record["questions"]
                            if asked["answers"]
                        ]
                    else:
                        question = "\n\n".join(filter(None, (_words(record["instruction"]), record.get("input"))))
                        items.append(Instruction(None, question, _words(record["output"])))
                except (KeyError, TypeError) as error:
                    raise _no_instruction(path, number, record) from error
        if not items:
            raise _no_instruction(paths[0], 1, {})
        return Instructions(decoder, tuple(texts), tuple(items))

    @property
    def documents(self) -> tuple[str, ...]:
        """Hash of each text that is read; of the whole question where there is none beside it."""
        alone = (item.question for item in self.items if item.text is None)
        return tuple(text_hash(text) for text in (*self.texts, *alone))

    @property
    def size(self) -> int:
        """Characters over four, about the tokens of all instructions; exact would mean to tokenise all of them."""
        lengths = [len(text) for text in self.texts]
        return (
            sum(len(i.question) + len(i.answer) + (0 if i.text is None else lengths[i.text]) for i in self.items) // 4
        )

    def packed(self, count: int, length: int, seed: int) -> PackedBatch:
        """`count` rows of up to `length` tokens, each with as many instructions, drawn at random, as go into it whole.

        Only answers are judged, their end token included. A text that is too long for a row is cut at its end, so
        that the question and its answer always stand behind it.

        Raises:
            UsageError: no instruction fits.
        """
        rng = np.random.default_rng(seed)
        rows = [row for _ in range(count) for row in self._row(rng, length)]
        if not rows:
            raise UsageError(
                expected=f"instructions that fit into {length} tokens, the recipe's window",
                got=f"none among {TRIES} that were drawn",
                consequence="Nothing was trained.",
                remedy="Choose a larger window.",
            )
        ids = torch.cat([torch.cat(row) for row in rows])
        judged = torch.cat([torch.arange(sum(map(len, row))) >= len(row[0]) for row in rows])
        return PackedBatch(ids, tuple(sum(map(len, row)) for row in rows), judged)

    def _row(self, rng: np.random.Generator, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Prompt and answer of instructions that fill a row; the first that does not fit into a begun row ends it."""
        left = length
        for pick in rng.integers(0, len(self.items), size=TRIES):
            prompt, answer = self._tokens(self.items[pick], length)
            if len(prompt) + len(answer) <= left:
                left -= len(prompt) + len(answer)
                yield prompt, answer
            elif left < length:
                return

    def _tokens(self, item: Instruction, length: int) -> tuple[Tensor, Tensor]:
        """Prompt and answer; the text between them cut so that both fit into a row, if that is possible."""
        decoder = self.decoder
        answer = torch.cat([decoder.tokens(item.answer), torch.tensor([decoder.tokenizer.eos_token_id])])
        if item.text is None:
            return decoder.frame(item.question)[0], answer
        # A token is a byte at least and four to six characters mostly: no more of a book is tokenised than could fit.
        text = decoder.tokens(self.texts[item.text][: 16 * length])
        around = len(decoder.frame(item.question, [text[:1]])[0]) - 1
        text = text[: max(1, length - around - len(answer))]
        return decoder.frame(item.question, [text])[0], answer


def _words(value: object) -> str:
    """What a field says; `null` would be taught as a word."""
    if not isinstance(value, str):
        raise TypeError("no words")
    return value


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, a JSON array or a line each."""
    if path.suffix != ".json":
        yield from records(path)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise ValueError("no array of objects")
    except (OSError, ValueError) as error:
        raise UnreadableDocument(
            expected=f"a JSON array of objects in {path}",
            got=str(error),
            consequence="Nothing was trained.",
            remedy="Correct `data` in the recipe; files of one object a line are named .jsonl.",
        ) from error
    yield from found


def _no_instruction(path: Path, number: int, record: Mapping[str, Any]) -> UnreadableDocument:
    return UnreadableDocument(
        expected=f'"instruction" and "output", or "text" and "questions" with "answers", in entry {number} of {path}',
        got=", ".join(map(str, record)) or "nothing",
        consequence="Nothing was trained.",
        remedy="Name files of instructions in the recipe's `data`, or read them as text.",
    )
