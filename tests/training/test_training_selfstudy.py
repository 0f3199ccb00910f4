"""What a model writes about a text: held against the text, drawn by a seed, and kept line by line."""

from __future__ import annotations

import pytest

from preread.core.errors import PrereadError
from preread.core.types import Passage
from preread.data.questions import GENERAL, Question
from preread.engines.base import Event
from preread.engines.local import LocalEngine
from preread.methods.text import Text
from preread.training.selfstudy import (
    FOREIGN,
    KINDS,
    Written,
    answer_general,
    first_question,
    keep,
    load,
    unsupported,
    write,
)

TEXT = "In 1901 the Aurora left Bergen with 1,200 men. Olsen's brother, the mate, said that none of them came back."
GOOD = "How many men were on the Aurora?"


@pytest.fixture
def teacher(tiny_decoder):
    with Text().attach(tiny_decoder("llama")) as handle:
        yield handle


@pytest.fixture
def passages(teacher):
    return [Passage("doc", 0, tuple(teacher.decoder.tokens(TEXT).tolist()), 0, len(TEXT), TEXT, "", 0)]


class Scripted(LocalEngine):
    """Writes the given texts, one list a call, and keeps what it was asked."""

    def __init__(self, decoder, *calls):
        super().__init__(decoder)
        self.calls, self.asked, self.samplings = list(calls), [], []

    def complete(self, prompts, sampling=None, cancelled=lambda: False):
        self.asked.append([self.decoder.tokenizer.decode(prompt.ids) for prompt in prompts])
        self.samplings.append(sampling)
        told = [one if isinstance(one, tuple) else (one, "stop") for one in self.calls.pop(0)]
        assert len(told) == len(prompts)
        return [Event(i, text, 5, 0.0, 0.0, finish) for i, (text, finish) in enumerate(told)]


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        (GOOD, []),
        ("Who is Olsen, and what did the Mate say in 1901?", []),
        ("How many of the 1200 men came back to BERGEN?", []),
        ("Did Amundsen sail in 1903?", ["Amundsen", "1903"]),
        ("Amundsen sailed. Then he rested.", []),  # the first word of a sentence may be any word
        ("I wonder who “The mate” was: Olsen or Olsson?", ["Olsson"]),
        ("1. The mate\n2. Olsen\n3) Bergen", []),
        ("He had 3 men.", ["3"]),
    ],
)
def test_numbers_and_names_are_held_against_the_text(text, foreign):
    assert unsupported(text, TEXT) == foreign


@pytest.mark.parametrize(
    "said",
    [GOOD, f"Question: {GOOD}", f"\n\n1. {GOOD}\n2. Another?", f'**Question:** "{GOOD}"', f"Here is one:\n{GOOD}"],
)
def test_a_question_is_found_in_what_a_model_says(said):
    assert first_question(said) == GOOD


def test_every_kind_is_asked_for_behind_the_text_and_answered_from_it(teacher, passages):
    asked = [
        "List the men of the Aurora.",
        "What did the Aurora do?",
        "When did the Aurora leave?",
        "Who came back?",
        "What if not?",
    ]
    engine = Scripted(teacher.decoder, asked, ["1,200 men.", "It left Bergen.", "In 1901.", "None.", "Nobody knows."])
    written = write(engine, teacher, passages, "7", 0.5, ())
    assert [(q.kind, q.text) for q in written.questions] == list(zip(KINDS, asked, strict=True))
    assert written.questions[0].answer == "1,200 men."
    assert written.dropped == {}
    for prompt, request in zip(engine.asked[0], KINDS.values(), strict=True):
        assert prompt.index(TEXT) < prompt.index(request)
    for prompt, question in zip(engine.asked[1], asked, strict=True):
        assert prompt.index(TEXT) < prompt.index(question)
    assert len({sampling.seed for sampling in engine.samplings[0]}) == len(KINDS)
    assert engine.samplings[1].temperature == 0


