"""Results as `preread eval` writes them, made up: question sets, running text by position, and a grid."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path

from preread.bench.figures import Figure
from preread.eval.tables import Cell, Evaluation, Row, Table, Unfits, Value, plain

SETS = (
    ("fairytaleqa", "single document", "f1", 2600),
    ("hotpotqa_distractor", "several documents", "f1", 1500),
    ("squad2_articles", "single document", "f1", 6100),
    ("squality", "summarisation", "rouge", 7200),
    ("qmsum", "summarisation", "rouge", 9800),
)
ANSWERERS = (
    ("no context", "none", 0.0, 0.0),
    ("full text", "full", 1.0, 1.0),
    ("full text, yarn", "stretched", 0.96, 1.0),
    ("streaming", "streaming", 0.42, 0.3),
    ("head 2048", "shortened", 0.5, 0.35),
    ("head+tail 2048", "shortened", 0.54, 0.35),
    ("hybrid 5 x 512", "retrieved", 0.83, 0.45),
    ("hybrid 4x", "retrieved", 0.79, 0.25),
    ("bm25 16x", "retrieved", 0.56, 0.07),
    ("hybrid 16x", "retrieved", 0.6, 0.07),
    ("oracle, 5 passages", "oracle", 0.93, 0.2),
    ("kv 4x", "memory", 0.88, 0.25),
    ("kv 16x", "memory", 0.57, 0.07),
    ("lloco 30x", "memory", 0.22, 0.04),
    ("kv 16x, another document's", "other", -0.14, 0.07),
    ("no context, tuned", "tuned", 0.31, 0.0),
)
FIRST = ("compressor: a first one, 216,000 training tokens", "not yet useful: its memories help no more than another's")


def value(middle: float, half: float, n: int = 60) -> Value:
    return Value(middle, middle - half, middle + half, n)


def row(draw: random.Random, spec, headline: str, tokens: int, items: int) -> Row:
    label, kind, share, size = spec
    shown = share + draw.gauss(0, 0.05) * (kind not in ("none", "full"))
    top = 38.0 if headline == "f1" else 19.0
    unfit = (
        Unfits(3, f"a text of at most 8,192 positions; got {tokens * 2:,}")
        if kind == "full" and tokens > 7000
        else None
    )
    metrics = {
        headline: value(top * (0.3 + 0.6 * max(shown, 0)), 3.1, items),
        "em" if headline == "f1" else "rougeL": value(top * 0.2 * (1 + max(shown, 0)), 2.2, items),
        "nll": value(5.3 - 2.1 * shown, 0.31, items),
        "share": value(100 * shown, 9.0 * (kind not in ("none", "full")), items - 3 * bool(unfit)),
    }
    caveats = FIRST if label.startswith("lloco") else ()
    positions = 60 + size * tokens
    return Row(
        label,
        kind,
        caveats,
        items // 4,
        items,
        unfit,
        metrics,
        positions,
        None,
        1 + positions / 130,
        int(2e6 + 23_040 * positions),
        4.2 * tokens * (kind != "none"),
    )


def question_sets(seed: int = 0) -> Evaluation:
    draw = random.Random(seed)
    tables = [
        Table(
            label,
            "qa",
            group,
            headline,
            True,
            "Questions are asked as the set has them." if group == "summarisation" else "",
            15,
            60,
            [row(draw, spec, headline, tokens, 60) for spec in ANSWERERS],
        )
        for label, group, headline, tokens in SETS
    ]
    return evaluation("sets", "how much of what reading a document gives survives compression", tables)


def running_text(seed: int = 0) -> Evaluation:
    draw = random.Random(seed)
    rows = []
    for label, kind, gain in (
        ("full text", "full", 0.9),
        ("full text, ntk", "stretched", 0.8),
        ("last 2048", "shortened", 0.4),
    ):
        cells = [
            Cell(
                {"position": float(2**k)},
                {"nll": value(3.6 - gain * k / 14, 0.05), "perplexity": value(36 - 2 * gain * k, 1.7)},
            )
            for k in range(8, 15)
        ]
        metrics = {
            "nll": value(3.1 - gain / 3 + draw.random() / 9, 0.04, 56),
            "perplexity": value(22 - 4 * gain, 0.9, 56),
        }
        rows.append(Row(label, kind, (), 8, 56, None, metrics, 8192.0, 1.25, None, 123_456_789, 0.0, cells))
    table = Table("books, by position", "positions", "language modelling", "nll", False, "", 8, 56, rows)
    needles = [
        Row(
            label,
            kind,
            (),
            25,
            25,
            None,
            {"contains": value(60 * power, 11.0, 25)},
            400.0 * (1 + power),
            None,
            3.5,
            10**8,
            5e5,
            [
                Cell(
                    {"length": float(length), "depth": depth},
                    {"contains": value(max(0.0, 99 * power - length / 200 - 20 * depth), 5.0)},
                )
                for length in (1024, 2048, 4096, 8192)
                for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
            ],
        )
        for label, kind, power in (
            ("full text", "full", 1.0),
            ("hybrid 16x", "retrieved", 0.9),
            ("kv 16x", "memory", 0.6),
        )
    ]
    needle = Table(
        "needle", "needle", "retrieval", "contains", True, "Right where the answer holds the needle.", 25, 25, needles
    )
    return evaluation(
        "text", "what each token of a longer window adds, and whether a needle in it is found", [table, needle]
    )


def evaluation(name: str, what: str, tables) -> Evaluation:
    return Evaluation(
        name,
        what,
        {"tasks": [{"kind": "qa", "set": "fairytaleqa"}], "answerers": [{"kind": "none"}]},
        f"preread eval recipes/eval-{name}.yaml --data DATA",
        "0123456789ab",
        "Some Processor, 2 threads",
        "2026-01-02",
        "smollm2-135m-instruct",
        "weights de-quantised from Q4_1",
        tables,
    )


def figure(name: str, number: float, low: float, high: float, note: str = "as it came") -> Figure:
    return Figure(
        name, number, low, high, "x", 5, "repeats=5", "preread bench cpu", note, "0123456789ab", "A CPU", "2026-01-02"
    )


FIGURES = (
    figure("a.sure", 102.4, 91.5, 123.6),
    figure("a.wide", 2.25, 1.5, 3.125),
    figure("b.error", 2.5e-6, 1e-7, 2.5e-6),
    figure("b.miss", 8.53, 7.85, 9.09, "the goal was set for an older rival"),
    figure("z.new", 0.25, 0.125, 0.5),
)
GOALS = """id,part,better,goal,unit,what
a.sure,house,higher,25,x,first token of text over memory
a.wide,house,higher,2,x,decoding
b.error,parity,lower,1e-5,abs,largest difference
b.miss,parity,higher,15,x,against plain generation
c.gpu,scale,higher,600000,tokens,longest context of a shape (GPU)
c.later,scale,lower,0,documents,lost
"""


def write(folder: Path, *evaluations: Evaluation, figures=FIGURES, goals: str | None = GOALS) -> Path:
    """Evaluations, figures and goals as a folder of results."""
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    for one in evaluations:
        told = {**asdict(one), "tasks": [plain(table) for table in one.tasks]}
        (folder / "eval" / f"{one.name}.json").write_text(json.dumps(told), encoding="utf-8")
    if figures:
        lines = "".join(json.dumps(asdict(one)) + "\n" for one in figures)
        (folder / "figures.jsonl").write_text(lines, encoding="utf-8")
    if goals:
        (folder / "goals.csv").write_text(goals, encoding="utf-8")
    return folder


def renamed(one: Evaluation, text: str) -> Evaluation:
    """The same with every text replaced, as a hostile file would have it; kinds and metrics stay."""
    tasks = [
        replace(
            table,
            label=f"{text} {n}",
            note=text,
            group=text,
            rows=[
                replace(r, answerer=f"{text} {k}", caveats=(text,), unfit=Unfits(1, text))
                for k, r in enumerate(table.rows)
            ],
        )
        for n, table in enumerate(one.tasks)
    ]
    return replace(
        one,
        name="hostile",
        what=text,
        command=text,
        commit=text,
        device=text,
        date=text,
        model=text,
        weights=text,
        recipe={text: text},
        tasks=tasks,
    )
