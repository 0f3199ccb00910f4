"""`preread report`: a page and Markdown from a folder of results, the scoreboard as JSON, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ..report.made import FIGURES, running_text, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "results", running_text())


def test_the_page_and_markdown_are_written_and_the_scoreboard_printed(call, folder, tmp_path):
    page, text = tmp_path / "made" / "report.html", tmp_path / "made" / "report.md"
    code, out, _ = call("report", "--results", str(folder), "--out", str(page), "--markdown", str(text), "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["page"], told["markdown"]) == (str(page), str(text))
    assert page.read_text().startswith("<!doctype html>")
    assert text.read_text().startswith("# What was measured")
    board = {entry["id"]: entry for entry in told["scoreboard"]}
    assert {one.id: one.value for one in FIGURES} == {i: e["value"] for i, e in board.items() if e["value"] is not None}
    assert board["b.miss"]["verdict"] == "miss"
    assert board["c.gpu"]["verdict"] == "absent"
    assert board["c.gpu"]["goal"] == 600000


def test_markdown_goes_to_stdout_alone(call, folder, tmp_path):
    code, out, err = call("report", "--results", str(folder), "--out", str(tmp_path / "r.html"), "--markdown", "-")
    assert code == 0
    assert out.startswith("# What was measured")
    assert "written" not in out
    assert "written" in err
    code, out, err = call("report", "--results", str(folder), "--markdown", "-", "--json")
    assert (code, out) == (2, "")
    assert "one result on stdout" in err


def test_what_is_broken_is_a_line_and_the_rest_a_page(call, folder, tmp_path):
    (folder / "eval" / "broken.json").write_text("{")
    page = tmp_path / "r.html"
    code, out, err = call("report", "--results", str(folder), "--out", str(page))
    assert code == 0
    assert [line for line in err.splitlines() if "broken.json" in line and line.startswith("warning: ")]
    assert "broken.json" in page.read_text()
    assert "3 hit, 1 miss, 2 absent, 1 no goal" in out


def test_nothing_to_read_is_1_and_no_page(call, tmp_path):
    code, out, err = call("report", "--results", str(tmp_path), "--out", str(tmp_path / "r.html"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "preread eval" in err
    assert not (tmp_path / "r.html").exists()


def test_no_model_library_is_loaded(folder, tmp_path):
    script = (
        "import sys, preread.cli\n"
        f"sys.argv = ['preread', 'report', '--results', {str(folder)!r}, '--out', {str(tmp_path / 'r.html')!r}]\n"
        "try: preread.cli.main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'lancedb') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
