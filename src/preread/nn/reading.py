"""A prompt on its way into the decoder: tokens and embeddings are read, given keys and values are put in between.

The one place that knows how a `Prompt` becomes states, for engines (piece by piece, into a slot), trainers and tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from preread.core.types import MEMORY, Prompt
from preread.nn.cache import SlotCache
from preread.nn.cpu import require_weighted
from preread.nn.growing import GrowingCache
from preread.nn.hf import Decoder


def read(decoder: Decoder, prompt: Prompt, cache: SlotCache | GrowingCache | None = None) -> Tensor:
    """Read a prompt with whatever adapter is in use; gradients pass where the cache lets them (not through slots).

    Args:
        decoder: who reads.
        prompt: what is read.
        cache: an empty one, filled in place, to go on from; None keeps nothing.

    Returns:
        [T', D] last hidden states of the positions that were read, in order: all of the prompt's but those of its `kv`.

    Raises:
        UnsupportedModel: the prompt's keys carry a bias, and the decoder's attention cannot read one.
    """
    if cache is None:
        if prompt.kv is None and prompt.positions is None:
            with decoder.beside.reading([prompt], decoder.device):
                return decoder.hidden(decoder.embed(prompt.ids, prompt.embeds)[None])[0]
        cache = decoder.growing_cache(weighted(prompt))
    reading, states = Reading(decoder, replace(prompt, shared=0)), []
    while reading.left:
        if (piece := reading.read(cache)) is not None:
            states.append(piece)
    return torch.cat(states)


def read_all(decoder: Decoder, prompts: Sequence[Prompt]) -> list[Tensor]:
    """[T', D] for each prompt as `read` gives it; those of tokens and embeddings alone are read in one batch."""
    plain = {i: decoder.embed(p.ids, p.embeds) for i, p in enumerate(prompts) if p.kv is None and p.positions is None}
    states: dict[int, Tensor] = {}
    if plain:
        # Padding stands on the right, where causal attention never looks, so no mask is needed.
        with decoder.beside.reading([prompts[i] for i in plain], decoder.device):
            padded = decoder.hidden(torch.nn.utils.rnn.pad_sequence(list(plain.values()), batch_first=True))
        states = {i: row[: len(prompts[i])] for i, row in zip(plain, padded, strict=True)}
    return [states[i] if i in states else read(decoder, prompt) for i, prompt in enumerate(prompts)]


def read_behind(decoder: Decoder, prompts: Sequence[Prompt]) -> list[Tensor]:
    """As `read_all`, but a beginning that prompts share (`begins`) is read once for them all, and gradients pass too.

    Returns:
        [T', D] for each prompt: the states of what stands behind its beginning.
    """
    groups: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        twins = next((group for group in groups if _begin_alike(prompts[group[0]], prompt)), None)
        if twins is None:
            groups.append([index])
        else:
            twins.append(index)
    states: dict[int, Tensor] = {}
    for group in groups:
        states |= dict(zip(group, _behind(decoder, [prompts[index] for index in group]), strict=True))
    return [states[index] for index in range(len(prompts))]


def _behind(decoder: Decoder, prompts: Sequence[Prompt]) -> list[Tensor]:
    """The states behind a beginning that all of the prompts have."""
    first, shared = prompts[0], begins(prompts[0])
    if not shared or (first.ids[shared:] == MEMORY).any():
        return [read(decoder, prompt)[-(len(prompt) - shared) :] for prompt in prompts]
    cache, reading = decoder.growing_cache(weighted(first)), Reading(decoder, first)
    while reading.done < shared:
        reading.read(cache)
    cache.batch_repeat_interleave(len(prompts))
    # Padding stands on the right, where causal attention never looks: it needs no mask, and any positions will do.
    rows = torch.nn.utils.rnn.pad_sequence([decoder.embed(prompt.ids[shared:]) for prompt in prompts], batch_first=True)
    own = [prompt.positions[shared:] for prompt in prompts if prompt.positions is not None]
    at = torch.nn.utils.rnn.pad_sequence(own, batch_first=True).to(rows.device) if own else None
    with decoder.beside.reading([first], decoder.device):
        states = decoder.hidden(rows, positions=at, cache=cache)
    return [row[: len(prompt) - shared] for row, prompt in zip(states, prompts, strict=True)]


def _begin_alike(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts have a beginning that is computed from the same numbers, and nothing but tokens behind it."""
    shared = begins(one)
    if (
        not shared
        or begins(other) != shared
        or one.reader != other.reader
        or not torch.equal(one.ids[:shared], other.ids[:shared])
    ):
        return False
    if (one.ids[shared:] == MEMORY).any() or (other.ids[shared:] == MEMORY).any():
        return False
    return all(same(mine, others) for mine, others in zip(_given(one, shared), _given(other, shared), strict=True))


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are equal, or both missing."""
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _given(prompt: Prompt, shared: int) -> list[Tensor | None]:
    """What a beginning is computed from beside its tokens."""
    kv, at = prompt.kv, prompt.positions
    keys = [None] * 3 if kv is None else [kv.keys, kv.values, kv.bias]
    return [prompt.embeds, prompt.states, *keys, None if at is None else at[:shared]]


def followed(prompt: Prompt, ids: Tensor) -> Prompt:
    """The prompt with [T] tokens behind it, at the positions that decoding would give them."""
    positions = prompt.positions
    if positions is not None:
        positions = torch.cat([positions, next_position(prompt) + torch.arange(len(ids), device=positions.device)])
    return replace(prompt, ids=torch.cat([prompt.ids, ids]), positions=positions)


def next_position(prompt: Prompt) -> int:
    """Where the first token behind a prompt stands for RoPE."""
    return len(prompt) if prompt.positions is None else int(prompt.positions[-1]) + 1


def weighted(prompt: Prompt) -> bool:
    """Whether keys of the prompt carry a bias."""
    return prompt.kv is not None and bool(prompt.kv.bias.any())


def given(prompt: Prompt) -> range:
    """Which positions the prompt's `kv` fills; an empty range where there is none."""
    holes = (prompt.ids == MEMORY).nonzero().flatten() if prompt.kv is not None and len(prompt.kv) else prompt.ids[:0]
    return range(int(holes[0]), int(holes[-1]) + 1) if len(holes) else range(0)


def begins(prompt: Prompt) -> int:
    """How many of the first positions may be kept for other questions: what they share, but the last one of all."""
    shared, between = min(prompt.shared, len(prompt) - 1), given(prompt)
    return between.start if shared in between else shared


class Reading:
    """What is left to read of a prompt, in pieces whose borders depend on the prompt alone.

    So the same prompt is computed by the same operations on the same shapes, whatever happens between its pieces.

    Args:
        decoder: who reads.
        prompt: what is read.
        most: positions of the longest piece; None does not cut.

    Raises:
        UnsupportedModel: as `read`.
    """

    def __init__(self, decoder: Decoder, prompt: Prompt, most: int | None = None) -> None:
        if weighted(prompt):
            require_weighted(decoder)
        self.decoder, self.prompt, self.given = decoder, prompt, given(prompt)
        borders = {0, begins(prompt), self.given.start, self.given.stop, len(prompt)}
        self.left: deque[range] = deque()
        for start, stop in pairwise(sorted(borders)):
            step = len(self.given) if start in self.given else most or stop - start
            self.left += [range(at, min(at + step, stop)) for at in range(start, stop, step)]
        self._embeds = decoder.embed(prompt.ids, prompt.embeds)

    @property
    def done(self) -> int:
        """How many positions of the prompt the cache holds."""
        return self.left[0].start if self.left else len(self.prompt)

    def skip(self, positions: int) -> None:
        """Leave out the first positions, which the cache holds already; a border of pieces."""
        while self.left and self.left[0].stop <= positions:
            self.left.popleft()
        assert self.done == positions, "what is skipped ends where a piece does"

    def read(self, cache: SlotCache | GrowingCache) -> Tensor | None:
        """Put the next piece into the cache; [T', D] its states, or None where keys and values were given."""
        piece, prompt, states = self.left[0], self.prompt, None
        if piece == self.given:
            assert prompt.kv is not None
            cache.insert(prompt.kv)
        else:
            own = slice(piece.start, piece.stop)
            at = None if prompt.positions is None else prompt.positions[own][None].to(self._embeds.device)
            with self.decoder.beside.reading([prompt], self.decoder.device):
                states = self.decoder.hidden(self._embeds[own][None], positions=at, cache=cache)[0]
        self.left.popleft()
        return states
