"""Moments in 8 bits: a quarter of the memory, nearly the same run, and a stopped one goes on bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.training import optimizers
from preread.training.checkpoint import NAME
from preread.training.loop import TrainingConfig, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning")


class Fit(Objective):
    """A layer that is large enough for 8 bits, and a bias that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(128, 64)

    def forward(self, batch):
        return {"fit": (self.layer(batch) - batch[:, :64].sin()).square().mean()}

    def settle(self):
        pass

    def save(self, folder, training):
        raise AssertionError("the loop does not save results")

    def load(self, folder):
        raise AssertionError("the loop does not load results")


def batches(step):
    return torch.randn(16, 128, generator=torch.Generator().manual_seed(step))


def config(**changes):
    return TrainingConfig(
        **{
            "steps": 20,
            "learning_rate": 0.01,
            "save_every": 7,
            "optimizer": "adamw8bit",
            "weight_decay": 0.1,
            **changes,
        }
    )


def run(folder: Path, **changes) -> Fit:
    objective = Fit()
    train(objective, batches, config(**changes), folder)
    return objective


def test_a_stopped_run_ends_with_the_same_bits(tmp_path):
    run(tmp_path / "whole")
    assert not train(Fit(), batches, config(minutes=0.0), tmp_path / "stopped").finished
    stopping = iter(range(100))

    class Stops(Fit):
        def forward(self, batch):
            if next(stopping) == 11:
                raise ZeroDivisionError
            return super().forward(batch)

    with pytest.raises(ZeroDivisionError):
        train(Stops(), batches, config(), tmp_path / "stopped")
    run(tmp_path / "stopped")
    whole, stopped = (load_file(tmp_path / name / NAME) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert whole["exp_avg.codes/layer.weight"].dtype == torch.uint8
    assert whole["exp_avg/layer.bias"].dtype == torch.float32
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name


def test_it_nearly_is_the_run_in_float32(tmp_path):
    start = Fit().layer.weight
    eight, full = (run(tmp_path / name, optimizer=name).layer.weight for name in ("adamw8bit", "adamw"))
    assert not torch.equal(eight, full)
    assert (eight - full).norm() < 0.05 * (full - start).norm()


def test_its_state_is_a_quarter(tmp_path):
    sizes = {}
    for name in ("adamw8bit", "adamw"):
        run(tmp_path / name, optimizer=name)
        tensors = load_file(tmp_path / name / NAME)
        sizes[name] = sum(t.nbytes for key, t in tensors.items() if key.startswith("exp_avg") and "weight" in key)
    tables = 2 * 256 * 4  # the levels, the same whatever the size
    assert (sizes["adamw8bit"] - tables) / sizes["adamw"] == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("name", ["adamw8bit", "adamw"])
def test_the_rate_that_is_set_is_the_rate_that_acts(name):
    parameter = nn.Parameter(torch.ones(64, 128))
    made = optimizers.optimizer(name, [parameter], 1.0, (0.9, 0.95), 0.0)
    for rate in (0.25, 0.0):
        optimizers.set_rate(made, rate)
        before = parameter.detach().clone()
        parameter.grad = torch.ones_like(parameter)
        made.step()
        assert torch.allclose(before - parameter, torch.full_like(before, rate), atol=1e-2)  # Adam: the rate itself


def test_without_torchao_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UsageError, match=r"preread\[quant\]"):
        optimizers.optimizer("adamw8bit", [nn.Parameter(torch.ones(2))], 1.0, (0.9, 0.95), 0.0)
