"""`quiz`: a map on stdout and as a page, exit code 3 below the bar, and passages that stay text until `--clear`."""

from __future__ import annotations

import json

import pytest

from preread.collection import probing
from preread.core.types import MEMORY

from ..conftest import story

OPTIONS = ("--collection", "sea", "--per-page", "1")


@pytest.fixture
def sea(run, tmp_path, monkeypatch):
    """A collection whose memory tells half of what the text tells."""

    def judge(decoder, prompts, answers):
        worth = [3 if (prompt.ids == MEMORY).any() else 1 if prompt.shared > 80 else 5 for prompt in prompts]
        return [nats * len(answer) for nats, answer in zip(worth, answers, strict=True)]

    monkeypatch.setattr(probing, "answer_nats", judge)
    for name in ("schooner", "brig"):
        path = tmp_path / f"{name}.md"
        path.write_text(story(name), encoding="utf-8")
        assert run("add", str(path), "--collection", "sea", "--model", "tiny", "--ratio", "8")[0] == 0
    return tmp_path


def test_below_the_bar_is_3_and_at_it_0(run, sea):
    code, out, err = run("quiz", *OPTIONS)
    assert code == 3
    assert "memory keeps 50% (50% to 50%) of what the text tells" in out
    assert "below the bar of 80%; " in out
    assert "such passages stay memory" in out
    assert "such passage" not in run("quiz", *OPTIONS, "--keep-text", "100")[1]
    assert "asking about passages" in err
    code, out, _ = run("quiz", *OPTIONS, "--min-kept", "0.5")
    assert code == 0
    assert "below the bar" not in out


def test_what_stays_text_is_listed_shown_and_cleared(run, sea):
    source = str(sea / "brig.md")
    found = json.loads(run("quiz", source, *OPTIONS, "--keep-text", "60", "--json")[1])
    assert 0 < found["text_tokens"] <= 0.6 * found["tokens"]
    assert f", {found['as_text']} as text" in run("list")[1]
    shown = json.loads(run("show", source, "--collection", "sea", "--json")[1])
    assert sum(row["as_text"] for row in shown) == found["as_text"]
    assert run("show", source, "--collection", "sea")[1].count(" as text ") == found["as_text"]
    cleared = json.loads(run("quiz", "--clear", "--collection", "sea", "--json")[1])
    assert cleared == {"cleared": found["as_text"]}
    assert "as text" not in run("list")[1]


def test_the_page_is_written_where_it_is_wanted(run, sea):
    page = sea / "new" / "map.html"
    code, out, _ = run("quiz", *OPTIONS, "--min-kept", "0", "--html", str(page))
    assert code == 0
    assert f"The page is at {page}" in out
    assert "Memory keeps 50% (50% to 50%) of what the text tells" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "wrong",
    [("nowhere.md",), ("--min-kept", "2"), ("--keep-text", "-1"), ("--per-page", "0"), ("--adapter",)],
    ids=" ".join,
)
def test_what_makes_no_sense_is_2_and_asks_nothing(run, sea, wrong):
    code, out, err = run("quiz", *wrong, *(OPTIONS if "--per-page" not in wrong else OPTIONS[:2]))
    assert (code, out) == (2, "")
    assert "preread: Expected" in err


def test_hybrid_is_a_mode_like_the_others(run, sea):
    code, out, _ = run(
        "ask", "What met the brig on day 5?", "--collection", "sea", "--mode", "hybrid", "--max-tokens", "4"
    )
    assert code == 0
    assert "as text: " in out
    assert "as memory: " in out
    assert run("ask", "What?", "--collection", "sea", "--mode", "both")[0] == 2
