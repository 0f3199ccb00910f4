"""A run goes on where it stopped, does nothing twice, and refuses what its models have seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from preread.core.errors import Interrupted, PrereadError, UnsupportedModel, UsageError
from preread.core.types import text_hash
from preread.data.passages import split
from preread.eval.answerer import Answerer
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.answerers.shortened import Shortened
from preread.eval.answerers.stretched import Stretched
from preread.eval.cache import Cache
from preread.eval.case import Answers, Response, Unfit
from preread.eval.kit import Kit
from preread.eval.runner import judge, run
from preread.eval.tasks.qa import Qa

from .conftest import ROWS

CALLS: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Scripted(Answerer):
    """Answers every question with one word, and says so in `CALLS`."""

    word: str = "word"
    shuns: str = ""
    saw: str = ""
    error: ClassVar[type[PrereadError]] = Unfit
    kind: ClassVar[str] = "scripted"

    @property
    def label(self):
        return self.word

    def trained_on(self, kit):
        return frozenset({text_hash(self.saw)}) if self.saw else frozenset()

    def respond(self, kit, case, max_tokens):
        CALLS.append((case.id, self.word))
        if case.id == self.shuns:
            raise self.error("a case it likes", case.id, "The row leaves it out.", "Take another.")
        return Answers(tuple(Response(self.word, (), (), 7, 1) for _ in case.items), stored_bytes=3)


@pytest.fixture(autouse=True)
def _calls():
    CALLS.clear()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_a_unit_is_done_by_all_before_the_next_begins(kit, cache):
    run(kit, [Qa("tales")], [Scripted("one"), Scripted("two")], cache)
    assert [word for _, word in CALLS] == ["one", "two"] * 4
    assert [case for case, _ in CALLS[::2]] == [case for case, _ in CALLS[1::2]]


def test_what_was_judged_is_not_judged_again(kit, cache):
    first = run(kit, [Qa("tales")], [Scripted("one")], cache)
    again = run(kit, [Qa("tales")], [Scripted("one"), Scripted("two")], cache)
    assert [word for _, word in CALLS] == ["one"] * 4 + ["two"] * 4
    assert again[0].outcomes["one"] == first[0].outcomes["one"]


def test_another_decoder_or_another_setting_is_judged_anew(kit, cache, tiny_decoder):
    run(kit, [Qa("tales")], [Scripted("one")], cache)
    run(kit, [Qa("tales")], [Scripted("one", shuns="nothing")], cache)
    run(Kit(tiny_decoder("llama", seed=1), kit.data, kit.work), [Qa("tales")], [Scripted("one")], cache)
    assert len(CALLS) == 12


def test_a_limit_takes_the_first_units_and_the_rest_goes_on_from_them(kit, cache):
    run(kit, [Qa("tales")], [Scripted("one")], cache, limit=1)
    whole = run(kit, [Qa("tales")], [Scripted("one")], cache)
    assert len(CALLS) == 4
    assert len(whole[0].units) == 4


def test_a_larger_subsample_goes_on_from_a_smaller_one(kit, cache):
    run(kit, [Qa("tales", documents=2)], [Scripted("one")], cache)
    run(kit, [Qa("tales", documents=3)], [Scripted("one")], cache)
    assert len(CALLS) == len(set(CALLS)) == 3


def test_cut_anywhere_the_cache_loses_the_last_line_at_most(kit, cache):
    whole = run(kit, [Qa("tales")], [Scripted("one")], cache)
    [path] = cache.folder.iterdir()
    raw = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(raw) if byte == ord("\n")]
    for length in range(0, len(raw), 97):
        path.write_bytes(raw[:length])
        CALLS.clear()
        assert [o.records for o in run(kit, [Qa("tales")], [Scripted("one")], cache)[0].outcomes["one"]] == [
            o.records for o in whole[0].outcomes["one"]
        ]
        # A line that lacks its line break alone is whole.
        assert len(CALLS) == len(ROWS) - sum(end - 1 <= length for end in ends)
        CALLS.clear()
        run(kit, [Qa("tales")], [Scripted("one")], cache)
        assert not CALLS, "what was written behind a cut line is found"


def test_an_interrupted_run_goes_on(kit, cache, monkeypatch):
    def stopping(*arguments):
        if len(CALLS) == 2:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr("preread.eval.runner.judge", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(kit, [Qa("tales")], [Scripted("one")], cache)
    monkeypatch.undo()
    run(kit, [Qa("tales")], [Scripted("one")], cache)
    assert len(CALLS) == len(set(CALLS)) == 4


@pytest.mark.parametrize("error", [Unfit, UnsupportedModel])
def test_an_unfit_unit_is_said_and_the_run_goes_on(kit, cache, error, monkeypatch):
    monkeypatch.setattr(Scripted, "error", error)
    [judged] = run(kit, [Qa("tales")], [Scripted("one", shuns="tale-2")], cache)
    outcomes = judged.outcomes["one"]
    assert [bool(outcome.unfit) for outcome in outcomes].count(True) == 1
    assert "tale-2" in next(outcome.unfit for outcome in outcomes if outcome.unfit)
    assert all(outcome.stored_bytes == 3 for outcome in outcomes if not outcome.unfit)


def test_nothing_is_judged_where_a_model_has_seen_a_document(kit, cache):
    seen = ROWS[1]["text"].replace(" ", "\n")  # white space does not hide it
    with pytest.raises(UsageError, match="tale-1"):
        run(kit, [Qa("tales")], [Scripted("innocent"), Scripted("guilty", saw=seen)], cache)
    assert not CALLS


def test_two_runs_on_a_cpu_are_the_same(kit, tmp_path):
    runs = [run(kit, [Qa("tales")], [Nothing(), Full()], Cache(tmp_path / name)) for name in ("a", "b")]
    for one, other in zip(*runs, strict=True):
        for label in one.outcomes:
            assert [o.records for o in one.outcomes[label]] == [o.records for o in other.outcomes[label]]


SHORT = [
    Stretched(rule="ntk"),
    Stretched(rule="yarn", factor=1),
    Shortened(positions=400),
    Shortened(keep="head+tail", ratio=1),
    Retrieved(mode="bm25", passages=5, passage_tokens=512),
    Retrieved(mode="bm25", ratio=1),
    Retrieved(mode="dense", ratio=1),
]


@pytest.mark.parametrize("answerer", SHORT, ids=lambda answerer: answerer.label)
def test_what_comes_down_to_another_answerer_is_the_same_to_the_bit(kit, answerer):
    task = Qa("tales")
    for unit in task.units(kit):
        plain, stored = answerer.plainly(kit, unit)
        assert plain == Full()
        ours = judge(kit, task, answerer, unit)
        assert (ours.records, ours.stored_bytes) == (judge(kit, task, Full(), unit).records, stored)


LONG = [Stretched(rule="ntk", factor=2), Shortened(positions=40), Retrieved(mode="bm25", ratio=4)]


@pytest.mark.parametrize("answerer", LONG, ids=lambda answerer: answerer.label)
def test_what_reads_less_is_itself(kit, answerer):
    assert all(answerer.plainly(kit, unit) == (answerer, 0) for unit in Qa("tales").units(kit))


def test_what_another_row_has_done_already_is_not_done_again(kit, cache, monkeypatch):
    done = []
    monkeypatch.setattr("preread.eval.runner.judge", lambda *a: done.append(a[2].label) or judge(*a))
    [judged] = run(kit, [Qa("tales")], [Full(), Shortened(positions=400), Stretched(rule="ntk")], cache)
    assert done == ["full text"] * 4
    assert judged.outcomes["head 400"] == judged.outcomes["full text"] == judged.outcomes["full text, ntk"]
    assert judged.kinds["head 400"] == "shortened"


def test_who_is_timed_cuts_and_searches_the_document_itself(kit, monkeypatch):
    made = []
    monkeypatch.setattr("preread.eval.kit.split", lambda *a: made.append(a[0].hash) or split(*a))
    unit = Qa("tales").units(kit)[0]
    for row in (
        Retrieved(mode="bm25", passages=1),
        Retrieved(mode="bm25", passages=2),
        Retrieved(mode="bm25", ratio=4),
    ):
        judge(kit, Qa("tales"), row, unit)
    assert made == [unit.document.hash] * 3, "once for each that is timed, however often it looks"


def test_reading_takes_memory_and_time_that_are_seen(kit):
    outcome = judge(kit, Qa("tales"), Full(), Qa("tales").units(kit)[0])
    assert outcome.seconds > 0
    assert outcome.stored_bytes == len(Qa("tales").units(kit)[0].document.text.encode())


class Learning(Scripted):
    """Needs two calls before it may be judged."""

    def on(self, task):
        return Learning(self.word, saw=task.set)

    def ready(self, kit, until=None):
        CALLS.append(("ready", self.saw))
        return until is None

    @property
    def label(self):
        return f"{self.word} {self.saw}".strip()


def test_nothing_is_judged_before_all_are_ready_each_for_its_task(kit, cache):
    rows = [Scripted("one"), Learning("two")]
    with pytest.raises(Interrupted, match="training two tales"):
        run(kit, [Qa("tales")], rows, cache, minutes=60)
    assert CALLS == [("ready", "tales")]
    [judged] = run(kit, [Qa("tales")], rows, cache)
    assert list(judged.outcomes) == ["one", "two"], "a row has one label in all tables"
    assert CALLS[1] == ("ready", "tales")
    assert len(CALLS) == 2 + 8


def test_time_that_is_over_stops_between_units_and_the_next_call_goes_on(kit, cache, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("preread.eval.runner.time.monotonic", lambda: now[0])

    def judge_in_a_minute(*arguments):
        now[0] += 60
        return judge(*arguments)

    monkeypatch.setattr("preread.eval.runner.judge", judge_in_a_minute)
    with pytest.raises(Interrupted, match="judging tales"):
        run(kit, [Qa("tales")], [Scripted("one")], cache, minutes=2)
    assert len(CALLS) == 2
    monkeypatch.undo()
    run(kit, [Qa("tales")], [Scripted("one")], cache)
    assert len(CALLS) == len(set(CALLS)) == 4
    run(kit, [Qa("tales")], [Scripted("one")], cache, minutes=0)  # nothing is left, so no time is needed
