"""The loop: a stopped run that goes on is the run that was never stopped; it moves only what the objective says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from preread.core.errors import IntegrityError, PrereadError, UsageError
from preread.core.method import Objective
from preread.training.checkpoint import NAME
from preread.training.loop import TrainingConfig, learning_rate, train


class Line(Objective):
    """Fit a line, with dropout, so that randomness takes part; a frozen offset must not move."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.drop = nn.Linear(4, 1), nn.Dropout(0.3)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.settled = False

    def forward(self, batch):
        x, y = batch
        error = self.layer(self.drop(x)) + self.frozen - y
        return {"fit": (error**2).mean(), "size": 0.01 * self.layer.weight.norm()}

    def settle(self):
        self.settled = True

    def save(self, folder, training):
        raise AssertionError("the loop does not save results")

    def load(self, folder):
        raise AssertionError("the loop does not load results")


def batches(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator)
    return x, x.sum(-1, keepdim=True)


def config(**changes):
    return TrainingConfig(**{"steps": 12, "learning_rate": 0.05, "save_every": 5, "accumulation": 2, **changes})


def test_training_lowers_the_loss_and_leaves_the_frozen_alone(tmp_path):
    objective = Line()
    outcome = train(objective, batches, config(steps=150), tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert outcome.finished
    assert objective.settled
    assert [line["step"] for line in log] == list(range(1, 151))
    assert log[-1]["fit"] < 0.5 * log[0]["fit"]
    assert outcome.losses["fit"] == pytest.approx(sum(line["fit"] for line in log[-15:]) / 15)
    assert float(objective.frozen) == 1.0


@pytest.mark.parametrize("stop_after", [1, 5, 7])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, stop_after):
    whole = Line()
    train(whole, batches, config(), tmp_path / "whole")

    def until(step):
        if step == 2 * stop_after - 1:
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    halves = Line()
    with pytest.raises(KeyboardInterrupt):
        train(halves, until, config(), tmp_path / "halves")
    again = Line()
    with torch.no_grad():
        again.layer.weight.fill_(9.0)  # whatever it starts with, the checkpoint decides
    outcome = train(again, batches, config(), tmp_path / "halves")
    assert outcome.finished
    assert torch.equal(again.layer.weight, whole.layer.weight)
    assert torch.equal(again.layer.bias, whole.layer.bias)


def test_a_killed_run_goes_on_from_its_last_checkpoint_bit_for_bit(tmp_path):
    whole = Line()
    train(whole, batches, config(), tmp_path / "whole")
    script = textwrap.dedent(
        """
        import os, pathlib, runpy, signal, sys
        space = runpy.run_path(sys.argv[1])
        def batches(step):
            if step == 2 * 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return space["batches"](step)
        space["train"](space["Line"](), batches, space["config"](), pathlib.Path(sys.argv[2]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, __file__, str(tmp_path / "killed")],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    again = Line()
    train(again, batches, config(), tmp_path / "killed")
    assert torch.equal(again.layer.weight, whole.layer.weight)


def test_a_time_limit_stops_with_a_checkpoint(tmp_path):
    outcome = train(Line(), batches, config(minutes=0.0), tmp_path)
    assert not outcome.finished
    assert (tmp_path / NAME).exists()


def test_accumulation_equals_one_larger_batch(tmp_path):
    def both(step):
        return tuple(torch.cat(pair) for pair in zip(batches(2 * step), batches(2 * step + 1), strict=True))

    class Still(Line):
        def __init__(self):
            super().__init__()
            self.drop = nn.Identity()

    apart, together = Still(), Still()
    train(apart, batches, config(steps=3, clip=1e9), tmp_path / "a")
    train(together, both, config(steps=3, clip=1e9, accumulation=1), tmp_path / "b")
    torch.testing.assert_close(apart.layer.weight, together.layer.weight, atol=1e-5, rtol=1e-5)


def test_another_recipe_is_refused_and_the_checkpoint_survives(tmp_path):
    train(Line(), batches, config(), tmp_path)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(UsageError, match="recipe"):
        train(Line(), batches, config(learning_rate=0.1), tmp_path)
    assert (tmp_path / NAME).read_bytes() == before


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path, cut):
    train(Line(), batches, config(steps=5), tmp_path)
    raw = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(raw[:cut])
    with pytest.raises(IntegrityError):
        train(Line(), batches, config(steps=5), tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    def broken(step):
        x, y = batches(step)
        return x, y * float("nan")

    with pytest.raises(PrereadError, match="finite loss"):
        train(Line(), broken, config(), tmp_path)
    assert not (tmp_path / NAME).exists(), "what led there is no checkpoint"


def test_another_time_limit_is_the_same_run(tmp_path):
    assert not train(Line(), batches, config(minutes=0.0), tmp_path).finished
    assert train(Line(), batches, config(minutes=10.0, save_every=2), tmp_path).finished


def test_a_log_has_each_step_once(tmp_path):
    def until(step):
        if step == 2 * 8:
            raise RuntimeError
        return batches(step)

    with pytest.raises(RuntimeError):
        train(Line(), until, config(), tmp_path)
    train(Line(), batches, config(), tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def test_ctrl_c_ends_the_step_and_keeps_it(tmp_path):
    """A real signal in the middle of a step: the step is whole, its checkpoint is kept, and the run goes on exactly."""
    whole = Line()
    train(whole, batches, config(), tmp_path / "whole")

    def interrupted(step):
        if step == 2 * 6 + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        train(Line(), interrupted, config(), tmp_path / "halves")
    log = (tmp_path / "halves" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 7
    again = Line()
    train(again, batches, config(), tmp_path / "halves")
    assert torch.equal(again.layer.weight, whole.layer.weight)


def test_the_rate_warms_up_and_comes_down():
    cosine = config(steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(cosine, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    constant = config(steps=100, warmup=0.1, learning_rate=1.0, schedule="constant")
    assert learning_rate(constant, 99) == 1.0
