"""How far each lever of memory carries a training: the longest row of which one real step fits, beside the estimate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

from preread.bench.figures import Figure
from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.core.progress import progress
from preread.core.types import TextBatch
from preread.methods.longlora.method import LongLora
from preread.models.hollow import config_of, hollow
from preread.models.quantised import quantise
from preread.nn import losses
from preread.nn.activations import Levers
from preread.nn.hf import Decoder
from preread.training import optimizers
from preread.training.footprint import Footprint, Plan, footprint
from preread.training.peak import Peak

RECORD = "ladder.json"
WHOLE = 1 << 40
"""Positions of a loss chunk that no row has: the logits of all of them at once."""
STRIDE = 0.04
"""Share of its length by which a row is shortened or lengthened, until one more would not fit."""
CLIMBS = 4


@dataclass(frozen=True)
class Rung:
    """Settings that add a lever to those of the rung before.

    Args:
        name: in the table.
        plan: of the step.
        chunk: positions whose logits exist at once.
    """

    name: str
    plan: Plan
    chunk: int = losses.CHUNK


RUNGS = (
    Rung("checkpointing, all logits", Plan(Levers("full")), WHOLE),
    Rung("+ chunked loss", Plan(Levers("full"))),
    Rung("+ offload", Plan(Levers("full", offload=True))),
    Rung("+ tiles", Plan(Levers("full", offload=True, tiles=16))),
    Rung("+ 8-bit moments, 4-bit base", Plan(Levers("full", offload=True, tiles=16), "adamw8bit", "int4")),
)


@dataclass(frozen=True)
class LadderConfig:
    """What is trained, and in how much.

    Args:
        shape: a folder with a config.json, or a model's name; its weights are made up.
        memory: bytes of the device.
        host: bytes of the host's memory.
        grain: rows are a multiple of this long.
    """

    shape: str = "recipes/shapes/llama-3-8b"
    memory: int = 80_000_000_000
    host: int = 110_000_000_000
    grain: int = 4096


@dataclass(frozen=True)
class Climbed:
    """A rung's result.

    Args:
        rung: its name.
        expected: longest row by the estimate.
        length: longest row of which a step was taken; 0 where none fitted, or none was tried.
        peak: bytes of that step, measured.
        estimated: bytes of it by the estimate.
        host: bytes offloaded, by the estimate.
    """

    rung: str
    expected: int
    length: int = 0
    peak: int = 0
    estimated: int = 0
    host: int = 0

    @property
    def error(self) -> float:
        """Of the estimate, as a share of what was measured."""
        return abs(self.estimated / self.peak - 1) if self.peak else 0.0


def climb(config: LadderConfig, folder: Path, measure: bool = True) -> list[Climbed]:
    """Every rung; those that the folder has already are not taken again.

    Args:
        config: what.
        folder: for the results, a rung at a time.
        measure: whether real steps are taken, or only estimates made.

    Raises:
        UsageError: the folder holds the ladder of another shape or memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    if measure and torch.cuda.is_available():
        room = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, config.memory / room))
    known = _known(config, record)
    with progress("climbing the ladder of memory", len(RUNGS)) as advance:
        for rung in RUNGS:
            if rung.name not in known or (measure and not known[rung.name].length):
                expected = longest(config, rung)
                known[rung.name] = _measured(config, rung, expected) if measure else Climbed(rung.name, expected)
                kept = {"config": asdict(config), "rungs": [asdict(one) for one in known.values()]}
                record.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            advance(note=f"{rung.name}: {known[rung.name].length or known[rung.name].expected:,} tokens")
    return [known[rung.name] for rung in RUNGS]


def _known(config: LadderConfig, record: Path) -> dict[str, Climbed]:
    """The rungs that a folder has already."""
    if not record.exists():
        return {}
    before = json.loads(record.read_text(encoding="utf-8"))
    if before["config"] != asdict(config):
        raise UsageError(
            expected=f"the ladder of {before['config']} in {record.parent}",
            got=str(asdict(config)),
            consequence="Nothing was measured, and what is there stands.",
            remedy="Choose another --work.",
        )
    return {one["rung"]: Climbed(**one) for one in before["rungs"]}


