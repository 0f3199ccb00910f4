"""The command line as a user meets it: output, exit codes, and never a stack trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from preread.collection.settings import Settings


def test_add_ask_list_show_forget(run, log):
    code, out, _ = run("add", str(log), "--model", "tiny", "--ratio", "8", "--json")
    assert code == 0
    added = json.loads(out)
    assert added["change"] == "added"
    code, out, _ = run("ask", "What met storm number 35?", "--max-tokens", "4", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["method"] == "lloco"
    assert answer["citations"][0]["source"] == str(log)
    code, out, err = run("ask", "What met storm number 35?", "--max-tokens", "4", "--method", "text", "--stream")
    assert code == 0
    assert "log.md" not in err
    assert "characters" in out
    assert "standing for" in out
    assert json.loads(run("list", "--json")[1])[0]["source"] == str(log)
    assert str(log) in run("list")[1]
    shown = json.loads(run("show", str(log), "--json")[1])
    assert "".join(passage["text"] for passage in shown) == log.read_text()
    assert json.loads(run("forget", str(log), "--json")[1])["documents"] == 1
    assert json.loads(run("list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ask", "Who?", "--collection", "empty"], 2, "preread add FILE"),
        (["ask", "Who?", "--mode", "sideways"], 2, "document, passages"),
        (["forget", "nothing.txt"], 2, "preread list"),
        (["show", "nothing.txt"], 2, "preread list"),
        (["add", "nothing.txt", "--model", "tiny"], 1, "nothing.txt"),
        (["study", "--set", "training.stepz=3"], 2, "training.steps"),
        (["study", "--questions", "none.jsonl"], 1, "none.jsonl"),
        (["train", "compressor", "--recipe", "none.yaml", "--data", ".", "--out", "."], 2, "none.yaml"),
        (["study", "--set", "training.save_every=0"], 2, "save_every of at least 1"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_mistakes_have_their_exit_code_and_one_message(run, open_library, arguments, code, message):
    open_library().collection("empty", Settings("tiny"))
    got, out, err = run(*arguments)
    assert got == code, err
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_one_bad_file_does_not_stop_the_others(run, log, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"")
    code, out, err = run("add", str(bad), str(log), "--model", "tiny")
    assert code == 1
    assert "bad.txt" in err
    assert "added: The log" in out


def test_help_is_quick_because_nothing_heavy_is_imported():
    script = "import sys, preread.cli; print([m for m in ('torch', 'transformers', 'lancedb') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_ctrl_c_ends_with_130_and_a_word(tmp_path):
    """A real process and a real signal: the command waits for a lock that another writer holds."""
    script = (
        "import sys, preread.library as l, preread.cli as c, time\n"
        "def slow(*a): sys.stderr.write('ready\\n'); sys.stderr.flush(); time.sleep(60)\n"
        "l.Library.collection = slow\n"
        "sys.argv = ['preread', 'ask', 'Who?', '--library', sys.argv[1]]\n"
        "c.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "library")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    while "ready" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "goes on from there" in err
    assert "Traceback" not in err


def test_bench_cpu_publishes_its_figures(run, tmp_path, tiny_decoder, monkeypatch):
    monkeypatch.setattr("preread.models.loading.load", lambda name, device: tiny_decoder("llama"))
    monkeypatch.setattr("preread.bench.measure.TEXT_TOKENS", 300)
    out = tmp_path / "figures.jsonl"
    code, shown, _ = run("bench", "cpu", "--repeats", "2", "--out", str(out))
    assert code == 0
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert ids == ["lloco.cpu_ttft_ratio_8k", "lloco.cpu_decode_ratio_8k", "lloco.cpu_decode_ratio_8k_plain"]
    assert all(name in shown for name in ids)


def test_bench_metrics_publishes_how_many_scores_differ(run, tmp_path, monkeypatch):
    out = tmp_path / "figures.jsonl"
    code, shown, _ = run("bench", "metrics", "--pairs", "3", "--out", str(out))
    figure = json.loads(out.read_text())
    assert code == 0
    assert (figure["id"], figure["value"], figure["n"]) == ("eval.metric_mismatches", 0, 42)
    assert "eval.metric_mismatches" in shown
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.text", None)
    code, _, told = run("bench", "metrics", "--out", str(out))
    assert (code, told.count("\n")) == (2, 1)
    assert "pip install 'preread[dev]'" in told


def test_the_unforeseen_is_one_message_too(run, monkeypatch):
    def broken(*_):
        raise ValueError("the sky fell")

    monkeypatch.setattr("preread.store.store.Store.documents", broken)
    code, out, err = run("list")
    assert (code, out) == (1, "")
    assert "the sky fell" in err
    assert "Traceback" not in err


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("preread 0.")
