"""What an adapter costs on text that it was not studied for, forced on and behind its gate.

A small collection is studied as `preread study` does it. The decoder then reads running text of other kinds, stretch by
stretch, and answers to questions about the world, each bare and with the adapter; the gate decides on each stretch, as
if it were asked, and on each question.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from preread.bench.figures import Figure
from preread.bench.holdings import PASSAGE_TOKENS
from preread.collection.lessons import StudyConfig
from preread.collection.settings import Settings
from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.intervals import Interval, ratio_interval
from preread.core.progress import progress
from preread.core.types import Document, Prompt
from preread.data.corpora import records
from preread.data.passages import split
from preread.eval.measuring import losses
from preread.library import Collection, Library

STUDIED = "qa/fairytaleqa.train.jsonl.gz"
TEXTS = ("books", "math_latex", "science_plos", "tech_docs")
QUESTIONS = "qa/nq_oracle.{split}.jsonl.gz"


@dataclass(frozen=True)
class GateConfig:
    """What is studied, and what is read.

    Args:
        method: whose memories the adapter learns to read.
        documents: how many stories of `STUDIED` the collection has.
        steps: of its study.
        split: `test` for figures that are published, `valid` to choose settings.
        stretches: of each document of running text, evenly over it.
        questions: about the world; 0 asks none.
        study: further settings of the study, as `a.b=value`.
    """

    method: str = "lloco"
    documents: int = 3
    steps: int = 60
    split: str = "test"
    stretches: int = 4
    questions: int = 200
    study: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as the decoder read it.

    Args:
        kind: which file it is of.
        document: which document of it.
        tokens: how many were judged.
        bare: their negative log-likelihood without the adapter, in nats.
        forced: the same with it.
        accepted: whether the gate lets the adapter read it.
    """

    kind: str
    document: str
    tokens: int
    bare: float
    forced: float
    accepted: bool

    @property
    def gated(self) -> float:
        """Nats with the gate deciding."""
        return self.forced if self.accepted else self.bare


def gate_figures(data: Path, folder: Path, config: GateConfig, model: str = "default") -> list[Figure]:
    """Study, read and compare.

    Args:
        data: folder with `qa/` and `text/`.
        folder: library that is studied in; a stopped study goes on there.
        config: what is studied and read.
        model: the decoder.

    Raises:
        UnreadableDocument: a file is missing.
        UsageError: the adapter did not help on its own lessons, so there is none to judge.
    """
    for path in (*(_text(kind, config) for kind in TEXTS), *([_questions(config)] if config.questions else [])):
        next(records(data / path), None)  # one that is missing is named now, and not when the study is over
    collection = _studied(data, folder, config, model)
    texts = _read(collection, list(_stretches(data, collection, config)), "running text")
    asked = _read(collection, list(_asked(data, collection, config)), "questions about the world")
    plain = {name: value for name, value in vars(config).items() if name != "study"}
    recipe = " ".join([*(f"{name}={value}" for name, value in plain.items()), *config.study, f"model={model}"])
    options = [*(f"--{name} {value}" for name, value in plain.items()), *(f"--set {one}" for one in config.study)]
    command = f"preread bench gate --data DATA {' '.join(options)}"
    return [
        _figure("lloco.general_loss_gate_off", texts, asked, "forced", recipe, command),
        _figure("lloco.general_loss_gate_on", texts, asked, "gated", recipe, command),
    ]


def change(readings: Iterable[Reading], how: str) -> Interval:
    """By how much perplexity changes, in %, with its interval over documents.

    Args:
        readings: of all texts; every token counts the same.
        how: `forced` or `gated`.
    """
    units: dict[str, list[tuple[float, float]]] = {}
    for one in readings:
        units.setdefault(f"{one.kind}/{one.document}", []).append((getattr(one, how) - one.bare, one.tokens))
    value, low, high = (100 * math.expm1(nats) for nats in ratio_interval(units))
    return value, low, high


def _text(kind: str, config: GateConfig) -> str:
    """Where the running text of a kind is, below the folder of data."""
    return f"text/{kind}.{config.split}.jsonl.xz"


