"""What was computed for the beginnings of prompts, kept for the next question of the same memories."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from preread.core.types import MEMORY, Prompt, sha256
from preread.nn.cache import Held
from preread.nn.lora import Lora
from preread.nn.reading import begins, given

LEAST = 32
"""Fewest positions worth keeping: below it, reading them again is about as quick as finding and copying them."""


class Prefixes:
    """Beginnings of prompts as keys and values, the latest used, up to a number of bytes.

    Args:
        limit: most bytes to keep; 0 keeps nothing.

    Attributes:
        hits: how often a beginning was there.
        misses: how often one that could have been was not.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.hits, self.misses, self.nbytes = limit, 0, 0, 0
        self._kept: OrderedDict[str, Held] = OrderedDict()

    def key(self, prompt: Prompt, lora: Lora | None) -> str | None:
        """Names all that a prompt's beginning is computed from; None where it is not worth keeping."""
        length = begins(prompt)
        between = given(prompt)
        inside = len(between) if between.stop <= length else 0
        if not self.limit or length - inside < LEAST:
            return None
        ids = prompt.ids[:length]
        parts: list[bytes | str] = [repr((None if lora is None else lora.version, length)), _bytes(ids)]
        if prompt.positions is not None:
            parts.append(_bytes(prompt.positions[:length]))
        if prompt.embeds is not None:
            parts.append(_bytes(prompt.embeds[: int((ids == MEMORY).sum())]))
        if prompt.kv is not None and inside:
            parts += map(_bytes, (prompt.kv.keys, prompt.kv.values, prompt.kv.bias))
        if prompt.states is not None:
            parts += [f"read by {prompt.reader}", _bytes(prompt.states)]
        return sha256(*parts)

    def get(self, key: str) -> Held | None:
        """What is kept under a key."""
        held = self._kept.get(key)
        if held is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return held

    def put(self, key: str, held: Held) -> None:
        """Keep a beginning, in the place of those that were not used for longest; one over the limit is not kept."""
        if held.nbytes > self.limit or key in self._kept:
            return
        self._kept[key] = held
        self.nbytes += held.nbytes
        while self.nbytes > self.limit:
            self.nbytes -= self._kept.popitem(last=False)[1].nbytes


def _bytes(states: Tensor) -> bytes:
    """Every bit of a tensor, with its dtype and shape."""
    plain = states.detach().cpu().contiguous()
    head = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return head + plain.view(torch.uint8).numpy().tobytes()
