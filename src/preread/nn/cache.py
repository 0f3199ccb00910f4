"""Keys and values of the positions read so far: rows of different lengths, each in a slot of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer

from preread.core.errors import ResourceError
from preread.core.types import KeyValues
from preread.nn.weighted import EXTRA, by_layer

CLEAN_AHEAD = 256
"""Positions that are zeroed at once behind a row that is shorter than its neighbours."""


@dataclass(frozen=True, slots=True)
class Held:
    """The first positions of a row, copied out of its slot.

    Args:
        layers: for each layer keys [K, T, E or E + EXTRA] and values [K, T, E].
        weighted: whether the keys carry biases.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    weighted: bool

    def __len__(self) -> int:
        return self.layers[0][0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return sum(states.nbytes for layer in self.layers for states in layer)


@dataclass
class Slots:
    """What all layers share: how long each row is, and which rows the next forward pass reads and writes.

    Args:
        capacity: positions a slot can hold.
        lengths: positions each slot holds.
        dtype: of keys and values.
        device: where they are.
    """

    capacity: int
    lengths: list[int]
    dtype: torch.dtype
    device: torch.device
    chosen: range = field(init=False)
    weighted: list[bool] = field(init=False)
    clean: list[int] = field(init=False)
    places: tuple[Tensor, Tensor] | None = None
    wide: bool = False

    def __post_init__(self) -> None:
        self.chosen = range(len(self.lengths))
        self.weighted = [False] * len(self.lengths)
        self.clean = [0] * len(self.lengths)

    @property
    def length(self) -> int:
        """Positions of the longest chosen row."""
        return max(self.lengths[slot] for slot in self.chosen)

    def resize(self, slots: int) -> None:
        """Have so many slots; new ones are empty, and no buffer is known to be clean."""
        new = slots - len(self.lengths)
        self.lengths = self.lengths[:slots] + [0] * new
        self.weighted = self.weighted[:slots] + [False] * new
        self.clean = [0] * slots


class SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to mypy
    """One layer's keys and values in buffers made once, so that a token costs a copy of itself, not of the past.

    The default growing cache concatenates, which copies the whole past for every token. A layer with a sliding window
    keeps all positions too: masks hide what is past the window, whatever the cache holds.
    """

    def __init__(self, slots: Slots, last: bool) -> None:
        super().__init__()
        self.slots, self.last = slots, last
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write [B, K, T, E] behind what the chosen rows hold; returns views of all their keys and values."""
        slots = self.slots
        if self.buffers is None:
            self.make(key_states.shape[1], key_states.shape[3], value_states.shape[3])
        assert self.buffers is not None
        added, end = key_states.shape[2], slots.length + key_states.shape[2]
        assert end <= slots.capacity, f"cache of {slots.capacity} positions is full"
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            # A key without a bias in a wide buffer has a bias of zero.
            states = F.pad(states, (0, buffer.shape[3] - states.shape[3]))  # noqa: PLW2901
            if slots.places is None:
                buffer[slots.chosen.start : slots.chosen.stop, :, end - added : end] = states
            else:
                buffer[slots.places[0], :, slots.places[1]] = states[:, :, 0].to(buffer.dtype)
        views = self._views(end)
        if self.last:
            for slot in slots.chosen:
                slots.lengths[slot] += added
        return views

    @property
    def keys(self) -> Tensor | None:
        """[B, K, T, E] of the chosen rows, a view; None before the first were written."""
        return None if self.buffers is None else self._views(self.slots.length)[0]

    @keys.setter
    def keys(self, _: None) -> None:  # the parent's constructor sets it
        return

    @property
    def values(self) -> Tensor | None:
        """[B, K, T, E] of the chosen rows, a view; None before the first were written."""
        return None if self.buffers is None else self._views(self.slots.length)[1]

    @values.setter
    def values(self, _: None) -> None:
        return

    def get_seq_length(self) -> int:
        """Positions of the longest chosen row."""
        return self.slots.length

    def make(self, heads: int, key_width: int, value_width: int) -> None:
        """Buffers [slots, K, capacity, E] as large as the slots say now; what live rows hold is copied over."""
        slots, old = self.slots, self.buffers
        self.content = key_width
        shape = (len(slots.lengths), heads, slots.capacity)
        widths = (key_width + EXTRA * slots.wide, value_width)
        # Memory is not touched before it is written, so a large capacity costs a CPU nothing until it is used.
        keys, values = (_allocate((*shape, width), slots) for width in widths)
        for new, before in zip((keys, values), old or (), strict=False):
            for slot, length in enumerate(slots.lengths[: len(before)]):
                new[slot, :, :length] = F.pad(before[slot, :, :length], (0, new.shape[3] - before.shape[3]))
        self.buffers = keys, values

    def _views(self, end: int) -> tuple[Tensor, Tensor]:
        assert self.buffers is not None
        keys, values = (buffer[self.slots.chosen.start : self.slots.chosen.stop, :, :end] for buffer in self.buffers)
        weighted = any(self.slots.weighted[slot] for slot in self.slots.chosen)
        return keys if weighted else keys[..., : self.content], values


class SlotCache(Cache):  # type: ignore[misc]
    """Keys and values of rows that each begin at the start of a slot and have their own length; for inference.

    The next forward pass reads and writes the slots chosen with `at`. What it writes counts once its last layer is
    done: a pass that fails halfway leaves every row as it was.

    Args:
        layers: L.
        capacity: positions a slot can hold, until `reserve`.
        dtype: of keys and values.
        device: where they are kept.
        slots: how many rows there can be, until `reserve`.
    """

    def __init__(self, layers: int, capacity: int, dtype: torch.dtype, device: torch.device, slots: int = 1) -> None:
        self.slots = Slots(capacity, [0] * slots, dtype, device)
        super().__init__(layers=[SlotLayer(self.slots, last=i == layers - 1) for i in range(layers)])

    def reserve(self, slots: int, capacity: int, wide: bool = False) -> None:
        """Make room for so many rows of so many positions, and for biases if `wide`; never shrinks.

        Raises:
            ResourceError: there is not enough memory; the rows so far are kept.
        """
        own = self.slots
        before = own.capacity, own.wide, len(own.lengths)
        own.capacity, own.wide = max(capacity, own.capacity), wide or own.wide
        own.resize(max(slots, len(own.lengths)))
        if before == (own.capacity, own.wide, len(own.lengths)):
            return
        try:
            for layer in self.layers:
                if layer.buffers is not None:
                    keys, values = layer.buffers
                    layer.make(keys.shape[1], layer.content, values.shape[3])
        except ResourceError:  # layers that have their larger buffers already may keep them
            own.capacity, own.wide = before[:2]
            own.resize(before[2])
            raise

    def at(self, first: int, count: int = 1) -> None:
        """Choose the rows that the next forward pass is of; rows of different lengths take one position at a time."""
        own = self.slots
        own.chosen = range(first, first + count)
        lengths = [own.lengths[slot] for slot in own.chosen]
        own.places = None
        if len(set(lengths)) > 1:
            own.places = torch.tensor(own.chosen, device=own.device), torch.tensor(lengths, device=own.device)
            self._clean(max(lengths) + 1)

    def cut(self, slot: int, length: int) -> None:
        """Forget what a row holds from `length` on."""
        own = self.slots
        assert length <= own.lengths[slot], "only what is there can be forgotten"
        if length < own.lengths[slot]:
            own.lengths[slot], own.clean[slot] = length, 0
            own.weighted[slot] &= length > 0

    def move(self, source: int, target: int) -> None:
        """Put a row into the place of another, which is gone; the source is free afterwards."""
        own, length = self.slots, self.slots.lengths[source]
        for layer in self.layers:
            for buffer in layer.buffers or ():
                buffer[target, :, :length] = buffer[source, :, :length]
        own.lengths[target], own.weighted[target], own.clean[target] = length, own.weighted[source], 0
        self.cut(source, 0)

    def insert(self, given: KeyValues) -> None:
        """Put given keys and values behind what the one chosen row holds."""
        own = self.slots
        [slot] = own.chosen
        if biased := bool(given.bias.any()):
            self.reserve(0, 0, wide=True)
            own.weighted[slot] = True
        for layer, (keys, values) in zip(self.layers, by_layer(given, biased, own.dtype, own.device), strict=True):
            if layer.buffers is None:
                layer.make(keys.shape[1], keys.shape[3] - EXTRA * biased, values.shape[3])
            layer.update(keys, values)

    def copy(self, slot: int, length: int) -> Held:
        """The first positions of a row, to be kept elsewhere."""
        weighted = self.slots.weighted[slot]
        rows = []
        for layer in self.layers:
            keys, values = (buffer[slot, :, :length] for buffer in layer.buffers)
            rows.append(((keys if weighted else keys[..., : layer.content]).clone(), values.clone()))
        return Held(tuple(rows), weighted)

    def paste(self, held: Held) -> None:
        """Put copied positions behind what the one chosen row holds."""
        if held.weighted:
            self.reserve(0, 0, wide=True)
            self.slots.weighted[self.slots.chosen.start] = True
        for layer, (keys, values) in zip(self.layers, held.layers, strict=True):
            if layer.buffers is None:
                layer.make(keys.shape[0], keys.shape[2] - EXTRA * held.weighted, values.shape[2])
            layer.update(keys[None], values[None])

    def _clean(self, end: int) -> None:
        """Zero what chosen rows do not hold but the longest does: it is masked, but a NaN there would pass any mask."""
        own = self.slots
        for slot in own.chosen:
            start = max(own.clean[slot], own.lengths[slot])
            if start < end:
                own.clean[slot] = min(own.capacity, end + CLEAN_AHEAD)
                for layer in self.layers:
                    for buffer in layer.buffers or ():
                        buffer[slot, :, start : own.clean[slot]] = 0


def _allocate(shape: Sequence[int], slots: Slots) -> Tensor:
    try:
        return torch.empty(tuple(shape), dtype=slots.dtype, device=slots.device)
    except RuntimeError as error:  # nothing else makes an empty tensor fail
        raise ResourceError(
            expected=f"memory for keys and values of {shape[0]} rows of {shape[2]} positions on {slots.device}",
            got=str(error).splitlines()[0],
            consequence="The prompt was not read; others go on.",
            remedy="Ask of less text at once, or let fewer rows be written together.",
        ) from error
