"""What a recipe's step takes of a machine's memory, and the levers with which it fits, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import torch

from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.method import Objective
from preread.core.types import TextBatch
from preread.methods.longlora.extension import Extension
from preread.methods.longlora.method import LongLora, read_manifest
from preread.models.hollow import config_of, hollow
from preread.models.names import divided
from preread.nn.activations import Levers
from preread.nn.hf import Decoder
from preread.recipes import Recipe
from preread.training.footprint import Base, Footprint, Plan, fit, footprint

SPARE = 0.06
"""Share of a device that is not planned with: its driver's own, and gaps between tensors."""
BASES: dict[str | None, Base] = {None: "bfloat16", "bfloat16": "bfloat16", "int8": "int8", "int4": "int4"}


@dataclass(frozen=True)
class Machine:
    """What a run may take.

    Args:
        memory: bytes of each device.
        host: bytes of the host's memory for each device.
        gpu: whether the devices are GPUs.
        devices: as `size`.
    """

    memory: int
    host: int
    gpu: bool = True
    devices: int = 1


def here() -> Machine:
    """The machine at hand: its first GPU, or its memory, of which offloading then gets nothing."""
    host = psutil.virtual_memory().total
    if not torch.cuda.is_available():
        return Machine(round((1 - SPARE) * host), 0, gpu=False)
    room = torch.cuda.mem_get_info()[1]
    return Machine(round((1 - SPARE) * room), round((1 - SPARE) * host / torch.cuda.device_count()))


def size(recipe: Recipe, gpu: bool = True, devices: int = 1) -> Footprint:
    """The memory of a recipe's largest step on each device, by kind.

    Args:
        recipe: of `longlora`.
        gpu: whether the devices are GPUs.
        devices: over how many weights, what trains and its moments are shared out (FSDP, ZeRO-3).

    Raises:
        UsageError: a recipe of another method.
        UnknownModel, UnsupportedModel: as `config_of` and `hollow`.
    """
    plan = Plan(_settings(recipe).levers, recipe.training.optimizer, _base(recipe), devices, gpu)
    with _hollow(recipe) as (decoder, objective, batch):
        return footprint(decoder, objective, batch, plan)


def fitted(recipe: Recipe, machine: Machine) -> tuple[Recipe, Footprint]:
    """The recipe with the quickest levers, optimizer and base for which a machine has room, and its memory.

    Raises:
        ResourceError: nothing fits.
        UsageError, UnknownModel, UnsupportedModel: as `size`.
    """
    given = Plan(optimizer=recipe.training.optimizer, base=_base(recipe), devices=machine.devices, gpu=machine.gpu)
    with _hollow(recipe) as (decoder, objective, batch):
        plan, found = fit(decoder, objective, batch, machine.memory, machine.host, given)
    chosen = replace(
        recipe,
        model=recipe.model if plan.base == given.base else f"{divided(recipe.model)[0]}:{plan.base}",
        settings={**recipe.settings, "levers": asdict(plan.levers)},
        training=replace(recipe.training, optimizer=plan.optimizer),
    )
    return chosen, found


@contextmanager
def _hollow(recipe: Recipe) -> Iterator[tuple[Decoder, Objective, Any]]:
    """The recipe's own objective over a decoder of shapes, and one device's part of its largest batch."""
    settings = replace(_settings(recipe), levers=Levers("none"))
    decoder = hollow(config_of(divided(recipe.model)[0]))
    if settings.weights:  # gone on from: its parts train, at its length; what they hold does not matter here
        made, extension = read_manifest(settings.weights), Extension.load(settings.weights, decoder)
        settings = replace(settings, weights=None, length=made["length"], rule=made["rule"], extension=extension.config)
    shapes = [(phase.rows or recipe.rows, phase.window or recipe.window) for phase in recipe.phases]
    rows, window = max(shapes or [(recipe.rows, recipe.window)], key=math.prod)
    batch = TextBatch(torch.zeros(rows, math.ceil(window / recipe.training.sequence_parallel), dtype=torch.int64), 0)
    with settings.attach(decoder) as handle:
        yield decoder, handle.objective(recipe.stage), batch


def _settings(recipe: Recipe) -> LongLora:
    if recipe.method != LongLora.name:
        raise UsageError(
            expected=f"a recipe of {LongLora.name}, whose memory is known beforehand",
            got=recipe.method,
            consequence="Nothing was estimated.",
            remedy="Ask for --estimate, which takes a few real steps.",
        )
    return build(LongLora, recipe.settings)


def _base(recipe: Recipe) -> Base:
    dtype = divided(recipe.model)[1]
    if dtype not in BASES:
        raise UsageError(
            expected="a base in bfloat16, int8 or int4",
            got=str(dtype),
            consequence="Nothing was estimated.",
            remedy="Leave the dtype out for bfloat16.",
        )
    return BASES[dtype]
