"""A LoRA that is taught a set's training questions, from what an answerer reads of their documents.

LLoCO's finetuning (arXiv 2404.07979, section 3.2) for any answerer: questions, objective, loop and care are the same,
so that tuned rows differ in what is read alone.
"""

from __future__ import annotations

import random
import shutil
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preread.core.errors import PrereadWarning, UsageError
from preread.core.progress import progress
from preread.core.provenance import commit, device
from preread.core.types import KeyValues, Lesson, Prompt
from preread.eval.answerer import Prompted
from preread.eval.case import Case, Unfit
from preread.eval.kit import Kit
from preread.nn.answering import AnswerObjective
from preread.nn.lora import Lora, LoraConfig, digest
from preread.training.loop import TrainingConfig, train

KEPT_BYTES = 4 * 2**30
"""Most bytes of what is read of training documents that are held; the rest is made again when it is needed."""
RUN = "run"
"""Folder of checkpoint and log while the training goes on."""


@dataclass(frozen=True)
class Tuning:
    """What a LoRA is taught, and how; as in the paper, but for the learning rate.

    Args:
        set: question set that it is taught; None is the one that it is judged on.
        split: part of the set.
        documents: most of its documents; None takes all.
        questions: most questions of a document; None takes all.
        epochs: passes over the questions; each teaches the next reference of those that have several.
        steps: most optimizer steps; None takes all passes.
        batch: questions a step.
        learning_rate: peak. The paper's, for 7 B parameters, is 2e-5, which 135 M hardly notice (docs/evaluation.md).
        lora: shape of the adapter.
        distil: weight of what the bare decoder would say from the full text, beside that of the answers, which is 1
            (ours, not the paper's); a question whose full text is too long is then left out.
        max_context: a question whose prompt and answer have more positions is left out; None is the decoder's window.
        positions: of a micro-step: so many questions of a step are read at once as fit, each as long as the longest.
        seed: of the order of questions, the adapter's beginning and its dropout.
    """

    set: str | None = None
    split: str = "train"
    documents: int | None = None
    questions: int | None = 32
    epochs: float = 3.0
    steps: int | None = None
    batch: int = 8
    learning_rate: float = 1e-3
    lora: LoraConfig = LoraConfig()
    distil: float = 0.0
    max_context: int | None = None
    positions: int = 16384
    seed: int = 0


class NoneFits(Unfit):
    """There is nothing to teach: what the answerer reads of any training document is too long."""


