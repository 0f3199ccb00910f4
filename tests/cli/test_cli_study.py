"""`study` on a reader's own file: its figures, its exit codes, and that an ended call is gone on with."""

from __future__ import annotations

import json

import pytest

QUICK = ("--set", "written=0", "--set", "general=0", "--set", "most_passages=2", "--set", "training.learning_rate=0.02")


@pytest.fixture
def learned(run, log):
    assert run("add", str(log), "--collection", "sea", "--model", "tiny", "--ratio", "4")[0] == 0
    return run


def study(run, *arguments):
    return run("study", "--collection", "sea", *QUICK, *arguments)


def test_what_helped_is_in_use_and_its_figures_are_told(learned):
    code, out, err = study(learned, "--steps", "10")
    assert code == 0
    assert "the adapter is in use" in out
    assert "held-out questions, nats a token of the answers: without the adapter" in out
    assert "studying sea" in err
    code, again, _ = study(learned, "--steps", "10", "--json")
    told = json.loads(again)
    verdict = told["verdict"]
    assert (code, told["published"]) == (0, True)
    assert f"{verdict['before']:.3f}, with it {verdict['after']:.3f}" in out
    assert verdict["gain"][0] == pytest.approx(verdict["before"] - verdict["after"])
    for kind, (count, before, after) in verdict["kinds"].items():
        assert f"  {kind}: {count} questions, {before:.3f} -> {after:.3f}" in out


def test_an_adapter_that_gained_nothing_is_3(learned):
    code, out, _ = study(learned, "--steps", "0")
    assert code == 3
    assert "not used: it did not help" in out
    assert study(learned, "--steps", "0", "--json")[0] == 3


def test_the_end_of_the_minutes_is_130_and_the_same_command_goes_on(learned):
    code, out, _ = study(learned, "--steps", "10", "--minutes", "0")
    assert (code, out) == (130, "stopped after 0 steps; the same command goes on\n")
    told = json.loads(study(learned, "--steps", "10", "--minutes", "0", "--json")[1])
    assert (told["published"], told["verdict"]) == (False, None)
    assert study(learned, "--steps", "10", "--minutes", "60")[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--minutes", "-1"),
        ("--tokens", "0"),
        ("--steps", "-1"),
        ("--set", "rows=0"),
        ("--set", "most_passages=0"),
        ("--set", "written=1.5"),
        ("--set", "temperature=-1"),
        ("--set", "replay=.nan"),
        ("--questions", "/nowhere/at/all.jsonl"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_in_a_sentence(learned, wrong):
    code, out, err = study(learned, *wrong)
    assert (code > 0, out) == (True, "")
    assert "preread: Expected" in err
    assert "nothing" in err.lower() or "not read" in err


def test_tokens_and_labels_decide_what_is_taught(learned, tmp_path):
    labels = tmp_path / "labels.jsonl"
    rows = [{"question": f"What met storm number {7 * i}?", "answer": "the schooner"} for i in range(8)]
    labels.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ("--tokens", "6000", "--questions", str(labels), "--set", "labelled=1", "--json")
    told = json.loads(study(learned, *arguments)[1])
    assert told["questions"].keys() == {"labelled"}
    assert told["questions"]["labelled"] + told["verdict"]["questions"] == 8
    assert told["verdict"]["questions"] > 0
    more = json.loads(study(learned, "--tokens", "12000", *arguments[2:])[1])
    assert more["outcome"]["step"] == pytest.approx(2 * told["outcome"]["step"], abs=1)
