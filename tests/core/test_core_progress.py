"""What is shown while one waits, at a terminal and elsewhere."""

from __future__ import annotations

import io

from preread.core import progress


def test_large_and_broken_numbers_are_rounded_as_people_read_them(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    with progress.progress("adding, kB", 3_017_499.4) as advance:
        advance(2_000_000.62, note="big.txt")
        advance(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "adding, kB: 2,000,001 of 3,017,499 (0:00:00 left) big.txt"
    assert lines[2] == "adding, kB: 2,000,001 of 3,017,499 (0:00:00 left)"


def test_the_time_left_is_that_of_the_pace_so_far(monkeypatch, capsys):
    clock = iter([100.0, 160.0, 160.0, 220.0, 220.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("judging", 10) as advance:
        advance(2)
        advance(2)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "judging: 2 of 10 (0:04:00 left)",
        "judging: 4 of 10 (0:03:00 left)",
    ]


def test_what_was_done_before_says_nothing_of_the_pace(monkeypatch, capsys):
    clock = iter([100.0, 160.0, 160.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress("training", 10, done=6) as advance:
        advance(1)
    assert capsys.readouterr().err.splitlines()[1:] == ["training: 7 of 10 (0:03:00 left)"]


def test_brackets_in_a_name_are_no_markup(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", shown)
    with progress.progress("adding [/b].txt, %", 100) as advance:
        advance(50, note="[red]c[/d].txt")
    assert "adding [/b].txt, %" in shown.getvalue()
    assert "[red]c[/d].txt" in shown.getvalue()
