"""What tuning gave, by group of sets, and the published rows that it stands beside."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files
from statistics import mean

from preread.eval.tables import Evaluation
from preread.report.numbers import between, fixed
from preread.report.sheets import Field, Sheet

PLACES = 1
PUBLISHED = (
    "Published for LLaMA2-7B (arXiv 2404.07979, table 1): another model and whole sets, some of them others. "
    "Beside the rows above and not against them: what compares is which way is ahead of which."
)


def gains_sheet(evaluation: Evaluation) -> Sheet | None:
    """A row for each answerer and group: mean score before and after tuning, and the gain; None without any."""
    rows = [
        [
            Field(gain.answerer),
            Field(gain.group),
            Field(f"{gain.sets}"),
            Field(fixed(gain.untuned, PLACES)),
            Field(fixed(gain.tuned, PLACES)),
            Field(fixed(gain.gain.value, PLACES), below=between(gain.gain.low, gain.gain.high, PLACES)),
        ]
        for gain in evaluation.gains
    ]
    return Sheet(["answerer", "sets", "how many", "untuned", "tuned", "gain"], rows) if rows else None


def published() -> Sheet:
    """The paper's rows."""
    lines = files("preread").joinpath("assets/published-lloco.csv").read_text(encoding="utf-8").splitlines()
    head, *rows = csv.reader(lines)
    return Sheet([*head, "mean"], [[*map(Field, row), Field(_mean(row[2:]))] for row in rows])


def _mean(scores: Sequence[str]) -> str:
    return fixed(mean(map(float, scores)), 2)
