"""A report as Markdown: the tables of the page, without its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from preread.eval.tables import Table
from preread.report.scoreboard import Entry
from preread.report.sections import Report, Section, ends, goal, value
from preread.report.sheets import BOLD, Field, Sheet, grid_sheet, task_sheet
from preread.report.tuning import PUBLISHED, gains_sheet, published

MARKS = re.compile(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)|^[#+\-=](?=[\s#+\-=]|$)")
"""What Markdown could take for its own; a `_` within a word is none."""
NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
"""What would begin a list."""


def markdown(report: Report) -> str:
    """The whole report."""
    lines = ["# What was measured", "", *_items(report.outcome)]
    if report.faults:
        lines += ["", "What could not be read:", "", *_items(report.faults)]
    if report.entries:
        lines += ["", "## Scoreboard", "", f"{text(report.score)}."]
    for part, entries in report.parts.items():
        lines += ["", f"### {text(part)}", "", *_grid(BOARD, map(_entry, entries))]
    for number, section in enumerate(report.sections):
        lines += ["", *_section(section, first=number == 0)]
    if any(section.evaluation.gains for section in report.sections):
        lines += ["", "## What the paper reports", "", text(PUBLISHED), "", *_sheet(published())]
    return "\n".join(lines) + "\n"


def text(words: str) -> str:
    """Words on one line, of which none is markup."""
    return NUMBERED.sub(r"\1\\\2", MARKS.sub(r"\\\g<0>", " ".join(words.split())))


def code(words: str) -> str:
    """Words on one line, as code; also in a table."""
    line = " ".join(words.split()).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


BOARD = ("figure", "verdict", "value", "goal", "what", "how it was taken")


def _entry(entry: Entry) -> list[str]:
    figure, verdict = entry.figure, entry.verdict + (f": {entry.why_absent}" if entry.why_absent else "")
    if not entry.sure:
        verdict += " (its interval holds both sides of the goal)"
    told = value(entry) + (f" ({ends(entry)})" if ends(entry) else "")
    how = ""
    if figure:
        facts = [figure.device, f"commit {figure.commit}", figure.date, f"n = {figure.n:,}", figure.recipe, figure.note]
        how = f"{code(figure.command)} {text('; '.join(filter(None, facts)))}"
    return [
        code(entry.id),
        text(verdict),
        text(told),
        text(goal(entry)),
        text(entry.goal.what if entry.goal else ""),
        how,
    ]


def _section(section: Section, first: bool) -> Iterator[str]:
    it = section.evaluation
    yield from (f"## {text(it.name)}", "", text(it.what), "")
    if not first and section.findings:
        yield from (*_items(section.findings), "")
    yield from _items(f"{name}: {told}" for name, told in section.facts.items())
    yield f"- Again: {code(it.command)}"
    if gains := gains_sheet(it):
        yield from ("", "### Before and after tuning", "", *_sheet(gains))
    for group, tables in section.groups.items():
        for table in tables:
            yield from _task(group, table)


def _task(group: str, table: Table) -> Iterator[str]:
    yield from ("", f"### {text(table.label)} ({text(group)})", "")
    yield from (text(f"{table.items:,} items in {table.units:,} units. {table.note}"), "")
    sheet, grid = task_sheet(table), grid_sheet(table)
    yield from _sheet(sheet)
    if sheet.bold:
        yield from ("", text(BOLD))
    if grid:
        yield from ("", "At every place of the grid:", "", *_sheet(grid))


def _sheet(sheet: Sheet) -> Iterator[str]:
    yield from _grid(sheet.head, ([_field(field) for field in row] for row in sheet.rows))
    if sheet.footnotes:
        yield ""
        yield from (f"{number}. {text(note)}" for number, note in enumerate(sheet.footnotes, 1))


def _field(field: Field) -> str:
    told = f"**{text(field.text)}**" if field.best else text(field.text)
    told += f" ({text(field.below)})" if field.below else ""
    return told + "".join(f" ^{note}" for note in field.notes)


def _grid(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(text, head))} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _items(lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    return (f"- {text(line)}" for line in lines)
