"""Levers that buy memory with time: what a training step keeps of its forward pass, and where.

A step through L layers of T positions keeps, without any, some twenty tensors [T, D] a layer. Checkpointing keeps one,
the layer's input, and computes the rest again in the backward pass; offloading moves that one to the host's memory;
tiles bound what a layer needs while it is at work. Gradients are those of the plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from preread.core.errors import UnsupportedModel, UsageError

Acting = Callable[[], Callable[[], AbstractContextManager[None]]]
Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
PIECE = 1 << 26
"""Bytes of one pinned block. Pinned memory is handed out in powers of two, so one block for a whole tensor could waste
nearly as much again."""


@dataclass(frozen=True)
class Levers:
    """How a training step saves memory.

    Args:
        checkpoint: what is computed again in the backward pass: nothing, all of a layer but its attention, or all.
        offload: whether the layers' inputs wait in the host's memory. Copies run beside the computation on a GPU; on a
            CPU it gains nothing.
        tiles: pieces of the sequence in which a layer's MLP and norms, and the last norm, are computed one after the
            other.

    Raises:
        UsageError: no tile, or nothing that could be offloaded.
    """

    checkpoint: Literal["none", "selective", "full"] = "full"
    offload: bool = False
    tiles: int = 1

    def __post_init__(self) -> None:
        if self.tiles < 1 or (self.offload and self.checkpoint == "none"):
            raise UsageError(
                expected="tiles of at least 1, and offload only beside checkpoint: selective or full",
                got=f"tiles: {self.tiles}, offload: {self.offload}, checkpoint: {self.checkpoint}",
                consequence="Nothing was trained.",
                remedy="Correct `levers` in the recipe: with checkpoint: full the inputs are all there is to move.",
            )


def _nothing() -> Callable[[], AbstractContextManager[None]]:
    return nullcontext


@contextmanager
def frugal(model: nn.Module, levers: Levers, acting: Acting = _nothing) -> Iterator[None]:
    """Run a decoder's training steps with these levers inside the block; every gradient stays what it is.

    A call that records no gradients, or that reads or writes a cache, runs as ever.

    Args:
        model: a Hugging Face decoder, whose `base_model` has its layers as `layers`.
        levers: which.
        acting: asked before each layer what acts on it, such as an adapter for a part of the step alone
            (`Decoder.acting`): a block that lets it act again.

    Raises:
        UnsupportedModel: it has no such layers, or tiles are asked for and a layer has no MLP of the usual name.
    """
    layers = _layers(model)
    with ExitStack() as stack:
        if levers.tiles > 1:
            for module in _position_wise(model, layers):
                stack.enter_context(_forward(module, partial(_in_tiles, levers.tiles, acting)))
        if levers.checkpoint != "none":
            for layer in layers:
                stack.enter_context(_forward(layer, partial(_again, levers, acting)))
        yield


def _again(
    levers: Levers, acting: Acting, plain: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """A layer's call, to be computed again in the backward pass."""
    if not torch.is_grad_enabled() or kwargs.get("past_key_values") is not None:
        return plain(hidden, *args, **kwargs)
    kept = _keeping_attention if levers.checkpoint == "selective" else noop_context_fn
    context = partial(_as_then, kept, acting())
    # What the layer itself saves is the checkpoint's; what is saved around it are the layer's inputs.
    waiting = saved_tensors_hooks(_Away, _Away.back) if levers.offload else nullcontext()
    with waiting:
        out = checkpoint(partial(plain, **kwargs), hidden, *args, use_reentrant=False, context_fn=context)
    assert isinstance(out, Tensor), "a decoder's layer gives hidden states"
    return out


def _in_tiles(tiles: int, acting: Acting, plain: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """A position-wise module's call on [B, T, D], a piece of T at a time, each to be computed again."""
    context = partial(_as_then, noop_context_fn, acting())
    # One split, whose gradient is one concatenation: slices would each have one as large as the whole.
    pieces = states.chunk(tiles, dim=1)
    return torch.cat([checkpoint(plain, piece, use_reentrant=False, context_fn=context) for piece in pieces], dim=1)


def _as_then(kept: Callable[[], Contexts], again: Callable[[], AbstractContextManager[None]]) -> Contexts:
    """Blocks around the forward pass and around computing it again; in the second there acts what did in the first."""
    forward, recompute = kept()
    return forward, _both(again(), recompute)


@contextmanager
def _both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield


def _keeping_attention() -> Contexts:
    contexts: Any = create_selective_checkpoint_contexts(_keep_attention)  # type: ignore[no-untyped-call]
    return contexts[0], contexts[1]


def _keep_attention(_: SelectiveCheckpointContext, op: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    """Keep the outputs of fused attention, the operations whose cost grows with T * T, whatever kernel it is."""
    fused = "attention" in op.name() or "attn" in op.name()
    return CheckpointPolicy.MUST_SAVE if fused else CheckpointPolicy.PREFER_RECOMPUTE


class _Away:
    """A tensor while it waits in the host's memory; on a GPU the copies run beside the computation."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        flat = tensor.detach().reshape(-1)
        with _beside(self.device):
            self.pieces = [
                torch.empty_like(piece, device="cpu", pin_memory=piece.is_cuda).copy_(piece, non_blocking=True)
                for piece in _pieces(flat)
            ]
        if flat.is_cuda:
            flat.record_stream(_stream(self.device))  # its memory is another's only once it is copied

    def back(self) -> Tensor:
        """The tensor, where it was."""
        out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        with _beside(self.device):
            for piece, place in zip(self.pieces, _pieces(out.view(-1)), strict=True):
                place.copy_(piece, non_blocking=True)
        if out.is_cuda:
            torch.cuda.current_stream(self.device).wait_stream(_stream(self.device))
        return out


def _pieces(flat: Tensor) -> tuple[Tensor, ...]:
    """What is moved, block by block; of a tensor of shape alone nothing is."""
    return () if flat.is_meta else torch.split(flat, PIECE // flat.element_size())


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Queue copies behind what the device was told so far, and beside what it is told from here on."""
    if device.type != "cuda":
        yield
        return
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _forward(module: nn.Module, around: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the block `module.forward(...)` is `around(forward, ...)`; hooks on the module stay outside of it."""
    plain, own = module.forward, vars(module).get("forward")
    module.forward = partial(around, plain)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _layers(model: nn.Module) -> nn.ModuleList:
    layers = getattr(getattr(model, "base_model", None), "layers", None)
    if isinstance(layers, nn.ModuleList):
        return layers
    raise UnsupportedModel(
        expected="a decoder with its layers as `layers`",
        got=type(model).__name__,
        consequence="Nothing was changed: there is nothing to save memory on.",
        remedy="Choose a decoder of the Llama, Qwen, Gemma or Mistral families, or checkpoint: none.",
    )


def _position_wise(model: nn.Module, layers: nn.ModuleList) -> list[nn.Module]:
    """The modules that act on each position alone, on [B, T, D]: every layer's MLP and norms, and the last norm."""
    found = [module for layer in layers for name, module in layer.named_children() if name == "mlp" or "norm" in name]
    if sum(isinstance(getattr(layer, "mlp", None), nn.Module) for layer in layers) < len(layers):
        raise UnsupportedModel(
            expected="layers with an `mlp`, to compute it in tiles",
            got=type(layers[0]).__name__,
            consequence="Nothing was changed.",
            remedy="Set tiles to 1.",
        )
    last = getattr(model.base_model, "norm", None)
    return [*found, last] if isinstance(last, nn.Module) else found
