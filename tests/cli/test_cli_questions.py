"""`ask` and `chat`: where a question goes, what is said where nothing holds its answer, and turn after turn."""

from __future__ import annotations

import io
import json

import pytest

from ..conftest import story

HELD = "What met the storm number 35 on day 5?"
NOT_HELD = "Which enzyme splits lactose?"
SHORT = ("--max-tokens", "4")


@pytest.fixture
def shelves(run, tmp_path):
    """Two collections."""
    texts = {
        "sea": story("schooner"),
        "kitchen": "Rye bread needs a sourdough, a hot oven and six hours of patience.\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.md"
        path.write_text(text, encoding="utf-8")
        assert run("add", str(path), "--collection", name, "--model", "tiny", "--ratio", "8")[0] == 0


@pytest.fixture
def type_in(monkeypatch):
    """Put lines on stdin, as a pipe does."""
    return lambda *lines: monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_question_is_routed_unless_a_collection_is_named(run, shelves):
    code, out, _ = run("ask", HELD, *SHORT)
    assert code == 0
    assert "collection sea: relevance" in out
    assert "next kitchen" in out
    routed = json.loads(run("ask", "What does rye bread need?", *SHORT, "--json")[1])
    assert (routed["collection"], routed["route"]["runner_up"]) == ("kitchen", "sea")
    named = json.loads(run("ask", "What does rye bread need?", *SHORT, "--json", "--collection", "sea")[1])
    assert (named["collection"], named["route"]) == ("sea", None)
    assert named["relevance"] == pytest.approx(routed["route"]["runner_up_relevance"])


@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_a_doubt_stands_before_the_answer(run, shelves, stream):
    code, out, _ = run("ask", NOT_HELD, *SHORT, *stream)
    assert code == 0
    assert out.startswith("The documents do not seem to hold an answer to this: relevance")
    assert out.count("do not seem to hold") == 1
    assert "do not seem" not in run("ask", HELD, *SHORT, *stream)[1]


def test_strict_gives_no_answer_and_exit_code_3(run, shelves):
    code, out, err = run("ask", NOT_HELD, *SHORT, "--strict")
    assert code == 3
    assert out.startswith("The documents do not seem to hold")
    assert "[1]" in out
    assert "not read: " in out
    assert "Traceback" not in err
    code, out, _ = run("ask", NOT_HELD, "--strict", "--json")
    assert code == 3
    assert (json.loads(out)["text"], json.loads(out)["finish"]) == ("", "withheld")
    assert run("ask", HELD, *SHORT, "--strict")[0] == 0


def test_chat_answers_line_by_line_and_remembers(run, shelves, type_in):
    type_in(HELD, "And on day 6?", "", "never asked")
    few = (*SHORT, "--mode", "passages", "--passages", "1")  # so that the window has room for the turn before
    code, out, err = run("chat", *few, "--json", "--collection", "sea")
    assert code == 0
    assert ">" not in err, "nobody is there to be asked"
    first, second = (json.loads(line) for line in out.splitlines())
    type_in("And on day 6?")
    alone = json.loads(run("chat", *few, "--json", "--collection", "sea")[1])
    assert second["usage"]["tokens_read"] > alone["usage"]["tokens_read"]
    assert first["citations"][0]["text"].count("35") == 1


def test_chat_in_words_and_its_end(run, shelves, type_in):
    type_in(HELD, NOT_HELD)
    code, out, _ = run("chat", *SHORT, "--strict")
    assert code == 0
    assert out.count("collection sea: relevance") >= 1
    assert out.count("do not seem to hold") == 1
    type_in()
    assert run("chat")[:2] == (0, "")


def test_chat_survives_a_question_that_does_not_fit(run, shelves, type_in):
    type_in("storm " * 3000, HELD)
    code, out, err = run("chat", *SHORT, "--json", "--collection", "sea")
    assert code == 0
    assert json.loads(err.splitlines()[-1])["error"] == "WindowExceeded"
    [line] = out.splitlines()
    assert json.loads(line)["finish"] in ("stop", "length")


def test_a_choice_of_adapter_that_there_is_not_is_a_mistake(run, shelves):
    code, out, err = run("ask", HELD, "--adapter", "sometimes")
    assert (code, out) == (2, "")
    assert "auto, always, never" in err
    code, out, _ = run("ask", HELD, *SHORT, "--adapter", "never", "--json")
    assert code == 0
    assert json.loads(out)["adapter"] is None, "no collection was studied"
