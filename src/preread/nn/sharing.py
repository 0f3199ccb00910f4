"""Rows that several processes hold together: each has a part of the tokens, and, while it attends, a part of the heads.

As DeepSpeed-Ulysses (arXiv 2309.14509): everything but attention works on one token at a time, so that a process needs
only its own; around attention tokens and heads are exchanged, all to all. Parts need not be of equal size, and heads
that share keys may be of several processes, each of which is sent them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Span = tuple[int, int]
"""First, and one behind the last."""
Attend = Callable[[Tensor, Tensor, Tensor, Span], Tensor]
"""[B, h, T, E] queries, [B, k, T, E] keys and values, which of all heads the h are -> [B, T, h, E]; h is a multiple of
k."""


def spans(count: int, parts: int) -> list[Span]:
    """Neighbouring parts of `count` things, of sizes that differ by one at most."""
    return list(pairwise(part * count // parts for part in range(parts + 1)))


@dataclass(frozen=True, slots=True)
class Sharing:
    """The processes that hold rows together, seen from one of them.

    Args:
        group: theirs.
    """

    group: dist.ProcessGroup

    @property
    def size(self) -> int:
        """P, processes."""
        return dist.get_world_size(self.group)

    def own(self, length: int) -> Span:
        """Which tokens of a row this process has."""
        return spans(length, self.size)[dist.get_rank(self.group)]

    def total(self, value: Tensor) -> Tensor:
        """The sum of all processes' values, which gradients do not pass."""
        value = value.detach().clone()
        dist.all_reduce(value, group=self.group)
        return value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, length: int, attend: Attend) -> Tensor:
        """Attention over whole rows.

        Args:
            query: [B, H, T / P, E] of this process's tokens, turned by their positions in the row.
            key: [B, K, T / P, E].
            value: [B, K, T / P, E].
            length: T.
            attend: of some heads over all tokens.

        Returns:
            [B, T / P, H, E].
        """
        rank, each = dist.get_rank(self.group), query.shape[1] // key.shape[1]
        heads = spans(query.shape[1], self.size)
        shared = [(first // each, (last - 1) // each + 1) for first, last in heads]
        tokens = [last - first for first, last in spans(length, self.size)]
        whole = self._heads(query, heads, tokens)
        keys, values = self._heads(key, shared, tokens), self._heads(value, shared, tokens)
        first, last = heads[rank]
        if first % each or last % each:  # some of a group of heads only: each gets its keys
            of = torch.arange(first, last, device=key.device) // each - shared[rank][0]
            keys, values = keys[:, of], values[:, of]
        return self._tokens(attend(whole, keys, values, heads[rank]), heads, tokens)

    def _heads(self, x: Tensor, heads: Sequence[Span], tokens: Sequence[int]) -> Tensor:
        """[B, H, T / P, E] -> [B, h, T, E]: give each process its heads, and get one's own of all tokens."""
        first, last = heads[dist.get_rank(self.group)]
        sent = [x[:, begin:end] for begin, end in heads]
        got = [(x.shape[0], last - first, count, x.shape[3]) for count in tokens]
        return torch.cat(self._exchange(sent, got), dim=2)

    def _tokens(self, x: Tensor, heads: Sequence[Span], tokens: Sequence[int]) -> Tensor:
        """[B, T, h, E] -> [B, T / P, H, E]: give each process its tokens, and get one's own of all heads."""
        own = tokens[dist.get_rank(self.group)]
        got = [(x.shape[0], own, end - begin, x.shape[3]) for begin, end in heads]
        return torch.cat(self._exchange(torch.split(x, list(tokens), dim=1), got), dim=2)

    def _exchange(self, sent: Sequence[Tensor], got: Sequence[tuple[int, ...]]) -> list[Tensor]:
        sizes = [torch.Size(shape).numel() for shape in got]
        flat = torch.cat([x.reshape(-1) for x in sent])
        swapped = _Exchange.apply(flat, [x.numel() for x in sent], sizes, self.group)  # type: ignore[no-untyped-call]
        return [x.reshape(shape) for x, shape in zip(torch.split(swapped, sizes), got, strict=True)]


class _Exchange(torch.autograd.Function):
    """All to all; its gradients go back the way the numbers came."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, sent: list[int], got: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.got, ctx.group = sent, got, group
        out = flat.new_empty(sum(got))
        dist.all_to_all_single(out, flat.contiguous(), got, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        out = gradients[0].new_empty(sum(ctx.sent))
        dist.all_to_all_single(out, gradients[0].contiguous(), ctx.sent, ctx.got, group=ctx.group)
        return out, None, None, None
