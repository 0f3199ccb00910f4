"""Text without end in a cache that does not grow: attention sinks and a window of recent positions.

StreamingLLM (Xiao et al., arXiv 2309.17453, section 3.2): a token attends to the first few positions of all, the sinks,
and to the last ones before it; keys are kept as they were before RoPE and turned to where they stand in the cache, so
that no distance ever exceeds the cache.

The paper evicts after every token. Here many tokens are read at once, and exactly so: RoPE sees distances alone, so
among recent positions the distance is the true one whatever was evicted between them and the sinks, and a sink is met
by the query turned to the end of the cache. A band of the mask keeps from each token what would be gone by then.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preread.core.errors import UnsupportedModel, UsageError
from preread.nn.attending import attend, attending, scale_of
from preread.nn.hf import Decoder

STREAMING = "streaming"
BLOCK = 512
"""Positions read at once."""
EIGHT = 8
"""Widths of heads are multiples of it, which keeps the quick kernels of GPUs available."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A rotation of each position by RoPE.

    Args:
        cos: [T, E / 2].
        sin: [T, E / 2].
    """

    cos: Tensor
    sin: Tensor

    @staticmethod
    def to(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Turn:
        """Of what is not turned yet to [T] positions."""
        angles = positions.to(frequencies)[:, None] * frequencies
        return Turn(angles.cos().to(dtype), angles.sin().to(dtype))

    def __call__(self, states: Tensor) -> Tensor:
        """[..., T, E] queries or keys, turned."""
        first, second = states.chunk(2, -1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], -1)


class Stream:
    """A decoder that reads on and on; what it holds of the past is bounded.

    Args:
        decoder: who reads, without adapters.
        sinks: first positions of all that stay.
        recent: positions before a token that it still attends to.

    Raises:
        UsageError: no recent positions, or more than the decoder was trained for.
        UnsupportedModel: the decoder's own sliding window is smaller, or its keys cannot be turned.
    """

    def __init__(self, decoder: Decoder, sinks: int = 4, recent: int = 2044) -> None:
        if sinks < 0 or recent < 1 or sinks + recent >= decoder.window:
            raise UsageError(
                expected=f"no or some sinks and some recent positions, fewer than {decoder.window} together",
                got=f"{sinks} and {recent}",
                consequence="Nothing was read.",
                remedy="Correct `sinks` and `recent`.",
            )
        own = getattr(decoder.model.config.get_text_config(), "sliding_window", None)
        if own is not None and own <= sinks + recent:
            raise UnsupportedModel(
                expected=f"a decoder that attends to {sinks + recent} positions in every layer",
                got=f"{decoder.name}, with a sliding window of {own}",
                consequence="Nothing was read.",
                remedy="Choose fewer sinks and recent positions, or another decoder.",
            )
        self.decoder, self.sinks, self.recent = decoder, sinks, recent
        self.seen, self._kept = 0, list[tuple[Tensor, Tensor]]()
        self._frequencies = decoder.frequencies

    @property
    def held(self) -> int:
        """Positions in the cache."""
        return min(self.seen, self.sinks + self.recent)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values in the cache."""
        return sum(states.nbytes for layer in self._kept for states in layer)

    def fork(self) -> Stream:
        """Another that has read the same, and goes on by itself; nothing is copied."""
        other = Stream(self.decoder, self.sinks, self.recent)
        other.seen, other._kept = self.seen, self._kept
        return other

    @torch.inference_mode()
    def read(self, ids: Tensor, block: int = BLOCK) -> Tensor:
        """Go on with a text.

        Args:
            ids: [T] int64, at least one.
            block: positions read at once, which changes time and memory and nothing else.

        Returns:
            [T, D] last hidden states.
        """
        return torch.cat([self._read(piece) for piece in torch.split(ids, block)])

    def _read(self, ids: Tensor) -> Tensor:
        block = _Block(self, len(ids))
        with attending(self.decoder, STREAMING, _attend, _no_mask):
            _now.block = block
            try:
                # At position 0 nothing is turned: keys come as they are kept.
                nowhere = torch.zeros((1, len(ids)), dtype=torch.int64, device=self.decoder.device)
                states = self.decoder.hidden(self.decoder.embed(ids)[None], positions=nowhere)[0]
            finally:
                _now.block = None
        self._kept, self.seen = block.kept, self.seen + len(ids)
        return states


class _Block:
    """The next positions of a stream, on their way through the layers.

    Args:
        stream: which has read what is before them.
        length: T.
    """

    def __init__(self, stream: Stream, length: int) -> None:
        sinks, recent, seen = stream.sinks, stream.recent, stream.seen
        device, dtype = stream.decoder.device, stream.decoder.dtype
        self.past, self.kept = stream._kept, list[tuple[Tensor, Tensor]]()
        everything = torch.arange(seen + length, device=device)
        first = max(sinks, seen - recent)  # the oldest of the recent ones that is still held
        places = torch.cat([everything[:sinks], everything[first:]])  # [N] of all keys
        own = everything[seen:, None]
        self.mask = ((places <= own) & ((places < sinks) | (places >= own - recent)))[None, None]
        self.sinks = min(sinks, len(places))
        last = len(places) - min(recent, len(places) - self.sinks)
        self.stay = torch.cat([torch.arange(self.sinks, device=device), torch.arange(last, len(places), device=device)])

        def turn(positions: Tensor) -> Turn:
            return Turn.to(positions, stream._frequencies, dtype)

        back = first - sinks  # what was evicted moves the recent ones up
        self.sink, self.near = turn(places[: self.sinks]), turn(places[self.sinks :] - back)
        self.to_sink, self.to_near = turn(own[:, 0].clamp_max(sinks + recent)), turn(own[:, 0] - back)

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **rest: Any) -> Tensor:
        """Attention of the next layer.

        A sink is met by another query than the rest. So its score is computed apart, and stands in a component of its
        own behind the query's E, which that sink's key picks out: one attention serves all keys.

        Args:
            module: the layer.
            query: [1, H, T, E], not turned.
            key: [1, K, T, E], not turned.
            value: [1, K, T, E].
            rest: what else transformers hands over.

        Returns:
            [1, T, H, E].
        """
        if self.past:
            before = self.past[len(self.kept)]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        self.kept.append((key[:, :, self.stay], value[:, :, self.stay]))
        width, extra = query.shape[-1], -self.sinks % EIGHT + self.sinks
        sinks = self.sink(key[:, :, : self.sinks]).repeat_interleave(query.shape[1] // key.shape[1], 1)
        far = self.to_sink(query) @ sinks.transpose(-1, -2)
        query = torch.cat([self.to_near(query), F.pad(far, (0, extra - self.sinks))], -1)
        picks = torch.eye(self.sinks, extra, dtype=key.dtype, device=key.device)
        picks = F.pad(picks, (width, 0)).expand(1, key.shape[1], -1, -1)
        near = F.pad(self.near(key[:, :, self.sinks :]), (0, extra))
        # The quick kernels want values as wide as keys.
        key, value = torch.cat([picks, near], 2), F.pad(value, (0, extra))
        return attend(module, query, key, value, self.mask, **rest)[..., :width]


class _Now(threading.local):
    """The block that this thread is reading."""

    block: _Block | None = None


_now = _Now()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,  # noqa: ARG001 a block has its own
    **rest: Any,
) -> tuple[Tensor, None]:
    assert _now.block is not None, "holding `adapters.use` keeps other readers away"
    rest["scaling"] = scale_of(query, rest)
    return _now.block.attend(module, query, key, value, **rest), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """None are made: a block has its own."""