def longest(config: LadderConfig, rung: Rung) -> int:
    """Tokens of the longest row that fits by the estimate, to a grain or a hundredth; 0 where none does."""
    low, high = 0, 1  # grains that fit, and that do not
    while _fits(config, estimate(config, rung, high * config.grain)):
        low, high = high, 4 * high
    while high - low > max(1, low // 100):
        # Bytes grow nearly in a straight line, but half of the way is always safe.
        share = _share_left(config, rung, low, high) if low else 0.5
        guess = min(high - 1, max(low + 1, low + int(share * (high - low))))
        fits = _fits(config, estimate(config, rung, guess * config.grain))
        low, high = (guess, high) if fits else (low, guess)
        # A straight line mostly guesses the last that fits.
        if fits and guess + 1 < high and not _fits(config, estimate(config, rung, (guess + 1) * config.grain)):
            high = guess + 1
    return low * config.grain


def _share_left(config: LadderConfig, rung: Rung, low: int, high: int) -> float:
    """How far from `low` grains to `high` the first of the two memories is full."""
    below, above = (estimate(config, rung, grains * config.grain) for grains in (low, high))
    pairs = ((config.memory, below.total, above.total), (config.host, below.host, above.host))
    return min((room - first) / (last - first) for room, first, last in pairs if last > first)


def _fits(config: LadderConfig, found: Footprint) -> bool:
    return found.total <= config.memory and found.host <= config.host


@cache
def estimate(config: LadderConfig, rung: Rung, length: int) -> Footprint:
    """The memory of a step over one row, without taking it."""
    decoder = hollow(config_of(config.shape))
    with _training(decoder, rung, length, Levers("none")) as (objective, batch):
        plan = Plan(rung.plan.levers, rung.plan.optimizer, rung.plan.base, gpu=torch.cuda.is_available())
        return footprint(decoder, objective, batch, plan)


def _measured(config: LadderConfig, rung: Rung, expected: int) -> Climbed:
    """Real steps around the expected length: shorter ones until one fits, else longer ones until one does not."""
    stride = max(config.grain, int(expected * STRIDE) // config.grain * config.grain)
    length, best = expected, (0, 0)
    for _ in range(CLIMBS):
        peak = step(config, rung, length) if length else None
        found = estimate(config, rung, length)
        if peak is not None and peak <= config.memory and found.host <= config.host:
            best = length, peak
            length += stride
        elif best[0] or length <= stride:
            break
        else:
            length -= stride
    if not best[0]:
        return Climbed(rung.name, expected)
    found = estimate(config, rung, best[0])
    return Climbed(rung.name, expected, *best, found.total, found.host)


def step(config: LadderConfig, rung: Rung, length: int) -> int | None:
    """Bytes on the device at the highest point of a real step, its optimizer warm; None where they run out.

    On a CPU they are counted operation by operation, what is offloaded not among them.
    """
    decoder = _real(config, rung)
    gpu = decoder.device.type == "cuda"
    with _training(decoder, rung, length, rung.plan.levers) as (objective, batch):
        parameters = [*objective.trainable().values()]
        optimizer = optimizers.optimizer(rung.plan.optimizer, parameters, 1e-5, (0.9, 0.95), 0.0)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        still = sum(each.nbytes * 2 for each in parameters) + _bytes(decoder, optimizer)
        try:
            if gpu:
                torch.cuda.reset_peak_memory_stats()
                _take(objective, batch, optimizer)
                return int(torch.cuda.max_memory_allocated())
            with Peak() as peak:
                _take(objective, batch, optimizer)
            return int(still + peak.highest - estimate(config, rung, length).host)
        except torch.OutOfMemoryError:
            return None
        finally:
            del parameters, optimizer
            objective.zero_grad(set_to_none=True)
            if gpu:
                torch.cuda.empty_cache()


def _take(objective: Objective, batch: Any, optimizer: torch.optim.Optimizer) -> None:
    torch.autograd.backward(torch.stack(list(objective(batch).values())).sum())
    optimizer.step()


def _bytes(decoder: Decoder, optimizer: torch.optim.Optimizer) -> int:
    """Of the decoder's weights as they are kept, and of the optimizer's state."""
    flat = [optimizers.flat(state) for state in optimizer.state.values()]
    states = sum(tensor.nbytes for state in flat for name, tensor in state.items() if name.startswith("exp_avg"))
    return states + sum(_held(parameter) for parameter in decoder.model.parameters())


def _held(weight: torch.Tensor) -> int:
    """Bytes of a weight, of a quantised one those of its parts."""
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    names, _ = weight.__tensor_flatten__()
    parts = [getattr(weight, name) for name in names]
    return sum(_held(part) for part in parts if isinstance(part, torch.Tensor))


def _real(config: LadderConfig, rung: Rung) -> Decoder:
    """The shape with weights made up, on the GPU if there is one."""
    shape, device = config_of(config.shape), "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    if rung.plan.base != "bfloat16":
        quantise(model, rung.plan.base)
    return Decoder(model, hollow(shape).tokenizer, config.shape, "")


@contextmanager
def _training(decoder: Decoder, rung: Rung, length: int, levers: Levers) -> Iterator[tuple[Objective, TextBatch]]:
    """The objective of `longlora` over one row, with the rung's loss."""
    batch = TextBatch(torch.zeros(1, length, dtype=torch.int64), 0)
    method = LongLora(length=max(length, decoder.window), rule="linear", levers=levers)
    with patch.object(losses, "CHUNK", rung.chunk), method.attach(decoder) as handle:
        yield handle.objective("extend"), batch


def ladder_figures(config: LadderConfig, climbed: list[Climbed], command: str) -> list[Figure]:
    """The estimate's error, and on a GPU the longest row."""
    taken = [one for one in climbed if one.peak]
    if not taken:
        return []
    gpu = torch.cuda.is_available()
    errors = [100 * one.error for one in taken]
    by = "torch.cuda.max_memory_allocated" if gpu else "a count of all tensors on the CPU, for want of a GPU"
    recipe = f"{config.shape}, {config.memory / 1e9:g} GB, host {config.host / 1e9:g} GB; " + "; ".join(
        f"{one.rung}: {one.length} tokens" for one in taken
    )
    figures = [
        Figure(
            id="longlora.memory_estimate_error",
            value=max(errors),
            low=min(errors),
            high=max(errors),
            unit="%",
            n=len(errors),
            recipe=recipe,
            command=command,
            note=f"the largest of all rungs; measured by {by}; one step forward and back and the optimizer's",
        )
    ]
    if gpu and config == LadderConfig():  # the 8B shape and the memories that the figure is of
        best = max(one.length for one in taken)
        figures.append(
            Figure(
                id="longlora.max_context_8b_80gb",
                value=best,
                low=best,
                high=best,
                unit="tokens",
                n=1,
                recipe=recipe,
                command=command,
                note="one measured step of S2 with LoRA, norms and embeddings; weights made up",
            )
        )
    return figures
