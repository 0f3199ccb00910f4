"""The training loop: an objective, a source of batches, a recipe; resumable at any step.

The batch of a step, and every random draw in it, is a function of the step's number, so a run that was stopped and goes
on is the run that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from preread.core.config import dump
from preread.core.errors import PrereadError
from preread.core.method import Objective
from preread.core.progress import progress
from preread.training import checkpoint

Batches = Callable[[int], Any]
"""Number of a micro-step -> its batch; the same number gives the same batch."""


@dataclass(frozen=True)
class TrainingConfig:
    """A run's recipe.

    Args:
        steps: optimizer steps.
        learning_rate: peak.
        schedule: what follows the warm-up.
        warmup: share of the steps in which the rate rises from 0.
        accumulation: micro-steps an optimizer step.
        weight_decay: AdamW's.
        betas: AdamW's.
        clip: largest norm of the gradients.
        seed: of dropout; batches have their own.
        save_every: steps between checkpoints.
        minutes: stop after this long, with a checkpoint; None runs to the end.
    """

    steps: int = 100
    learning_rate: float = 4e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.04
    accumulation: int = 1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call of `train` did.

    Args:
        step: optimizer steps done, earlier calls included.
        finished: whether that is all of them.
        losses: mean of each term over the last tenth of this call's steps.
        seconds: time of this call.
    """

    step: int
    finished: bool
    losses: dict[str, float]
    seconds: float


def train(
    objective: Objective, batches: Batches, config: TrainingConfig, folder: Path, what: str = "training"
) -> Outcome:
    """Train what the objective says, from the folder's checkpoint if there is one.

    Writes `checkpoint.safetensors` and, a line a step, `log.jsonl`. Ctrl-C saves a checkpoint first.

    Raises:
        PrereadError: the loss is not a number.
        UsageError: the checkpoint belongs to another recipe.
    """
    accelerator = Accelerator(gradient_accumulation_steps=config.accumulation)
    parameters = objective.trainable()
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    recipe = dump(config)
    done = checkpoint.load(folder, recipe, parameters, optimizer)
    module, wrapped = accelerator.prepare(objective, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    start, history = time.perf_counter(), []

    def keep() -> None:
        if accelerator.is_main_process:
            checkpoint.save(folder, done, recipe, parameters, optimizer)

    try:
        with (
            progress(what, config.steps) as advance,
            (folder / "log.jsonl").open("a", encoding="utf-8") as log,
        ):
            advance(done)
            while done < config.steps:
                if config.minutes is not None and time.perf_counter() - start > 60 * config.minutes:
                    break
                rate = learning_rate(config, done)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                terms = _step(accelerator, module, wrapped, batches, config, done)
                done += 1
                history.append(terms)
                line = {"step": done, "lr": rate, "seconds": time.perf_counter() - start, **terms}
                if accelerator.is_main_process:
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                advance(note=" ".join(f"{name} {value:.3f}" for name, value in terms.items()))
                if done % config.save_every == 0:
                    keep()
    finally:
        keep()
    last = history[-max(1, len(history) // 10) :]
    means = {name: sum(terms[name] for terms in last) / len(last) for name in (last[0] if last else {})}
    if done == config.steps:
        objective.settle()
    return Outcome(done, done == config.steps, means, time.perf_counter() - start)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step, counted from 0: a linear warm-up, then constant or a cosine to a tenth of the peak."""
    rising = max(1, round(config.warmup * config.steps))
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    if config.schedule == "constant":
        return config.learning_rate
    along = (step - rising) / max(1, config.steps - rising)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along)))


def _step(
    accelerator: Accelerator,
    module: torch.nn.Module,
    optimizer: Any,
    batches: Batches,
    config: TrainingConfig,
    step: int,
) -> dict[str, float]:
    """One optimizer step; returns the mean of each loss term."""
    sums: dict[str, float] = {}
    for micro in range(step * config.accumulation, (step + 1) * config.accumulation):
        torch.manual_seed((config.seed << 32) + micro * accelerator.num_processes + accelerator.process_index)
        with accelerator.accumulate(module):
            terms = module(batches(micro * accelerator.num_processes + accelerator.process_index))
            loss = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(loss):
                raise PrereadError(
                    expected="a finite loss",
                    got=f"{float(loss.detach())} at step {step}",
                    consequence="Training stopped; the last checkpoint is kept.",
                    remedy="Lower learning_rate, or look at the data of that step.",
                )
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(module.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / config.accumulation
    return sums
