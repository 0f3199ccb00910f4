"""`train compressor`: its cost first, no question where nobody can answer, and a place where it is found."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

VALUES = {
    "method": "lloco",
    "stage": "compress",
    "model": "nowhere",
    "settings": {"fresh": True, "shape": {"max_summary": 8, "lora": {"rank": 2, "dropout": 0.0}}},
    "objective": {"segments": "mixed", "segment_tokens": [10, 20], "ratios": [2.0, 6.0]},
    "data": ["texts.jsonl"],
    "window": 40,
    "training": {"steps": 2, "save_every": 1},
}


@pytest.fixture
def train(call, tmp_path, monkeypatch, tiny_decoder):
    monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))
    decoder = tiny_decoder("llama")
    monkeypatch.setattr("preread.recipes.running.load", {"tiny:int8": decoder}.__getitem__)
    text = "On day 3 the storm met the keeper and the lamp burned. " * 20
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(VALUES))
    where = ["--recipe", str(tmp_path / "recipe.yaml"), "--data", str(tmp_path), "--model", "tiny:int8"]

    def trained(*more, out=("--out", str(tmp_path / "out"))):
        return call("train", "compressor", *where, *out, *more)

    return trained


def test_estimate_says_the_cost_and_trains_nothing(train, tmp_path):
    code, out, _ = train("--estimate", "--json")
    cost = json.loads(out)
    assert (code, cost["steps"]) == (0, 2)
    assert cost["flops"] > 0
    assert not (tmp_path / "out").exists()
    assert "TFLOP" in train("--estimate")[1]


def test_a_folder_is_asked_for_where_something_is_trained_and_for_an_estimate_is_not(train):
    assert train("--estimate", out=())[0] == 0
    code, _, err = train("--yes", out=())
    assert (code, "Expected --out FOLDER" in err, "Nothing was trained" in err) == (2, True, True), err


def test_a_run_says_its_cost_first_and_where_nobody_answers_goes_on(train, tmp_path):
    code, out, err = train("--install", "mine", "--json")
    assert (code, json.loads(out)["finished"]) == (0, True)
    assert "TFLOP" in err
    assert (tmp_path / "home" / "compressors" / "mine" / "manifest.json").is_file()
    assert "TFLOP" not in train()[2], "a run that goes on is not estimated again"


@pytest.mark.parametrize("name", ["../mine", ""])
def test_a_name_that_is_none_is_said_before_the_training(train, tmp_path, name):
    code, _, err = train("--install", name)
    assert (code, "plain name" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_yes_neither_estimates_nor_asks(train, monkeypatch):
    monkeypatch.setattr("preread.recipes.estimate", None)
    assert train("--yes")[0] == 0


def test_at_a_terminal_no_means_nothing_starts(train, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", _no)
    code, out, err = train()
    assert (code, out) == (1, "")
    assert "nothing was started" in err
    assert not (tmp_path / "out").exists()


def _no(*_args, **_kwargs):
    import typer

    raise typer.Abort


def test_a_place_that_an_export_may_not_take_is_said_before_the_training(call, tmp_path, monkeypatch):
    (tmp_path / "thesis.md").write_text("ten years")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"method": "longlora", "stage": "extend", "data": ["a"]}))
    monkeypatch.setattr("preread.cli.training._train", None)
    where = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--export", str(tmp_path)]
    code, _, err = call("train", "longlora", str(tmp_path / "recipe.yaml"), *where)
    assert code == 2
    assert "something else" in err