def test_what_does_not_hold_is_dropped_and_counted(teacher, passages):
    long = " ".join(["why"] * 50) + "?"
    engine = Scripted(teacher.decoder, ["Did Amundsen sail?", long, GOOD.upper(), "", GOOD], [])
    written = write(engine, teacher, passages, "7", 0.5, {GOOD.casefold()})
    assert written.questions == ()
    assert written.dropped == {FOREIGN: 1, "too long or unfinished": 1, "asked before": 2, "nothing asked": 1}
    odd = ["What is the text about?", "The mate said so.", "Who is the question for?", "Where did", "Is it a passage?"]
    written = write(Scripted(teacher.decoder, odd, []), teacher, passages, "7", 0.5, ())
    assert written.dropped == {"about the task": 3, "nothing asked": 1, "too long or unfinished": 1}
    asked = [GOOD, GOOD, "Who is the mate?", "Who came back then?", "What did the mate say?"]
    answers = ["It had 99 men.", ("Olsen's brother. He was", "length"), ("no end", "length"), "None."]
    written = write(Scripted(teacher.decoder, asked, answers), teacher, passages, "7", 0.5, ())
    assert [(q.text, q.answer) for q in written.questions] == [(asked[2], "Olsen's brother."), (asked[4], "None.")]
    assert written.dropped == {"asked before": 1, FOREIGN: 1, "no answer": 1}
    echo = [GOOD, "It had many men.", "the Mate", f"{GOOD} Yes, many.", "None of them."]
    asked = [asked[0], "How many were there?", asked[2], "How many men were on the Aurora then?", asked[4]]
    written = write(Scripted(teacher.decoder, asked, echo), teacher, passages, "7", 0.5, ())
    assert [q.text for q in written.questions] == [asked[1], asked[3], asked[4]]
    assert written.dropped == {"no answer": 2}


def test_the_same_seed_writes_the_same_and_reads_the_text_once(teacher, passages):
    engine = LocalEngine(teacher.decoder)
    told = []
    complete = engine.complete
    engine.complete = lambda *arguments: told.append(complete(*arguments)) or told[-1]
    for seed in ("1", "1", "2"):
        write(engine, teacher, passages, seed, 1.0, ())
    texts = [[event.text for event in events] for events in told if len(events) == len(KINDS)]
    assert texts[0] == texts[1] != texts[2]
    assert engine.prefixes.misses == 1
    assert engine.prefixes.hits >= 3 * len(KINDS) - 1


def test_questions_about_the_world_are_answered_without_a_text(teacher):
    engine = Scripted(teacher.decoder, ["Paris.", ("without an end", "length")])
    written = answer_general(engine, teacher, ["What is the capital of France?", "Why?"])
    assert written.questions == (Question("What is the capital of France?", "Paris.", GENERAL),)
    assert "text above" not in engine.asked[0][0]
    assert answer_general(Scripted(teacher.decoder), teacher, []) == Written((), {})


def test_a_file_cut_anywhere_is_gone_on_with(tmp_path):
    path = tmp_path / "questions.jsonl"
    all_ = [
        Written((Question(f"Wer heißt {i}?", "“Ja”\u2028und\x85 \r\n\x1c", "use"),), {FOREIGN: i}) for i in range(3)
    ]
    for one in all_:
        keep(path, one)
    raw = path.read_bytes()
    for end in range(len(raw) + 1):
        path.write_bytes(raw[:end])
        whole = raw[:end].count(b"\n")
        assert load(path) == all_[:whole]
        for one in all_[whole:]:
            keep(path, one)
        assert path.read_bytes() == raw


@pytest.mark.parametrize("damage", [b"\xff", b"\n", b"{", b"\x00", b'"', b"\\ud800"])
def test_a_damaged_line_and_those_behind_it_are_written_again(tmp_path, damage):
    path = tmp_path / "questions.jsonl"
    all_ = [Written((Question(f"Who is {i}?", "Mary", "use"),), {}) for i in range(3)]
    for one in all_:
        keep(path, one)
    raw = path.read_bytes()
    at = raw.index(b"\n") + 5
    path.write_bytes(raw[:at] + damage + raw[at + 1 :])
    assert load(path) == all_[:1]
    assert path.read_bytes() == raw[: raw.index(b"\n") + 1]


def test_a_folder_that_was_taken_away_is_said(tmp_path):
    assert load(tmp_path / "gone" / "questions.jsonl") == []
    with pytest.raises(PrereadError, match="forgotten meanwhile"):
        keep(tmp_path / "gone" / "questions.jsonl", Written((), {}))
