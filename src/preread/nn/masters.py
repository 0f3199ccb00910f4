"""Float32 copies of some of a model's weights, which train in their place.

A bfloat16 weight rounds the small steps of training to nothing, so the copies (the masters) are float32, and the model
computes with what they are in its own dtype. The model's own Parameters stay registered where they were: a tensor of
the same name is laid before each, as an attribute of its module, and taken away again. Weights that are tied, as an
embedding table and an output head may be, are one master in both places.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn


class Masters(nn.Module):
    """The masters of a model's parameters; they begin as what those are.

    Args:
        model: not changed until `attach`.
        names: of its parameters, as `named_parameters` has them.
    """

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        super().__init__()
        self.copies = nn.ParameterDict()
        self._places: dict[str, list[tuple[str, nn.Module]]] = {}
        keys: dict[int, str] = {}  # the same Parameter is the same master, wherever it stands
        standing = [
            (f"{path}.{attribute}".lstrip("."), module, parameter)
            for path, module in model.named_modules()
            for attribute, parameter in module.named_parameters(recurse=False)
        ]
        for name, _, parameter in standing:
            if name in names and id(parameter) not in keys:
                key = keys[id(parameter)] = name.replace(".", "/")
                self.copies[key] = nn.Parameter(parameter.detach().float().clone())
        for name, module, parameter in standing:
            if (tied := keys.get(id(parameter))) is not None:
                self._places.setdefault(tied, []).append((name, module))

    def attach(self) -> None:
        """Have the model compute with the masters as they are now; no gradient reaches them yet."""
        self._put(live=False)

    def refresh(self) -> None:
        """Have the model compute with the masters as they are now, and gradients reach those that train.

        For the beginning of a training step: an optimizer's step does not show in another dtype until then. A layer
        that is computed again in the backward pass meets the very same tensors.
        """
        self._put(live=True)

    def detach(self) -> None:
        """Let the model's own parameters be seen again; a second call does nothing."""
        for places in self._places.values():
            for name, module in places:
                vars(module).pop(_last(name), None)

    def settle(self) -> None:
        """Round every master to the dtype it is used in, which changes nothing that is computed."""
        with torch.no_grad():
            for key, master in self.copies.items():
                master.copy_(master.to(self._own(key).dtype))

    def named(self) -> dict[str, nn.Parameter]:
        """Each master by every name that the model has for it, a tied one by two."""
        return {name: self.copies[key] for key, places in self._places.items() for name, _ in places}

    def _put(self, live: bool) -> None:
        for key, places in self._places.items():
            master: Tensor = self.copies[key]
            seen = (master if live and master.requires_grad else master.detach()).to(self._own(key).dtype)
            for name, module in places:
                # Past `nn.Module.__setattr__`, which would take a Parameter's place for good.
                vars(module)[_last(name)] = seen

    def _own(self, key: str) -> nn.Parameter:
        """The model's own parameter behind a master."""
        name, module = self._places[key][0]
        own = module._parameters[_last(name)]
        assert own is not None, "a place was found by its parameter"
        return own


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
