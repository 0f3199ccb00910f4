"""Files in LongBench's format (arXiv 2308.14508), asked and judged as lm-eval does.

Of a line `input`, `context`, `answers`, `all_classes`, `dataset` and `_id` are used. A set's own words, its most tokens
and its metric are read from lm-eval's description of it. Where we differ: the context is handed over apart, so words
that a set puts before it stand before the question; it is not truncated, because that is what answerers are compared
in; and spaces round an answer do not count, in code neither.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import yaml
from jinja2 import Template

from preread.core.errors import UnreadableDocument, UsageError, first_line
from preread.core.types import Document, text_hash
from preread.data.corpora import records
from preread.eval.case import ROOM, Case, Item
from preread.eval.kit import Kit
from preread.eval.task import Group, QuestionTask
from preread.eval.tasks.sets import draw

GROUPS: Mapping[str, Group] = {
    "single": "single document",
    "multi": "several documents",
    "summarization": "summarisation",
    "fewshot": "in-context learning",
    "synthetic": "retrieval",
    "code": "single document",
}
"""By what lm-eval's tag says."""
_LABEL = re.compile(r"\n[^\n]*[:：]\s*\Z")
"""A last line such as `Story:`, which announces the context."""


@dataclass(frozen=True, slots=True)
class Described:
    """A set of LongBench as lm-eval describes it.

    Args:
        group: which tasks it is reported with.
        ask: template of the question, with `question` for a line's `input`.
        max_tokens: of an answer.
        stops: strings that end an answer.
        metric: name of the metric.
        judge: that metric, from a line and a list of one answer to results with a `score` from 0 to 1.
    """

    group: Group
    ask: str
    max_tokens: int
    stops: tuple[str, ...]
    metric: str
    judge: Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True)
class LongBench(QuestionTask):
    """A file of one LongBench set; lines of one context are one case.

    Args:
        file: its path, or its path in the data folder.
        set: name of the set, such as `narrativeqa`; by default the file's name.
        documents: most contexts, from the first; None takes all.
    """

    file: str
    set: str = ""
    documents: int | None = None
    kind: ClassVar[str] = "longbench"

    @property
    def name(self) -> str:
        """Of the set."""
        return self.set or Path(self.file).name.split(".")[0]

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"longbench {self.name}"

    @property
    def group(self) -> Group:
        """The set's."""
        return described(self.name).group

    @property
    def headline(self) -> str:
        """As lm-eval calls it for every set."""
        return "score"

    @property
    def note(self) -> str:
        """Which metric that is."""
        return f"score is LongBench's {described(self.name).metric}, by lm-eval, with contexts in full"

    @property
    def max_tokens(self) -> int:
        """The set's."""
        return described(self.name).max_tokens

    def units(self, kit: Kit) -> Sequence[Case]:
        """A case a context, in the order of a shuffle that depends on their texts alone.

        Raises:
            UsageError: lm-eval does not know the set, or is not installed.
            UnreadableDocument: the file is not there, not in this format, or of another set.
        """
        described(self.name)
        path = Path(self.file) if Path(self.file).is_file() else kit.data / self.file
        found: dict[str, list[Mapping[str, Any]]] = {}
        for line in self._lines(path):
            found.setdefault(line["context"], []).append(line)
        cases = [self._case(context, lines) for context, lines in found.items()]
        return sorted(cases, key=lambda case: draw(case.id))[: self.documents]

    def score(self, item: Item, answer: str) -> Mapping[str, float]:
        """The set's metric."""
        found = described(self.name)
        for stop in found.stops:
            answer = answer.partition(stop)[0]
        line = {"answers": list(item.answers), "all_classes": list(item.choices)}
        return {"score": 100.0 * found.judge(line, [answer])["score"]}

    def _lines(self, path: Path) -> Iterator[Mapping[str, Any]]:
        """The file's, each with what is needed of it."""
        for number, line in enumerate(records(path), 1):
            lacking = [key for key in ("input", "context", "answers", "_id") if key not in line]
            other = line.get("dataset", self.name) not in (self.name, self.name.removesuffix("_e"))
            if lacking or other:
                raise UnreadableDocument(
                    expected=f"lines of LongBench's {self.name} in {path}",
                    got=f"no {' and no '.join(lacking)} in line {number}" if lacking else f"one of {line['dataset']}",
                    consequence="Nothing was judged.",
                    remedy="Name a file of one set, and the set as `set` where the file is called otherwise.",
                )
            yield line

    def _case(self, context: str, lines: Sequence[Mapping[str, Any]]) -> Case:
        key = f"{self.name}-{text_hash(context)}"
        return Case(key, Document(key, key, context), tuple(map(self._item, lines)))

    def _item(self, line: Mapping[str, Any]) -> Item:
        answers, classes = tuple(line["answers"]), tuple(line.get("all_classes") or ())
        gold = classes.index(answers[0]) if answers and answers[0] in classes else None
        question = Template(described(self.name).ask).render(question=line["input"]).strip()
        room = max(ROOM, self.max_tokens)
        return Item(str(line["_id"]), question, answers, classes, gold, query=line["input"], room=room)


@cache
def described(name: str) -> Described:
    """A set by its name.

    Raises:
        UsageError: lm-eval does not know it, or is not installed with what LongBench's metrics need.
    """
    metrics = official()
    folder = Path(str(metrics.__file__)).parent
    path = folder / f"{name}.yaml"
    if name.startswith("_") or not path.is_file():
        known = sorted(file.stem for file in folder.glob("[!_]*.yaml"))
        near = get_close_matches(name, known, n=1)
        raise UsageError(
            expected=f"a set of LongBench ({', '.join(known)})",
            got=name,
            consequence="Nothing was judged.",
            remedy=f"Did you mean {near[0]}?" if near else "Name it as `set` where the file is called otherwise.",
        )
    found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 derived from the safe one
    before, after = found["doc_to_text"].split("{{context}}")
    judge = found["process_results"].removeprefix("metrics.")
    return Described(
        group=next(GROUPS[tag.split("_")[1]] for tag in found["tag"] if tag.split("_")[1] in GROUPS),
        ask=f"{_LABEL.sub('', before).strip()}\n\n{after.strip()}",
        max_tokens=found["generation_kwargs"]["max_gen_toks"],
        stops=tuple(found["generation_kwargs"]["until"]),
        metric=judge.removeprefix("get_").removesuffix("_with_score"),
        judge=getattr(metrics, judge),
    )


def official() -> ModuleType:
    """LongBench's metrics as lm-eval has them.

    Raises:
        UsageError: lm-eval is not installed, or not with what they need.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their imports
            from lm_eval.tasks.longbench import metrics
    except ImportError as error:
        raise UsageError(
            expected="lm-eval with its longbench extra, whose metrics judge LongBench's files",
            got=first_line(error),
            consequence="Nothing was judged.",
            remedy="Install it: pip install 'preread[lm-eval]'.",
        ) from error
    logging.getLogger("jieba").setLevel(logging.WARNING)  # it tells of its dictionary
    found: ModuleType = metrics
    return found


class _Loader(yaml.SafeLoader):
    """Reads the name of a function as text."""


_Loader.add_constructor("!function", lambda _, node: str(node.value))
