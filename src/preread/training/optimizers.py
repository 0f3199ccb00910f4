"""The optimizers that a run may have, and their states as plain tensors for a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from preread.core.errors import UsageError

Name = Literal["adamw", "adamw8bit"]
PARTS = ("codes", "scale", "qmap")
"""What an 8-bit state is made of: 256 levels (`qmap`), a level for each number, and a scale for each 256 numbers."""


def optimizer(
    name: Name, parameters: Iterable[nn.Parameter], rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW with moments in float32, or in 8 bits by torchao (arXiv 2110.02861).

    Raises:
        UsageError: 8 bits, and torchao is not installed.
    """
    settings: dict[str, Any] = {"lr": rate, "betas": betas, "weight_decay": weight_decay}
    parameters = list(parameters)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            expected="torchao, which optimizer adamw8bit needs",
            got=str(error),
            consequence="Nothing was trained.",
            remedy='Install it with pip install "preread[quant]", or leave optimizer out for adamw.',
        ) from error
    made: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
    if not any(parameter.is_cuda for parameter in parameters):
        # On a CPU its compilation takes longer than any step that it would speed up, and a compiler.
        made.step = torch.compiler.set_stance("force_eager")(made.step)  # type: ignore[method-assign]
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give an optimizer its learning rate; one that is compiled keeps it in a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def flat(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A parameter's state as plain tensors: an 8-bit one by its parts, as `exp_avg.codes`."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = {f"{name}.{part}": getattr(tensor, part) for part in PARTS} if hasattr(tensor, "codes") else {}
        plain |= parts or {name: tensor}
    return plain


def whole(plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state that `flat` took apart."""
    state = {name: tensor for name, tensor in plain.items() if "." not in name}
    for name in {name.split(".", 1)[0] for name in plain.keys() - state}:
        from torchao.optim.subclass_8bit import OptimState8bit

        codes, scale, qmap = (plain[f"{name}.{part}"] for part in PARTS)
        state[name] = OptimState8bit(codes, scale, qmap, signed=bool((qmap < 0).any()), dtype=torch.float32)
    return state
