"""What a training run will cost, from a few of its own steps on this machine."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode

from preread.core.method import Objective
from preread.training import checkpoint
from preread.training.loop import LOG, Batches, TrainingConfig, train

TIMED = 5
"""Steps that are taken; the first one, which warms up, is not counted."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of a run.

    Args:
        steps: optimizer steps.
        tokens: tokens of the windows read, repeats included.
        flops: floating-point operations of all products and attention, forward and backward.
        parameters: numbers that train.
        seconds: at the median pace of the timed steps.
        peak_bytes: largest memory during the timed steps: the GPU's, or this process's.
        checkpoint_bytes: size of a checkpoint; one is kept, and one more while it is written.
    """

    steps: int
    tokens: int
    flops: float
    parameters: int
    seconds: float
    peak_bytes: int
    checkpoint_bytes: int

    def then(self, other: Estimate) -> Estimate:
        """The cost of this run and another one behind it."""
        return Estimate(
            self.steps + other.steps,
            self.tokens + other.tokens,
            self.flops + other.flops,
            max(self.parameters, other.parameters),
            self.seconds + other.seconds,
            max(self.peak_bytes, other.peak_bytes),
            max(self.checkpoint_bytes, other.checkpoint_bytes),
        )

    @property
    def line(self) -> str:
        """All of it in one line for people."""
        time = f"about {self.seconds / 60:,.0f} minutes" if self.seconds > 120 else f"about {self.seconds:,.0f} seconds"
        return (
            f"{self.steps:,} steps over {self.tokens:,} tokens, {self.flops / 1e12:,.3g} TFLOP; "
            f"{self.parameters:,} parameters train; {time} here; memory up to {self.peak_bytes / 1e9:.2g} GB; "
            f"checkpoint {self.checkpoint_bytes / 1e6:.3g} MB"
        )


def estimate(objective: Objective, batches: Batches, config: TrainingConfig, step_tokens: int) -> Estimate:
    """Take a few real steps in a folder that is thrown away, and scale them to the run.

    Args:
        objective: what would train; its weights move, so it is of no use afterwards.
        batches: the run's.
        config: the run's.
        step_tokens: tokens of an optimizer step.
    """
    parameters = sum(parameter.numel() for parameter in objective.trainable().values())
    flops = _flops(objective, batches, config)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory(prefix="preread-estimate-") as name:
        folder = Path(name)
        few = replace(config, steps=min(TIMED, max(1, config.steps)), minutes=None, save_every=TIMED)
        train(objective, batches, few, folder, "timing a few steps")
        clock = [json.loads(line)["seconds"] for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
        size = (folder / checkpoint.NAME).stat().st_size
    paces = [after - before for before, after in pairwise(clock)] or clock
    return Estimate(
        config.steps,
        config.steps * step_tokens,
        config.steps * flops,
        parameters,
        config.steps * statistics.median(paces),
        _peak_bytes(),
        size,
    )


def _flops(objective: Objective, batches: Batches, config: TrainingConfig) -> float:
    """Mean operations of an optimizer step, counted over the first few."""
    micros = config.accumulation * min(TIMED, max(1, config.steps))
    with FlopCounterMode(display=False) as counter:
        for micro in range(micros):
            torch.autograd.backward(torch.stack(list(objective(batches(micro)).values())).sum())
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) * config.accumulation / micros


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # not on every system, and needed only where there is no GPU

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
