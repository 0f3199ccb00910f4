"""Everything a stopped run needs to go on as if it had not stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from preread.core.errors import IntegrityError, ResourceError, UsageError
from preread.training.optimizers import flat, whole

NAME = "checkpoint.safetensors"


def save(
    folder: Path,
    step: int,
    recipe: str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write parameters, optimizer state and step; a crash while writing leaves the checkpoint before it.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    tensors = {f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{key}/{name}": value for key, value in flat(optimizer.state.get(parameter, {})).items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    half = folder / (NAME + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, half, metadata={"step": json.dumps(step), "recipe": recipe})
        half.replace(folder / NAME)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            half.unlink(missing_ok=True)  # it would hold the room that is missing
        raise no_room(folder, error) from error


def load(folder: Path, recipe: str, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save` wrote; returns the step to go on from, 0 where there is no checkpoint.

    Raises:
        UsageError: the checkpoint belongs to another recipe.
        IntegrityError: it is damaged or has other parameters.
    """
    path = folder / NAME
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors, step = load_file(path), int(metadata["step"])
    except Exception as error:
        raise _damaged(path, str(error)) from error
    if metadata["recipe"] != recipe:
        raise UsageError(
            expected=f"the recipe that {path} was started with",
            got="another one",
            consequence="Nothing was trained, and the checkpoint is untouched.",
            remedy="Go on with the old recipe, or choose another output folder.",
        )
    shapes = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("parameter/")}
    if shapes != {f"parameter/{name}": parameter.shape for name, parameter in parameters.items()}:
        raise _damaged(path, "other parameters than this run trains")
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[f"parameter/{name}"])
        state = {key.split("/", 1)[0]: value for key, value in tensors.items() if key.split("/", 1)[1] == name}
        state.pop("parameter")
        # Adam keeps its step counter on the CPU and its moments beside the parameter.
        state = {k: v if v.dim() == 0 else v.to(parameter.device) for k, v in state.items()}
        optimizer.state[parameter] = whole(state)
    return step


def no_room(folder: Path, error: Exception) -> ResourceError:
    """The error of a run that cannot write."""
    return ResourceError(
        expected=f"room to write a run's checkpoint and log in {folder}",
        got=str(error),
        consequence="Training stopped; the last whole checkpoint stands.",
        remedy="Free some space and start the same run again: it goes on from there.",
    )


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        expected=f"a training checkpoint in {path}",
        got=reason,
        consequence="Nothing was trained.",
        remedy="Delete the file to start the run anew.",
    )
