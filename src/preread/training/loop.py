"""The training loop: an objective, a source of batches, a recipe; resumable at any step.

The batch of a step, and every random draw in it, is a function of the step's number, so a run that was stopped and goes
on is the run that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from preread.core.config import dump
from preread.core.errors import PrereadError, UsageError
from preread.core.method import Objective
from preread.core.progress import progress
from preread.core.stopping import deferred_interrupt
from preread.nn.sharing import Sharing
from preread.training import checkpoint, optimizers
from preread.training.optimizers import Name

LOG = "log.jsonl"
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
        optimizer: AdamW with moments in float32, or in 8 bits, which take a quarter of the memory.
        clip: largest norm of the gradients.
        seed: of dropout; batches have their own.
        save_every: steps between checkpoints.
        sequence_parallel: how many processes hold each row together; those of `torchrun`
            or `accelerate launch`.
        minutes: stop after this long, with a checkpoint; None runs to the end.
    """

    steps: int = 100
    learning_rate: float = 4e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.04
    accumulation: int = 1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    optimizer: Name = "adamw"
    clip: float = 1.0
    seed: int = 0
    save_every: int = 50
    sequence_parallel: int = 1
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("accumulation", 1), ("save_every", 1), ("sequence_parallel", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    expected=f"{name} of at least {least}",
                    got=str(getattr(self, name)),
                    consequence="Nothing was trained.",
                    remedy="Correct it in the recipe or the override.",
                )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call of `train` did.

    Args:
        step: optimizer steps done, earlier calls included.
        finished: whether that is all of them.
        losses: mean of each term over the last tenth of those steps.
        seconds: time of this call.
    """

    step: int
    finished: bool
    losses: dict[str, float]
    seconds: float


def train(
    objective: Objective,
    batches: Batches,
    config: TrainingConfig,
    folder: Path,
    what: str = "training",
    rest: str = "",
) -> Outcome:
    """Train what the objective says, from the folder's checkpoint if there is one.

    Writes `checkpoint.safetensors` and, a line a step, `log.jsonl`. Ctrl-C ends the step at hand, saves a checkpoint
    and then interrupts. After any other error the last checkpoint stands. `rest` is what else the run is made of, in
    the caller's words: a checkpoint of another run is refused.

    Raises:
        PrereadError: the loss is not a number.
        ResourceError: the disk is full; the last checkpoint stands.
        UsageError: the checkpoint belongs to another recipe, the optimizer needs a package that is missing, or the
            processes or the stage do not allow rows to be shared.
    """
    # The objective stays where its decoder is: accelerate would move it to a GPU that the decoder may not be on.
    accelerator = Accelerator(gradient_accumulation_steps=config.accumulation, device_placement=False)
    _share(objective, accelerator, config.sequence_parallel)
    parameters = objective.trainable()
    optimizer = optimizers.optimizer(
        config.optimizer, parameters.values(), config.learning_rate, config.betas, config.weight_decay
    )
    recipe = dump(replace(config, minutes=None, save_every=1)) + rest  # what decides the numbers, and nothing else
    done = checkpoint.load(folder, recipe, parameters, optimizer)
    module, wrapped = accelerator.prepare(objective, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        _forget_lines(folder / LOG, done)
    start = time.perf_counter()

    def keep() -> None:
        _require(folder)
        if accelerator.is_main_process:
            checkpoint.save(folder, done, recipe, parameters, optimizer)

    with deferred_interrupt() as interrupted, progress(what, config.steps, done) as advance:
        while done < config.steps:
            late = config.minutes is not None and time.perf_counter() - start > 60 * config.minutes
            if _any(accelerator, late or interrupted()):
                break
            rate = learning_rate(config, done)
            optimizers.set_rate(optimizer, rate)
            terms = _step(accelerator, module, wrapped, batches, config, done)
            done += 1
            _require(folder)
            if accelerator.is_main_process:
                line = {"step": done, "lr": rate, "seconds": time.perf_counter() - start, **terms}
                _log(folder, line)
            advance(note=" ".join(f"{name} {value:.3f}" for name, value in terms.items()))
            if done % config.save_every == 0:
                keep()
        keep()
        accelerator.wait_for_everyone()  # what the others read is written
        if interrupted():
            raise KeyboardInterrupt
    if done == config.steps:
        objective.settle()
    return Outcome(done, done == config.steps, _recent_losses(folder / LOG), time.perf_counter() - start)


def _share(objective: Objective, accelerator: Accelerator, parts: int) -> None:
    """Have each `parts` neighbouring processes hold their rows together."""
    if accelerator.num_processes % parts:
        raise UsageError(
            expected=f"a number of processes that sequence_parallel: {parts} divides",
            got=str(accelerator.num_processes),
            consequence="Nothing was trained.",
            remedy=f"Start it with: torchrun --nproc_per_node {parts} -m preread train ...",
        )
    if parts > 1:
        group, _ = torch.distributed.new_subgroups(parts)  # type: ignore[no-untyped-call]
        objective.share(Sharing(group))


def _any(accelerator: Accelerator, stop: bool) -> bool:
    """Whether any process stops: then all do, at the same step."""
    if accelerator.num_processes == 1:
        return stop
    votes = torch.tensor(float(stop), device=accelerator.device)
    return bool(accelerator.reduce(votes, "sum") > 0)


def _require(folder: Path) -> None:
    """Stop where the run's folder was taken away, as forgetting a document does with what may have learned it."""
    if not folder.is_dir():
        raise PrereadError(
            expected=f"the run's folder {folder}",
            got="nothing: it was removed while the run went on",
            consequence="Training stopped and keeps nothing.",
            remedy="Start it again; documents may have been forgotten meanwhile.",
        )


def _log(folder: Path, line: dict[str, float]) -> None:
    try:
        with (folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    except OSError as error:
        raise checkpoint.no_room(folder, error) from error


def _forget_lines(log: Path, done: int) -> None:
    """Drop the log's lines behind the checkpoint: those steps are taken again. Killed here, the log is as it was."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= done]
        part = log.with_name(f"{log.name}.part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        part.replace(log)


def _recent_losses(log: Path) -> dict[str, float]:
    """Mean of each loss term over the last tenth of a log's steps."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    last = lines[-max(1, len(lines) // 10) :]
    names = [name for name in (last[0] if last else {}) if name not in ("step", "lr", "seconds")]
    return {name: sum(line[name] for line in last) / len(last) for name in names}


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
    process, readers = accelerator.process_index, accelerator.num_processes // config.sequence_parallel
    for micro in range(step * config.accumulation, (step + 1) * config.accumulation):
        torch.manual_seed((config.seed << 32) + micro * accelerator.num_processes + process)
        with accelerator.accumulate(module):
            terms = module(batches(micro * readers + process // config.sequence_parallel))
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
            mean = accelerator.reduce(value.detach(), "mean")  # of all processes
            sums[name] = sums.get(name, 0.0) + float(mean) / config.accumulation
    return sums