class Lessons:
    """Training questions as lessons, by number of the micro-step; the same number gives the same lessons.

    Every document is read once, before the first step, also where a stopped run goes on. What was read is held in
    memory up to `KEPT_BYTES`, and made again where it was longest ago that it was needed.

    Args:
        kit: the run's.
        answerer: who lays the prompts.
        teacher: who lays the teacher's; None where only the answers are taught.
        cases: with the questions.
        tuning: how they are taught.
        missing: what is taught as the answers of a question that has none; not seen by who lays the prompts, who is not
            told of it either where it is judged.

    Attributes:
        taught: number of the case and of its item, for each question that fits.
        longest: positions of the longest of those, answer included.
        limit: most positions that one may have.

    Raises:
        NoneFits: no question does.
        UsageError: the answerer reads with another decoder than the kit's.
    """

    def __init__(
        self,
        kit: Kit,
        answerer: Prompted,
        teacher: Prompted | None,
        cases: Sequence[Case],
        tuning: Tuning,
        missing: tuple[str, ...] = (),
    ) -> None:
        self.kit, self.answerer, self.teacher, self.cases, self.tuning = kit, answerer, teacher, cases, tuning
        self.missing = missing
        self.limit = min(tuning.max_context or kit.decoder.window, kit.decoder.window)
        self._held: OrderedDict[int, list[tuple[Prompt, Prompt | None]]] = OrderedDict()
        self._nbytes = 0
        self._order: tuple[int, list[int]] = (-1, [])
        lengths: dict[tuple[int, int], int] = {}
        with progress(f"reading {len(cases)} training documents for {answerer.label}", len(cases)) as advance:
            for case in range(len(cases)):
                lengths |= {(case, item): length for item, length in enumerate(self._lengths(case))}
                advance()
        self.taught = [where for where, length in lengths.items() if length <= self.limit]
        self.longest = max((lengths[where] for where in self.taught), default=0)
        if not self.taught:
            raise NoneFits(
                expected=f"training questions that fit {self.limit} positions as {answerer.label} reads them",
                got=f"none of {self.asked}",
                consequence="The row is empty.",
                remedy="Take an answerer that shortens the context, or a larger max_context.",
            )

    @property
    def asked(self) -> int:
        """How many questions there are, with those that do not fit."""
        return sum(len(case.items) for case in self.cases)

    @property
    def rows(self) -> int:
        """Lessons of a micro-step: of what divides a batch, the most that its positions hold."""
        batch = self.tuning.batch
        fitting = [r for r in range(1, batch + 1) if batch % r == 0 and r * self.longest <= self.tuning.positions]
        return max(fitting, default=1)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        passes = max(1, round(self.tuning.epochs * len(self.taught) / self.tuning.batch))
        return passes if self.tuning.steps is None else min(self.tuning.steps, passes)

    def __call__(self, micro: int) -> list[Lesson]:
        """The lessons of a micro-step."""
        return [self._lesson(number) for number in range(micro * self.rows, (micro + 1) * self.rows)]

    def _lesson(self, number: int) -> Lesson:
        epoch, place = divmod(number, len(self.taught))
        if self._order[0] != epoch:
            draw = random.Random(f"{self.tuning.seed}/{epoch}")  # noqa: S311 no secret depends on it
            self._order = epoch, draw.sample(range(len(self.taught)), len(self.taught))
        case, item = self.taught[self._order[1][place]]
        prompt, teacher = self._read(case)[item]
        references = self.cases[case].items[item].answers or self.missing
        return Lesson(prompt, self._ids(references[epoch % len(references)]), teacher)

    def _ids(self, answer: str) -> Tensor:
        decoder = self.kit.decoder
        return torch.cat([decoder.tokens(answer), torch.tensor([decoder.tokenizer.eos_token_id])])

    def _lengths(self, case: int) -> list[int]:
        """Positions of each item with its longest reference; more than fit where it cannot be read at all."""
        try:
            read = self._read(case)
        except Unfit:
            return [self.limit + 1] * len(self.cases[case].items)
        each = [item.answers or self.missing for item in self.cases[case].items]
        answers = [max(len(self._ids(text)) for text in references) for references in each]
        return [
            max(len(prompt), len(teacher) if teacher else 0) + answer
            for (prompt, teacher), answer in zip(read, answers, strict=True)
        ]

    def _read(self, case: int) -> list[tuple[Prompt, Prompt | None]]:
        """What is read of a case for each of its items, and what the teacher reads."""
        if case not in self._held:
            taught = self._laid(self.teacher, case) if self.teacher else [None] * len(self.cases[case].items)
            self._held[case] = list(zip(self._laid(self.answerer, case), taught, strict=True))
            self._nbytes += _nbytes(self._held[case])
            while len(self._held) > 1 and self._nbytes > KEPT_BYTES:
                self._nbytes -= _nbytes(self._held.popitem(last=False)[1])
        self._held.move_to_end(case)
        return self._held[case]

    def _laid(self, answerer: Prompted, number: int) -> list[Prompt]:
        case = self.cases[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrereadWarning)  # the row says the same of what it is judged on
            return self._prompts(answerer, case)

    def _prompts(self, answerer: Prompted, case: Case) -> list[Prompt]:
        with answerer.laid(self.kit, case, case.items) as layout:
            attached = any(prompt.reader for prompt in layout.prompts)  # lessons outlast this block
            if attached or layout.decoder is not self.kit.decoder:
                raise UsageError(
                    expected="an answerer that leaves the decoder as it is, to be tuned",
                    got=answerer.label,
                    consequence="Nothing was trained or judged.",
                    remedy="Tune the full text inside the window, a shortened one or a memory that stands in it.",
                )
            return _kept(layout.prompts)


