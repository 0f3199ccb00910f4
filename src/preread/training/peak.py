"""How much memory tensors take while a computation goes on, counted where it is real and where it is not.

On the meta device operations have shapes and no numbers, so a step that no machine could hold is walked in seconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Workspace = Callable[..., int]
"""Arguments of an operation -> bytes that its kernel takes for itself while it runs."""


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts, inside the block, the bytes of all tensors that operations make, for as long as they live.

    Tensors from before the block do not count, and neither does what kernels take for themselves, unless told.

    Args:
        workspaces: by name of the operation.

    Attributes:
        now: bytes that live.
        highest: the most that lived at once.
    """

    def __init__(self, workspaces: Mapping[str, Workspace] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.highest = 0
        self._workspaces = workspaces or {}
        self._living: dict[int, weakref.finalize[..., Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._count(leaf.untyped_storage())
        if (workspace := self._workspaces.get(func.name())) is not None:
            self.highest = max(self.highest, self.now + workspace(*args))
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._living:
            size = storage.nbytes()
            self._living[id(storage)] = weakref.finalize(storage, self._gone, id(storage), size)
            self.now += size
            self.highest = max(self.highest, self.now)

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        del self._living[key]
