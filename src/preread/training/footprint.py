"""How much memory a training step takes, before there is a model to take it.

What stands still (weights, what trains, its gradients, the optimizer's moments) is counted from shapes. What moves is
walked: the real objective runs one step forward and back on the meta device, and what would live is added up as it goes
(`peak.py`), whatever the decoder, the levers and the loss are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from preread.core.errors import ResourceError
from preread.core.method import Objective
from preread.core.progress import progress
from preread.models.hollow import fused
from preread.nn.activations import Levers, frugal
from preread.nn.hf import Decoder
from preread.training import optimizers
from preread.training.peak import Peak

Base = Literal["bfloat16", "int8", "int4"]
BITS: dict[Base, float] = {"int8": 8.0, "int4": 4 + 8 / 64 + 32 / (64 * 256)}
"""Bits of a weight in a linear layer of a quantised base, scales included (`models/quantised.py`)."""
UNPACKED = {"bfloat16": 0, "int8": 2, "int4": 14}
"""Bytes for each weight of the largest layer while a quantised base unpacks it, as tests/training counts them."""
DEPTHS = (2, 4)
"""Layers of the two walks; even, for decoders whose layers take turns."""
TILES = (4, 16, 64)
"""Numbers of tiles that `fit` tries."""


@dataclass(frozen=True)
class Plan:
    """What decides a step's memory beside the decoder, the objective and the batch.

    Args:
        levers: of the activations.
        optimizer: of the run.
        base: what the frozen weights are kept in.
        devices: over how many all weights, what trains and its moments are shared out (FSDP, ZeRO-3); each device has
            its own batch.
        gpu: whether it is a GPU, whose fused attention takes memory of its own to go back.
    """

    levers: Levers = Levers()
    optimizer: optimizers.Name = "adamw"
    base: Base = "bfloat16"
    devices: int = 1
    gpu: bool = True


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on one device, by kind, from the second micro-step on.

    Args:
        weights: of the decoder, as they are kept; where they are shared out, with what is gathered of them.
        trained: float32 parameters that train.
        gradients: of those.
        moments: the optimizer's.
        kept: what waits between forward and backward pass.
        working: what the peak has beyond all of that.
        host: bytes in the host's memory.
    """

    weights: int
    trained: int
    gradients: int
    moments: int
    kept: int
    working: int
    host: int = 0

    @property
    def total(self) -> int:
        """The device's peak."""
        return self.weights + self.trained + self.gradients + self.moments + self.kept + self.working

    @property
    def table(self) -> str:
        """All of it, a kind a line, for people."""
        kinds = {
            "weights of the decoder": self.weights,
            "what trains, in float32": self.trained,
            "its gradients": self.gradients,
            "the optimizer's moments": self.moments,
            "kept for the backward pass": self.kept,
            "beside it, at the peak": self.working,
            "together, on the device": self.total,
            "offloaded, in the host's memory": self.host,
        }
        return "\n".join(f"{name:<32}{size / 1e9:>8.2f} GB" for name, size in kinds.items())


@dataclass(frozen=True, slots=True)
class _Walk:
    """Bytes of what a step made.

    Args:
        kept: between forward and backward pass.
        full: the most until the last layer's backward pass is over, while every layer's input lives.
        highest: the most of all.
        entering: of one layer's input.
    """

    kept: int
    full: int
    highest: int
    entering: int


def footprint(decoder: Decoder, objective: Objective, batch: Any, plan: Plan) -> Footprint:
    """The memory of a step.

    Args:
        decoder: of shapes alone (`models/hollow.py`).
        objective: what trains it, with no levers in force.
        batch: what one micro-step reads on a device; where several share a row (sequence parallel), its part of it.
        plan: the rest.
    """
    return _settled(decoder, objective, plan, _walk(decoder, objective, batch, plan.gpu, plan.levers))


def fit(
    decoder: Decoder, objective: Objective, batch: Any, memory: int, host: int, given: Plan = Plan()
) -> tuple[Plan, Footprint]:
    """The quickest settings that a device has room for.

    They are tried in the order of what they cost: checkpointing all but attention, checkpointing in full, tiles,
    offload, moments in 8 bits, a base in 4 bits.

    Args:
        decoder: as `footprint`.
        objective: as `footprint`.
        batch: as `footprint`.
        memory: bytes of each device.
        host: bytes of the host's memory for each device.
        given: what is not to be chosen: devices, and whether they are GPUs.

    Raises:
        ResourceError: nothing fits; it says what is missing.
    """
    walk = cache(partial(_walk, decoder, objective, batch, given.gpu))
    plans = [*_plans(given)]
    least: Footprint | None = None
    with progress("fitting settings to the memory", len(plans)) as advance:
        for plan in plans:
            found = _settled(decoder, objective, plan, walk(plan.levers))
            if found.total <= memory and found.host <= host:
                return plan, found
            if found.host <= host and (least is None or found.total < least.total):
                least = found
            advance()
    assert least is not None, "the first plans need no memory of the host"
    raise ResourceError(
        expected=f"{least.total / 1e9:.1f} GB of a device at least, for this length",
        got=f"{memory / 1e9:.1f} GB, and {host / 1e9:.1f} GB of the host's for what is offloaded",
        consequence="Nothing was trained.",
        remedy="Shorten the window, read fewer rows a step, train less of the decoder, or share it out over devices.",
    )