def teach(lessons: Lessons, folder: Path, what: str, about: Mapping[str, Any], until: float | None) -> bool:
    """Train a LoRA on the lessons, or go on where a stopped call ended; whether it is finished now.

    A CPU gives the same bits however often the training was stopped.

    Args:
        lessons: what is taught.
        folder: gets the adapter and its manifest when it is finished; `run/` in it holds the checkpoint until then.
        what: shown beside the progress.
        about: what the manifest says beside what came of it.
        until: when to stop, as `time.monotonic` has it; None runs to the end.
    """
    decoder, tuning = lessons.kit.decoder, lessons.tuning
    minutes = None if until is None else max(0.0, until - time.monotonic()) / 60
    config = TrainingConfig(
        steps=lessons.steps,
        learning_rate=tuning.learning_rate,
        accumulation=tuning.batch // lessons.rows,
        seed=tuning.seed,
        minutes=minutes,
    )
    torch.manual_seed(tuning.seed)
    lora = decoder.adapters.add(folder.name, Lora(tuning.lora, decoder.projections))
    try:
        objective = AnswerObjective(decoder, folder.name, distil=tuning.distil)
        outcome = train(objective, lessons, config, folder / RUN, what)
        if not outcome.finished:
            return False
        part = folder / f"{RUN}.part"
        found = {"questions": len(lessons.taught), "left_out": lessons.asked - len(lessons.taught)}
        made = {"steps": outcome.step, "losses": outcome.losses, "digest": digest(lora)}
        where = {"device": device(), "commit": commit(), "date": date.today().isoformat()}
        objective.save(part, {**about, **found, "limit": lessons.limit, **made, **where})
        for file in sorted(part.iterdir(), key=lambda path: path.suffix == ".json"):  # the manifest last: it counts
            file.replace(folder / file.name)
        part.rmdir()
        shutil.rmtree(folder / RUN)
    finally:
        decoder.adapters.remove(folder.name)
    return True


def _kept(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with copies of their memories on the CPU; one that equals the first prompt's is not copied again."""
    made: list[Prompt] = []
    for prompt in prompts:
        twin = made[0] if made and _same_memory(made[0], prompt) else _copied(prompt)
        made.append(replace(prompt, embeds=twin.embeds, kv=twin.kv))
    return made


def _copied(prompt: Prompt) -> Prompt:
    # A copy is a plain tensor, also of what was made without gradients in mind.
    embeds = None if prompt.embeds is None else prompt.embeds.cpu().clone()
    kv = prompt.kv and KeyValues(*(tensor.cpu().clone() for tensor in _tensors(prompt.kv)))
    return replace(prompt, embeds=embeds, kv=kv)


def _same_memory(one: Prompt, other: Prompt) -> bool:
    mine, others = _memory(one), _memory(other)
    return len(mine) == len(others) and all(torch.equal(a, b.cpu()) for a, b in zip(mine, others, strict=True))


def _memory(prompt: Prompt) -> list[Tensor]:
    return [*([] if prompt.embeds is None else [prompt.embeds]), *([] if prompt.kv is None else _tensors(prompt.kv))]


def _tensors(kv: KeyValues) -> list[Tensor]:
    return [kv.keys, kv.values, kv.bias]


def _nbytes(read: Sequence[tuple[Prompt, Prompt | None]]) -> int:
    """Bytes of what is held for a case, each tensor once."""
    tensors = {id(t): t for pair in read for prompt in pair if prompt for t in (prompt.ids, *_memory(prompt))}
    return sum(tensor.nbytes for tensor in tensors.values())
