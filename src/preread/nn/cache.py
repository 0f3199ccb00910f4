"""Keys and values of the positions read so far, in buffers made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to mypy
    """One layer's keys and values in a buffer made once, so that a token costs a copy of itself, not of the past.

    The default growing cache concatenates, which copies the whole past for every token. A layer with a sliding window
    keeps all positions too: transformers masks by the window, whatever the cache holds.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers, [B, K, capacity, E], with the shapes and dtype of the first states."""
        super().lazy_initialization(key_states, value_states)
        self._hold(
            key_states.new_empty((*key_states.shape[:2], self.capacity, key_states.shape[3])),
            value_states.new_empty((*value_states.shape[:2], self.capacity, value_states.shape[3])),
            length=0,
        )

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write [B, K, T, E] behind what is there; returns views of all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        assert end <= self.capacity, f"cache of {self.capacity} positions is full"
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self._hold(self._keys, self._values, end)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions held so far."""
        return self.length

    def join(self, rows: Sequence[PreallocatedLayer]) -> None:
        """Take over the layers of single rows, each padded on the left to the longest."""
        first, length = rows[0], max(row.length for row in rows)
        self.lazy_initialization(first.keys.expand(len(rows), -1, -1, -1), first.values.expand(len(rows), -1, -1, -1))
        for i, row in enumerate(rows):
            for buffer, states in ((self._keys, row.keys), (self._values, row.values)):
                buffer[i, :, : length - row.length] = 0  # masked, but a NaN left there by chance would pass any mask
                buffer[i, :, length - row.length : length] = states[0]
        self._hold(self._keys, self._values, length)

    def keep(self, rows: Sequence[int], drop: int) -> None:
        """Keep these rows, without their first `drop` positions."""
        held = list(rows)
        self.capacity -= drop
        self._hold(self._keys[held, :, drop:], self._values[held, :, drop:], self.length - drop)

    def _hold(self, keys: Tensor, values: Tensor, length: int) -> None:
        self._keys, self._values, self.length = keys, values, length
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]


class PreallocatedCache(Cache):  # type: ignore[misc]
    """The keys and values of some rows in all layers; rows of one length, the shorter ones padded on the left."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[PreallocatedLayer(capacity) for _ in range(layers)])

    def join(self, rows: Sequence[PreallocatedCache]) -> None:
        """Take over the caches of single rows, each padded on the left to the longest; this one must be empty."""
        for layer, singles in zip(self.layers, zip(*(row.layers for row in rows), strict=True), strict=True):
            layer.join(singles)

    def keep(self, rows: Sequence[int], drop: int) -> None:
        """Keep these rows, without their first `drop` positions."""
        for layer in self.layers:
            layer.keep(rows, drop)