def _plans(given: Plan) -> Iterator[Plan]:
    for checkpoint in ("none", "selective", "full"):
        yield replace(given, levers=Levers(checkpoint))
    yield from (replace(given, levers=Levers(tiles=tiles)) for tiles in TILES)
    away = replace(given, levers=Levers(offload=True, tiles=TILES[-1]))
    yield away
    yield replace(away, optimizer="adamw8bit")
    yield replace(away, optimizer="adamw8bit", base="int4")


def _walk(decoder: Decoder, objective: Objective, batch: Any, gpu: bool, levers: Levers) -> _Walk:
    """One step forward and back, at two small depths: each further layer adds what those between the two did.

    A step's highest point is either while all layers' inputs live, and moves with their number, or later on, when some
    of them are gone; then it is what it was.
    """
    layers = decoder.model.base_model.layers
    few, more = DEPTHS
    if len(layers) <= more:
        return _walk_whole(decoder, objective, batch, gpu, levers)
    walks = []
    for depth in DEPTHS:
        decoder.model.base_model.layers = layers[:depth]
        try:
            walks.append(_walk_whole(decoder, objective, batch, gpu, levers))
        finally:
            decoder.model.base_model.layers = layers
    low, high = walks
    times = (len(layers) - more) / (more - few)
    kept, full = (
        round(getattr(high, name) + times * (getattr(high, name) - getattr(low, name))) for name in ("kept", "full")
    )
    return _Walk(kept, full, max(full, high.highest), high.entering)


def _walk_whole(decoder: Decoder, objective: Objective, batch: Any, gpu: bool, levers: Levers) -> _Walk:
    for parameter in objective.trainable().values():
        parameter.grad = torch.zeros_like(parameter)  # before the count: a second micro-step adds to them in place
    layers = decoder.model.base_model.layers
    entering: list[int] = []
    full: list[int] = []

    def see(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        entering.append(args[0].nbytes)
        if args[0].requires_grad and torch.is_grad_enabled():
            args[0].register_hook(lambda _: full.append(peak.highest))  # type: ignore[no-untyped-call]

    workspaces = {"aten::_scaled_dot_product_flash_attention_backward": _flash_workspace} if gpu else {}
    seen = layers[-1].register_forward_pre_hook(see)
    try:
        with frugal(decoder.model, levers, decoder.acting), fused(), Peak(workspaces) as peak:
            loss = torch.stack(list(objective(batch).values())).sum()
            kept = peak.now
            loss.backward()  # type: ignore[no-untyped-call]
    finally:
        seen.remove()
        objective.zero_grad(set_to_none=True)
    return _Walk(kept, full[0] if full else peak.highest, peak.highest, entering[0])


def _flash_workspace(grad: Tensor, query: Tensor, key: Tensor, *_: Any, **__: Any) -> int:
    """What FlashAttention 2 takes on a GPU to go back: queries' gradients in float32, and keys' for each query head."""
    rows, heads, length, width = query.shape
    expanded = 2 * grad.nbytes if key.shape[1] < heads else 0
    return 4 * rows * heads * length * (width + 1) + expanded


def _settled(decoder: Decoder, objective: Objective, plan: Plan, walk: _Walk) -> Footprint:
    """What was walked, with what stands still."""
    parameters = [*objective.trainable().values()]
    trained = sum(parameter.nbytes for parameter in parameters) // plan.devices
    moments = sum(_moments(parameter, plan.optimizer) for parameter in parameters) // plan.devices
    weights, unpacked = _weights(decoder.model, plan)
    # AdamW's update makes a tensor of every parameter's size, when no activation lives any more.
    working = max(walk.highest + unpacked, trained) - walk.kept
    host = len(decoder.model.base_model.layers) * walk.entering if plan.levers.offload else 0
    return Footprint(weights, trained, trained, moments, walk.kept, working, host)


def _moments(parameter: Tensor, optimizer: optimizers.Name) -> int:
    """Bytes of AdamW's two moments; in 8 bits with a scale for 256 numbers, unless a parameter is small (torchao)."""
    packed = optimizer == "adamw8bit" and parameter.numel() >= 4096 and parameter.numel() % 256 == 0
    return 2 * (parameter.numel() * 260 // 256 + 1024 if packed else 4 * parameter.numel())


def _weights(model: PreTrainedModel, plan: Plan) -> tuple[int, int]:
    """Bytes of the decoder's own weights on a device, and of the largest that a quantised base unpacks."""
    head = model.get_output_embeddings()
    packed = {
        id(layer.weight): layer.weight.numel()
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer is not head and plan.base != "bfloat16"
    }
    sizes = [
        (name, packed[id(p)] * BITS[plan.base] / 8 if id(p) in packed else p.nbytes)
        for name, p in model.named_parameters()
    ]
    whole = sum(size for _, size in sizes)
    layers = sum(size for name, size in sizes if ".layers." in name)
    # Gathered while they are at work: a layer and the next one, and whatever stands outside of layers.
    gathered = 2 * layers / len(model.base_model.layers) + whole - layers if plan.devices > 1 else 0
    return round(whole / plan.devices + gathered), UNPACKED[plan.base] * max(packed.values(), default=0)
