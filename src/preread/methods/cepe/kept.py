"""States as they are kept: in the decoder's dtype, or as int8 with a scale for each state.

A state's numbers are multiples of its scale, its largest number over 127, so that each is off by at most half a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Kept = Literal["whole", "int8"]
STEPS = 127


def kept(states: Tensor, how: Kept) -> dict[str, Tensor]:
    """The tensors of a memory.

    Args:
        states: [N, S].
        how: `whole` or `int8`.

    Returns:
        `states` [N, S], and for `int8` their `scales` [N] float32.
    """
    plain = states.detach().cpu()
    if how == "whole":
        return {"states": plain.clone()}
    scales = plain.float().abs().amax(dim=1) / STEPS
    steps = plain.float() / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return {"states": steps.round().to(torch.int8), "scales": scales}


def restored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """[N, S] in a dtype, of a memory's tensors."""
    states = tensors["states"]
    if "scales" not in tensors:
        return states.to(dtype)
    return (states.float() * tensors["scales"].float()[:, None]).to(dtype)
