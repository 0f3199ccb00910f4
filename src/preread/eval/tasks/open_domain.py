"""Open-domain questions: some passages in the decoder and more behind them (arXiv 2402.16617, section 4.3).

A context of more passages begins with that of fewer, so that a curve over their number shows what the further ones do
and nothing else. Where the right ones stand near, further ones can only distract; where they may stand anywhere, a
reader must use them. The published setting is between: a retriever's first 10 and first 60, which differ in how often
the right one is there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import Document
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.metrics import score
from preread.eval.task import Group, QuestionTask
from preread.eval.tasks.pool import Asked, Paragraph, Pool, laid, places, pool
from preread.eval.tasks.qa import SHORT
from preread.eval.tasks.sets import expect
from preread.retrieval.bm25 import Words

METRICS = ("em", "f1", "contains")


@dataclass(frozen=True)
class OpenDomain(QuestionTask):
    """Questions over passages of which one (nq_oracle) or two (HotpotQA) are right.

    Args:
        set: `nq_oracle`, `hotpotqa_distractor`, or another whose right paragraphs are known.
        split: of the set; distractors are its other documents'.
        also: sets whose documents distract too.
        questions: how many, in an order that depends on their ids alone.
        near: passages that stand in the decoder whatever the method.
        more: how many stand behind them, a case for each.
        distractors: `random`, or `hard`: the best by BM25.
        gold: whether the right ones are drawn among the `near` ones, or may stand `anywhere` up to the most.
        seed: of all draws.
    """

    set: str = "nq_oracle"
    split: str = "test"
    also: tuple[str, ...] = ()
    questions: int = 100
    near: int = 10
    more: tuple[int, ...] = (0, 5, 10, 20, 50)
    distractors: Literal["random", "hard"] = "hard"
    gold: Literal["near", "anywhere"] = "near"
    seed: int = 0
    kind: ClassVar[str] = "open_domain"

    def __post_init__(self) -> None:
        """Refuse settings that make no case."""
        expect(1, questions=self.questions, near=self.near)
        expect(0, more=min(self.more, default=-1))

    @property
    def label(self) -> str:
        """As tables name it."""
        where = "" if self.gold == "near" else ", right ones anywhere"
        wider = f" of {1 + len(self.also)} sets" if self.also else ""
        return f"{self.set}, {self.distractors} distractors{wider}{where}" + (
            "" if self.split == "test" else f" ({self.split})"
        )

    @property
    def group(self) -> Group:
        """Several documents."""
        return "several documents"

    @property
    def headline(self) -> str:
        """Exact match, as the paper has it."""
        return METRICS[0]

    @property
    def max_tokens(self) -> int:
        """Room for a sentence."""
        return 32

    @property
    def note(self) -> str:
        """Where passages come from."""
        which = "the best by BM25" if self.distractors == "hard" else "random"
        further = f" and those of {', '.join(self.also)}" if self.also else ""
        return f"Distractors are {which} of the split's other documents{further}, without those that hold an answer."

    def score(self, item: Item, answer: str) -> Mapping[str, float]:
        """Exact match, F1, and whether the answer contains a reference."""
        return {name: score(name, answer, item.answers) for name in METRICS}

    def drawn(self, case: Case) -> str:
        """The question, which is asked with several numbers of passages."""
        return case.id.rpartition(" ")[0]

    def units(self, kit: Kit) -> Sequence[Case]:
        """A case for each number of passages, question by question."""
        held = pool(kit.data, self.set, self.split, self.also)
        asked = held.asked[: self.questions]
        found: list[Case] = []
        with progress(f"making {self.label}", len(asked)) as advance:
            for one in asked:
                found += self._cases(kit.data, held, one)
                advance()
        return found

    def _cases(self, data: Path, held: Pool, asked: Asked) -> list[Case]:
        most = self.near + max(self.more)
        chosen, left_out = self._chosen(data, held, asked, most)
        cases = []
        for more in self.more:
            shown = chosen[: self.near + more]
            text, marks = laid(shown)
            name, evidence = f"{asked.id} {len(shown)}", places(shown, marks, asked.gold)
            source = f"{name} passages of {self.set}; left out for holding an answer: {left_out}"
            question, at = f"{asked.question} {SHORT}", (("passages", float(len(shown))),)
            item = Item(name, question, asked.answers, evidence=evidence, at=at, query=asked.question)
            cases.append(Case(name, Document(source, self.label, text, marks), (item,), self.near))
        return cases

    def _chosen(self, data: Path, held: Pool, asked: Asked, most: int) -> tuple[list[Paragraph], int]:
        """All passages of the longest context in order, and how many that hold an answer were left out."""
        draw = random.Random(f"{self.seed} {asked.id}")  # noqa: S311 no secret depends on it
        others, left_out = held.others(asked)
        wanted = most - len(asked.gold)
        if len(others) < wanted or self.near < len(asked.gold):
            raise UsageError(
                expected=f"{len(asked.gold)} to {len(others) + len(asked.gold)} passages for {asked.id}",
                got=f"{self.near}, and {most} with the further ones",
                consequence="Nothing was judged.",
                remedy="Change `near` or `more` in the recipe.",
            )
        if self.distractors == "hard":
            scores = _index(data, self.set, self.split, self.also).scores(asked.question)
            others = sorted(others, key=lambda number: (-float(scores[number]), number))[:wanted]
        else:
            others = draw.sample(others, wanted)
        chosen = [held.paragraphs[number] for number in others]
        reach = self.near if self.gold == "near" else most
        for place, paragraph in zip(sorted(draw.sample(range(reach), len(asked.gold))), asked.gold, strict=True):
            chosen.insert(place, paragraph)
        return chosen, left_out


@lru_cache(maxsize=4)
def _index(data: Path, name: str, split: str, also: tuple[str, ...]) -> Words:
    """BM25 over all paragraphs of a pool."""
    return Words([one.shown for one in pool(data, name, split, also).paragraphs])
