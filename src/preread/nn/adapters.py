"""The adapters of one decoder, one at a time for training, or one for each row of a batch for writing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from preread.core.errors import UsageError
from preread.nn.lora import Lora

STACKS = 16
"""Sets of adapters whose joined matrices are kept, the latest used."""


class Acting(Protocol):
    """What changes the output of linear layers."""

    def delta(self, name: str, x: Tensor) -> Tensor | None:
        """[..., in] input of a layer -> [..., out] update of its output, or None."""


class Stack:
    """Some adapters as one: their matrices joined along R, so that two products serve rows of them all.

    A row's own share of the R components is kept and the others' are set to zero between the products. That costs less
    than matrices gathered for each row as long as the joined R stays below the layer's width.

    Args:
        loras: which adapters; they may differ in rank and in layers.
    """

    def __init__(self, loras: Sequence[Lora]) -> None:
        self.loras = tuple(loras)
        self._joined: dict[str, tuple[Tensor, Tensor] | None] = {}

    def rows(self, rows: Sequence[Lora | None]) -> Rows:
        """The same for a batch whose rows have these adapters; None is a row without."""
        ranks = torch.tensor([lora.config.rank for lora in self.loras])
        if len(self.loras) == 1 and None not in rows:
            return Rows(self, None)
        of = torch.arange(len(self.loras)).repeat_interleave(ranks)
        own = torch.tensor([-1 if lora is None else self.loras.index(lora) for lora in rows])
        return Rows(self, (own[:, None] == of)[:, None])

    def joined(self, name: str, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """A [R_all, in] and scaled B [out, R_all], of the dtype and device of x; None if no adapter has the layer."""
        if name not in self._joined:
            self._joined[name] = self._join(name.replace(".", "/"), x)
        return self._joined[name]

    @torch.no_grad()
    def _join(self, key: str, x: Tensor) -> tuple[Tensor, Tensor] | None:
        out = next((lora.b[key].shape[0] for lora in self.loras if key in lora.b), None)
        if out is None:
            return None
        a, b = [], []
        for lora in self.loras:
            rank = lora.config.rank
            here = key in lora.a
            a.append(lora.a[key] if here else x.new_zeros(rank, x.shape[-1], dtype=torch.float32))
            scale = lora.config.alpha / rank
            b.append(lora.b[key] * scale if here else x.new_zeros(out, rank, dtype=torch.float32))
        return torch.cat(a).to(x), torch.cat(b, -1).to(x)


class Rows:
    """A stack at work on one batch.

    Args:
        stack: the adapters.
        own: [B, 1, R_all] bool, True for each row's own components; None where all rows have the only adapter.
    """

    def __init__(self, stack: Stack, own: Tensor | None) -> None:
        self.stack, self.own = stack, own

    def delta(self, name: str, x: Tensor) -> Tensor | None:
        """[B, T, in] -> [B, T, out]."""
        pair = self.stack.joined(name, x)
        if pair is None:
            return None
        low = F.linear(x, pair[0])
        if self.own is not None:
            self.own = self.own.to(x.device)
            low = torch.where(self.own, low, 0.0)  # not a product: zero times another row's infinity is no zero
        return F.linear(low, pair[1])


class Adapters:
    """The adapters of one decoder by name.

    Which of them act is a state of the decoder: a block of `use` or `use_rows` in another thread waits until this one
    ends, and so does who adds or removes one.

    Attributes:
        turn: held by whoever uses the decoder.
        acting: what acts now.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self._layers = dict(layers)
        self._loras: dict[str, Lora] = {}
        self._hooks: list[RemovableHandle] = []
        self.acting: Acting | None = None
        self._stacks: OrderedDict[tuple[tuple[int, int], ...], Stack] = OrderedDict()
        self.turn = threading.RLock()

    def __contains__(self, name: str) -> bool:
        return name in self._loras

    def __iter__(self) -> Iterator[str]:
        return iter(self._loras)

    def __getitem__(self, name: str) -> Lora:
        return self._loras[name]

    @property
    def layers(self) -> Mapping[str, nn.Linear]:
        """The linear layers that an adapter may sit on, by name."""
        return self._layers

    def add(self, name: str, lora: Lora) -> Lora:
        """Make an adapter available under a name, in the place of one that had it."""
        with self.turn:
            self._hook_up()
            self._loras[name] = lora
        return lora

    def remove(self, name: str) -> None:
        """Forget an adapter; with the last one the decoder's layers are bare again."""
        with self.turn:
            gone = self._loras.pop(name, None)
            self._stacks = OrderedDict((k, s) for k, s in self._stacks.items() if gone not in s.loras)
            self._unhook()

    def require(self, name: str | None) -> None:
        """Refuse a name that no adapter has; None is the bare decoder.

        Raises:
            UsageError: no adapter has that name.
        """
        if name is not None and name not in self._loras:
            raise UsageError(
                expected=f"an adapter that is attached ({', '.join(self._loras) or 'none is'})",
                got=name,
                consequence="Nothing was computed.",
                remedy="Attach it first, or ask without an adapter.",
            )

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Let one adapter act inside the block; None is the bare decoder.

        Raises:
            UsageError: no adapter has that name.
        """
        self.require(name)
        with self.turn:
            before, self.acting = self.acting, None if name is None else self._loras[name]
            try:
                yield
            finally:
                self.acting = before

    @contextmanager
    def use_rows(self, rows: Sequence[Lora | None]) -> Iterator[None]:
        """Let each row of a batch have its own adapter inside the block; None is a row without. No gradients pass.

        The rows are of adapters, not of names: an answer that is being written goes on with the adapter that it began
        with, also when that was removed or another one has its name by now.
        """
        wanted = {lora.version: lora for lora in rows if lora is not None}
        with self.turn:
            before, self.acting = self.acting, self._stack(wanted).rows(rows) if wanted else None
            if wanted:
                self._hook_up()
            try:
                yield
            finally:
                self.acting = before
                self._unhook()

    def _stack(self, wanted: Mapping[tuple[int, int], Lora]) -> Stack:
        key = tuple(sorted(wanted))
        if key not in self._stacks:
            self._stacks[key] = Stack([wanted[version] for version in key])
        self._stacks.move_to_end(key)
        while len(self._stacks) > STACKS:
            self._stacks.popitem(last=False)
        return self._stacks[key]

    def _hook_up(self) -> None:
        if not self._hooks:
            self._hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()]

    def _unhook(self) -> None:
        """Bare layers again, unless an adapter is there or at work."""
        if not self._loras and self.acting is None:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add_delta(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            delta = self.acting.delta(name, inputs[0]) if self.acting is not None else None
            return output if delta is None else output + delta

        return add_delta
