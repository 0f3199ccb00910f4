"""A run that was killed at any moment, and goes on, is bit for bit the run that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from preread.training.checkpoint import NAME
from preread.training.loop import LOG

SCRIPT = Path(__file__).with_name("killed_run.py")


@pytest.fixture(scope="module")
def saved(tiny_decoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    decoder = tiny_decoder()
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["compress", "adapter"])
def test_killed_at_any_moment_it_ends_with_the_same_bits(saved, tmp_path, objective):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(saved), objective, str(tmp_path), "20260101"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    deaths = json.loads(done.stdout)
    killed = -signal.SIGKILL
    assert deaths["whole"] == deaths["last"] == [0], done.stderr
    assert deaths["planned"] == [killed, killed, 3], done.stderr  # in the middle of a file, before its name, disk full
    assert deaths["random"].count(killed) >= 2, "too few of the random moments fell into a run"
    assert "the last whole checkpoint stands" in done.stderr
    theirs, ours = (load_file(tmp_path / run / NAME) for run in ("whole", "killed"))
    assert theirs.keys() == ours.keys()
    assert {name.split("/")[0] for name in ours} == {"parameter", "step", "exp_avg", "exp_avg_sq"}
    for name, tensor in theirs.items():
        assert torch.equal(tensor, ours[name]), name
    headers = []
    for run in ("whole", "killed"):
        with safe_open(tmp_path / run / NAME, framework="pt") as file:
            headers.append(file.metadata())
    assert headers[0] == headers[1]
    assert [line["step"] for line in log(tmp_path / "whole")] == list(range(1, 17))
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    assert not (tmp_path / "killed" / f"{NAME}.part").exists()