def _questions(config: GateConfig) -> str:
    """Where the questions about the world are."""
    return QUESTIONS.format(split="test" if config.split == "test" else "train")


def _studied(data: Path, folder: Path, config: GateConfig, model: str) -> Collection:
    """A collection of the first stories with an adapter in use."""
    collection = Library(folder / "library", model).collection("studied", Settings(model, config.method))
    for row in islice(records(data / STUDIED), config.documents):
        path = folder / "documents" / f"{row['doc_id']}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(row["text"], encoding="utf-8")
        collection.add(path)
    collection.study(config=build(StudyConfig, {}, [f"training.steps={config.steps}", *config.study]))
    if collection.adapters.record(config.method) is None:
        raise UsageError(
            expected="an adapter that helps on its own lessons",
            got=f"none after {config.steps} steps",
            consequence="Nothing was measured.",
            remedy="Study longer: --steps.",
        )
    return collection


Asked = tuple[str, str, str, Prompt, Sequence[int]]
"""Kind, document, what the gate is asked, what stands before, and the tokens that are judged."""


def _stretches(data: Path, collection: Collection, config: GateConfig) -> Iterator[Asked]:
    """Passages of running text, evenly over each document; each is read behind the start token alone."""
    handle, tokenizer = collection.handle(config.method), collection.decoder.tokenizer
    for kind in TEXTS:
        for row in records(data / _text(kind, config)):
            passages = split(Document(row["doc_id"], row["title"], row["text"]), tokenizer, PASSAGE_TOKENS)
            count = min(config.stretches, len(passages))
            for passage in (passages[i * len(passages) // count] for i in range(count)):
                ids = torch.tensor(passage.ids)
                if len(ids) > 1:
                    yield kind, row["doc_id"], passage.text, handle.continuation(ids[:1], []), passage.ids[1:]


def _asked(data: Path, collection: Collection, config: GateConfig) -> Iterator[Asked]:
    """Questions without any context, and their first answer."""
    handle = collection.handle(config.method)
    for row in islice(records(data / _questions(config)), config.questions):
        [question] = row["questions"]
        answer = collection.decoder.tokens(question["answers"][0]).tolist()
        yield "questions", row["doc_id"], question["question"], handle.prompt(question["question"], []), answer


def _read(collection: Collection, asked: Sequence[Asked], what: str) -> list[Reading]:
    """Each bare and with the adapter, and what the gate says of it."""
    handle, decoder = collection.handle(collection.settings.method), collection.decoder
    adapter = collection.adapters.attach(handle, decoder)
    found = []
    with progress(f"reading {what}", len(asked)) as advance:
        for kind, document, text, prompt, target in asked:
            name, _ = collection.adapters.choose(handle, decoder, collection.library.retriever, [text])
            bare, forced = (
                float(losses(decoder, replace(prompt, adapter=used), target).sum()) for used in (None, adapter)
            )
            found.append(Reading(kind, document, len(target), bare, forced, name is not None))
            advance()
    return found


def _figure(
    name: str, texts: Sequence[Reading], asked: Sequence[Reading], how: str, recipe: str, command: str
) -> Figure:
    value, low, high = change(texts, how)
    kinds = [f"{kind} {_shown(one, how)}" for kind in TEXTS if (one := [r for r in texts if r.kind == kind])]
    note = (
        f"{len(texts)} stretches of {len({(r.kind, r.document) for r in texts})} documents of "
        f"running text ({', '.join(kinds)}), each read behind the start token alone; adapter studied without labels on "
        f"stories of {STUDIED}; interval by bootstrap over documents; per token, all stretches pooled"
    )
    if asked:
        note += f"; answers to {len(asked)} questions about the world without context: {_shown(asked, how)}"
    return Figure(name, value, low, high, "%", len(texts), recipe, command, note)


def _shown(readings: Sequence[Reading], how: str) -> str:
    value, low, high = change(readings, how)
    accepted = sum(one.accepted for one in readings)
    return f"{value:+.2f} % ({low:.2f} to {high:.2f}), {accepted} of {len(readings)} accepted by the gate"
