"""How much of what a text tells the decoder its memory tells it, measured by the likelihood of reference answers.

A small decoder answers poorly even from the text, so right and wrong cannot rank memories; the negative log-likelihood
of the reference answer can. The figure is the share of the gap between no context and full text that the memory closes;
the memory of another document must close nothing. The token that ends an answer is not judged: any context at all makes
a short answer likelier to end, and that alone closed half of the gap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.core.memory import Memory
from preread.core.method import Handle, Method
from preread.core.progress import progress
from preread.core.provenance import device
from preread.core.types import Document, Prompt
from preread.data.corpora import records
from preread.data.passages import split
from preread.methods import METHODS
from preread.nn.hf import Decoder
from preread.nn.reading import Reading, begins, followed

DRAWS = 2000
"""Of documents, for an interval."""


@dataclass(frozen=True, slots=True)
class Exam:
    """A document with questions and reference answers, no larger than the window."""

    document: Document
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Mean negative log-likelihood of the reference answers, in nats a token, by what the decoder read.

    Args:
        ratio: tokens a position of the memory stands for, as measured.
        nothing: no context.
        text: the whole document.
        memory: its memory.
        other: the memory of another document.
        questions: how many questions.
        low: lower end of the share's interval: 95 % of its values over documents drawn again with all their questions.
        high: its upper end.
    """

    ratio: float
    nothing: float
    text: float
    memory: float
    other: float
    questions: int
    low: float = math.nan
    high: float = math.nan

    @property
    def share(self) -> float:
        """(nothing - memory) / (nothing - text)."""
        return (self.nothing - self.memory) / (self.nothing - self.text)

    @property
    def other_share(self) -> float:
        """The same for the memory of another document: what is not 0 here is not knowledge of the text."""
        return (self.nothing - self.other) / (self.nothing - self.text)


def exams(path: Path, documents: int, questions: int, most_characters: int) -> list[Exam]:
    """The first documents of a question set that are short enough, with their first answerable questions.

    Raises:
        UsageError: fewer than two documents fit, and one alone has no other to be compared with.
    """
    found: list[Exam] = []
    for record in records(path):
        asked = [(q["question"], q["answers"][0]) for q in record["questions"] if q["answers"]][:questions]
        if asked and len(record["text"]) <= most_characters:
            document = Document(record["doc_id"], record.get("title", ""), record["text"])
            found.append(Exam(document, tuple(asked)))
        if len(found) == documents:
            break
    if len(found) < 2:
        raise UsageError(
            expected=f"two documents of at most {most_characters} characters in {path}",
            got=str(len(found)),
            consequence="Nothing was measured.",
            remedy="Choose another set or a larger --characters.",
        )
    return found


def recovery(decoder: Decoder, method: Method, exams: Sequence[Exam], passage_tokens: int = 240) -> Recovery:
    """Measure one method at one setting; deterministic on a CPU."""
    sums = [dict.fromkeys(("nothing", "text", "memory", "other"), 0.0) for _ in exams]
    tokens = positions = 0
    with METHODS["text"]().attach(decoder) as reader, method.attach(decoder) as handle:
        passages = [split(exam.document, decoder.tokenizer, passage_tokens) for exam in exams]
        memories = [list(handle.encode(own)) for own in passages]
        with progress(f"reading {len(exams)} documents", len(exams)) as advance:
            for i, exam in enumerate(exams):
                contexts: Mapping[str, tuple[Handle, list[Memory]]] = {
                    "nothing": (handle, []),
                    "text": (reader, list(reader.encode(passages[i]))),
                    "memory": (handle, memories[i]),
                    "other": (handle, memories[(i + 1) % len(exams)]),
                }
                answers = [decoder.tokens(answer) for _, answer in exam.questions]
                for name, (reads, context) in contexts.items():
                    prompts = [reads.prompt(question, context) for question, _ in exam.questions]
                    sums[i][name] = sum(answer_nlls(decoder, prompts, answers))
                tokens += sum(len(passage.ids) for passage in passages[i])
                positions += sum(memory.positions for memory in memories[i])
                advance()
    count = sum(len(exam.questions) for exam in exams)
    means = {name: sum(own[name] for own in sums) / count for name in sums[0]}
    return Recovery(tokens / positions, **means, questions=count, **_interval(sums))


def _interval(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`low` and `high` of the share, from each document's summed likelihoods."""
    own = np.array([[one["nothing"] - one["memory"], one["nothing"] - one["text"]] for one in sums])
    drawn = np.random.default_rng(0).integers(len(own), size=(DRAWS, len(own)))
    closed, gap = own[drawn].sum(1).T
    low, high = np.quantile(closed / gap, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def write(path: Path, rows: Sequence[Mapping[str, object]], what: str, weights: str, command: str, at: str) -> None:
    """A measurement as a file of its own, with commit, device and command.

    Args:
        path: JSON file, replaced if it is there.
        rows: one a ratio.
        what: method and decoder.
        weights: which trained weights.
        command: what was typed.
        at: commit of the code when the measurement began.
    """
    result = {
        "what": f"share of the likelihood gap recovered, beside another document's memory: {what}",
        "weights": weights,
        "command": command,
        "commit": at,
        "device": device(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def answer_nlls(decoder: Decoder, prompts: Sequence[Prompt], answers: Sequence[Tensor]) -> list[float]:
    """Mean negative log-likelihood of each answer's tokens behind its prompt, in nats; what prompts share is read once.

    Args:
        decoder: whose likelihood.
        prompts: questions of the same memories.
        answers: [T] int64 each.
    """
    wholes = [followed(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    cache = decoder.cache(max(map(len, wholes)))
    found: list[float] = []
    for whole, answer in zip(wholes, answers, strict=True):
        kept = begins(whole) if found else 0
        cache.cut(0, kept)
        reading = Reading(decoder, whole)
        reading.skip(kept)
        states = None
        while reading.left:
            states = reading.read(cache)
        assert states is not None, "the question stands behind what is given"
        scores = decoder.logits(states[-len(answer) - 1 : -1]).float().log_softmax(-1)
        found.append(float(-scores.gather(-1, answer.to(scores.device)[:, None]).mean()))
    return found
