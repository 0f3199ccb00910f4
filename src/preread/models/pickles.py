"""Tensors out of pickles, in which some checkpoints are published; only where a user asks for their conversion.

No model is ever loaded from one (`loading`): a pickle may ask for any code to be run. Here one that asks for more than
tensors is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from preread.core.errors import IntegrityError


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, by name; mapped from the file, so that what it claims to hold costs no memory.

    Raises:
        IntegrityError: it asks for anything else, or is missing or damaged.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # torch's own words go on to say how to run such a file, which nobody should.
        raise _refused(file, "a pickle that asks for more than tensors, or is damaged") from error
    except Exception as error:  # damage shows in as many ways as there are bytes
        raise _refused(file, "which is missing, damaged or no archive of tensors") from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise _refused(file, "which holds other things than tensors")
    return {str(name): tensor for name, tensor in found.items()}


def _refused(file: Path, why: str) -> IntegrityError:
    return IntegrityError(
        expected=f"named tensors alone in a file of {file.parent}",
        got=f"{file.name}, {why}",
        consequence="Nothing was converted, and no code was run.",
        remedy="Fetch the folder again from its authors.",
    )
