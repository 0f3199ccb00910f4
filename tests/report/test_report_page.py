"""The page and its Markdown: every number is there, no text is markup, nothing is fetched, and twice gives the same."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from math import isfinite
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from preread.report.markdown import markdown
from preread.report.page import page
from preread.report.reading import read
from preread.report.sections import Report

from .made import figure, question_sets, renamed, running_text, write
from .seen import Page

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
SCALES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "| a | b |\n|---|---|\n# head\n- item\n1. one",
    "1. one",
    "# head",
    "[x](javascript:alert(1)) ![y](http://example.org/z.png) `code` **bold** <http://example.org>",
    "$\\frac{1}{0}$ \\alpha _{",
    "<!-- --> ]]> <iframe srcdoc=x> 鍵 \u202e \x00 \x1b[31m",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return Report(read(write(tmp_path_factory.mktemp("results"), question_sets(), running_text())))


@pytest.fixture(scope="module")
def html(report):
    return page(report)


@pytest.fixture(params=["page", "markdown"])
def seen(request, report, html):
    return Page(html) if request.param == "page" else rendered(report)


def rendered(report):
    return Page(MarkdownIt("commonmark").enable("table").render(markdown(report)))


def near(told: str, number: float, scale: float = 1.0) -> bool:
    """Whether a text is a number, as far as the text has digits."""
    digits, _, power = told.replace(",", "").partition("e")
    places = len(digits.partition(".")[2]) - int(power or 0)
    return abs(float(told.replace(",", "")) * scale - number) <= 0.5000001 * 10.0**-places * scale


def same(cell: str, *numbers: float) -> None:
    told = NUMBER.findall(cell)
    assert len(told) >= len(numbers), cell
    assert all(map(near, told, numbers)), (cell, numbers)


def test_every_number_is_told(report, seen):
    tables = iter(seen.tables[len(report.parts) :])
    for section in report.sections:
        for task in (task for tasks in section.groups.values() for task in tasks):
            head, *rows = next(tables)
            assert len(rows) == len(task.rows)
            for own, texts in zip(task.rows, rows, strict=True):
                row_is_told(own, dict(zip(map(str.strip, head), texts, strict=True)))
            cells = [(own, cell) for own in task.rows for cell in own.cells]
            if cells:
                head, *rows = next(tables)
                for (own, cell), texts in zip(cells, rows, strict=True):
                    told = dict(zip(map(str.strip, head), texts, strict=True))
                    assert own.answerer in told["answerer"]
                    for name, number in {**cell.at, **{k: v.value for k, v in cell.metrics.items()}}.items():
                        same(next(text for title, text in told.items() if title.startswith(name)), number)
    assert next(tables, None) is None


def row_is_told(own, told):
    assert own.answerer in told["answerer"]
    titles = {"share": "share of gap, %", "nll": "nll, nats a token", "f1": "F1", "em": "exact match", "rouge": "ROUGE"}
    for name, value in own.metrics.items():
        ends = [value.low, value.high] if isfinite(value.low) else []
        count = [value.n] if value.n != own.items else []
        same(told[titles.get(name, name)], value.value, *ends, *count)
    same(told["positions read"], own.positions)
    assert (own.times is None) == (told["time"].strip() == "–")
    if own.times is not None:
        same(told["time"], own.times)
    if own.seconds is not None:
        same(told["seconds"], own.seconds)
    for title, size in (("peak memory", own.peak_bytes), ("stored", own.stored_bytes)):
        number, unit = told[title].split()
        assert near(number, size, SCALES[unit])
    same(told["items"], own.items)
    same(told["units"], own.units)
    same(told["left out"], own.unfit.units if own.unfit else 0)


def test_the_scoreboard_is_told(report, seen):
    for entry in report.entries:
        told = " ".join(" ".join(next(r for t in seen.tables for r in t if r and entry.id in r[0])).split())
        assert entry.verdict in told
        if entry.figure:
            one = entry.figure
            assert all(text in told for text in (one.command, one.commit, one.device, one.date, one.note))
            assert any(near(text, one.value) for text in NUMBER.findall(told))
        if entry.goal:
            assert entry.goal.what in told
            assert ("at least" if entry.goal.better == "higher" else "at most") in told
    for section in report.sections:
        it = section.evaluation
        assert all(text in seen.text for text in (it.what, it.command, it.commit, it.device, it.date, it.weights))
        assert all(" ".join(line.split()) in seen.text for line in section.findings)


def hostile(folder, text):
    """A report of a small evaluation all of whose texts are this one."""
    small = running_text()
    small = replace(small, tasks=[replace(table, rows=table.rows[:2]) for table in small.tasks])
    return Report(read(write(folder, renamed(small, text), figures=[figure("a.sure", 1.0, 0.5, 2.0, text)])))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    told = hostile(tmp_path_factory.mktemp("harmless"), "harmless")
    return Page(page(told)).elements, rendered(told).elements


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_in_any_text_becomes_markup(tmp_path, harmless, evil):
    told = hostile(tmp_path, evil)
    for seen, expected in zip((Page(page(told)), rendered(told)), harmless, strict=True):
        assert [(tag, list(a)) for tag, a in seen.elements] == [(tag, list(a)) for tag, a in expected]
        words, shown = (re.sub(r"[\s\x00\ufffd]+", " ", text) for text in (evil, seen.text))
        assert words.strip() in shown


def test_the_page_fetches_and_runs_nothing(html):
    seen = Page(html)
    policy = next(a["content"] for _, a in seen.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not {"script", "link", "iframe", "object", "form", "svg"} & {tag for tag, _ in seen.elements}
    assert not [a for _, a in seen.elements if "style" in a or any(name.startswith("on") for name in a)]
    ids = [a["id"] for _, a in seen.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in seen.elements:
        assert attributes.get("href", "#")[1:] in {"", *ids}
        assert attributes.get("src", "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        for name in attributes.get("aria-labelledby", ids[0]).split():
            assert name in ids
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_are_whole_and_say_what_they_show(html):
    pictures = [a for tag, a in Page(html).elements if tag == "img"]
    assert len(pictures) == 1 + 5 * 2 + 2 * 2  # the first one; two a set; by answerer and by place for the others
    for one in pictures:
        assert len(one["alt"]) > 20
        svg = ElementTree.fromstring(base64.b64decode(one["src"].partition(",")[2]))
        names = {element.tag.rpartition("}")[2] for element in svg.iter()}
        assert not {"script", "text", "foreignObject"} & names
        assert all(
            value.startswith(("#", "data:image/png;base64,"))
            for element in svg.iter()
            for name, value in element.attrib.items()
            if name.endswith("href")
        )


def test_tables_can_be_heard(html):
    elements = Page(html).elements
    heads = [a for tag, a in elements if tag == "th"]
    assert all(a.get("scope") in ("row", "col") for a in heads)
    assert sum(tag == "caption" for tag, _ in elements) == sum(tag == "table" for tag, _ in elements)


def test_twice_gives_the_same_bytes(report, html, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert page(Report(report.results)) == html


def test_without_evaluations_the_scoreboard_is_shown_and_nothing_claimed(tmp_path):
    alone = Report(read(write(tmp_path)))
    seen = Page(page(alone))
    assert "No evaluation was read" in seen.text
    assert "a.sure" in seen.text
    assert "img" not in {tag for tag, _ in seen.elements}
