"""A cache that gradients pass through, for training on prompts whose memory is keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer

from preread.core.types import KeyValues
from preread.nn.weighted import EXTRA, by_layer


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped to mypy
    """One layer that concatenates, and gives its keys room for a bias if it is `wide`."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put [B, K, T, E] behind what is there; returns all keys and values."""
        return self.append(F.pad(key_states, (0, EXTRA * self.wide)), value_states)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The same for keys that are as wide as they should be."""
        together: tuple[Tensor, Tensor] = super().update(keys, values)
        return together


class GrowingCache(Cache):  # type: ignore[misc]
    """Keys and values that gradients pass through: each pass makes new tensors and leaves the old as they were.

    Args:
        layers: L.
        wide: whether given keys will carry a bias.
        dtype: of keys and values.
        device: where they are.
    """

    def __init__(self, layers: int, wide: bool, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers=[GrowingLayer(wide) for _ in range(layers)])
        self.wide, self.dtype, self.device = wide, dtype, device

    def insert(self, given: KeyValues) -> None:
        """Put given keys and values behind what is there."""
        rows = by_layer(given, self.wide, self.dtype, self.device)
        for layer, (keys, values) in zip(self.layers, rows, strict=True):
            layer.append(keys, values)
