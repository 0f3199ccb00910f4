"""Cross-attention over the states of an encoder, in two ways that compute the same (CEPE, arXiv 2402.16617, section 3).

No position turns queries or keys, so what projects states to keys and values may as well be applied to the other side.
**Expanded**, keys and values of all states are computed, once for many queries. **Absorbed**, the projection of keys is
folded into the queries and that of values is applied behind the softmax, so that all layers read the same states and
nothing is computed of them: what decoding a token at a time wants. The authors expand in every layer for every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preread.methods.cepe.kernels import absorbed, expanded
from preread.nn.beside import Context

Way = Literal["auto", "expanded", "absorbed"]


@dataclass(frozen=True, slots=True)
class CrossShape:
    """Sizes of one module.

    Args:
        width: D, of the decoder.
        heads: H.
        kv_heads: K, which divides H.
        head_width: E.
        states: S, width of the encoder's states.
        eps: of the norm.
    """

    width: int
    heads: int
    kv_heads: int
    head_width: int
    states: int
    eps: float

    def break_even(self, count: int) -> float:
        """Queries up to which the absorbed way takes fewer multiplications, over `count` states.

        Expanded: N 2SKE for keys and values, T 2NHE to attend. Absorbed: T 2HES for the projections, T 2NHS to attend.
        """
        each = self.heads * (self.states * (count + self.head_width) - count * self.head_width)
        return count * self.states * self.kv_heads * self.head_width / max(each, 1)


class CrossAttention(nn.Module):
    """One layer's: a norm of its own, q, k, v and o without bias, float32, used in the dtype of its input.

    Args:
        shape: its sizes.
        gated: whether what each head has seen is multiplied by a number of its own, from zero on (Flamingo, arXiv
            2204.14198, has one for a layer, within a tanh).
    """

    def __init__(self, shape: CrossShape, gated: bool = False) -> None:
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.norm = nn.Parameter(torch.ones(shape.width))
        self.q = nn.Parameter(torch.empty(queries, shape.width))
        self.k = nn.Parameter(torch.empty(keys, shape.states))
        self.v = nn.Parameter(torch.empty(keys, shape.states))
        self.o = nn.Parameter(torch.zeros(shape.width, queries))
        self.gate = nn.Parameter(torch.zeros(shape.heads)) if gated else None
        for matrix in (self.q, self.k, self.v):
            nn.init.normal_(matrix, std=shape.width**-0.5)

    def forward(self, x: Tensor, context: Context, way: Way = "auto") -> Tensor:
        """What is added to the decoder's stream.

        Args:
            x: [B, T, D] behind self-attention.
            context: what is attended to; a row without any valid state is given zeros.
            way: `auto` takes the one with fewer multiplications.

        Returns:
            [B, T, D].
        """
        rows, length, _ = x.shape
        count = context.states.shape[1]
        if count == 0:
            return torch.zeros_like(x)
        if len(context.states) == 1 < rows:  # all rows ask the same states: to them they are positions of one
            return self.forward(x.reshape(1, -1, x.shape[-1]), context, way).view_as(x)
        states = context.states.to(x.dtype)
        query, key, value = self._queries(x), self.k.to(x.dtype), self.v.to(x.dtype)
        if way == "auto":
            way = "absorbed" if length <= self.shape.break_even(count) else "expanded"
        attend = absorbed if way == "absorbed" else expanded
        mask = context.valid
        # A row that may see nothing would divide by zero: it sees all, and what it saw is dropped.
        seeing = None if mask is None else mask.any(dim=1)
        shown = None if mask is None or seeing is None else (mask | ~seeing[:, None])[:, None, None]
        attended = attend(query, states, key, value, shown)
        if self.gate is not None:
            attended = attended * self.gate.to(x.dtype)[:, None, None]
        out = F.linear(attended.transpose(1, 2).flatten(2), self.o.to(x.dtype))
        return out if seeing is None else out * seeing[:, None, None]

    def weights(self, x: Tensor, states: Tensor, at_once: int) -> Iterator[Tensor]:
        """How much each head of each position attends to each state.

        Args:
            x: [T, D] behind self-attention.
            states: [N, S], one at least; their keys are made once.
            at_once: positions whose weights are held at the same time.

        Yields:
            [H, T_i, N] float32 for so many positions after the other; a position's are 1 together.
        """
        keys = F.linear(states.to(x.dtype), self.k.to(x.dtype)).view(len(states), self.shape.kv_heads, -1)
        for some in torch.split(x, at_once):
            query = self._queries(some[None])[0].reshape(self.shape.kv_heads, -1, len(some), self.shape.head_width)
            scores: Tensor = torch.einsum("kgte,nke->kgtn", query, keys).float() * self.shape.head_width**-0.5
            yield scores.softmax(-1).flatten(0, 1)

    def _queries(self, x: Tensor) -> Tensor:
        """[B, H, T, E] of [B, T, D]."""
        normed = F.rms_norm(x, (self.shape.width,), self.norm.to(x.dtype), self.shape.eps)
        return F.linear(normed, self.q.to(x.dtype)).view(*x.shape[:2], self.shape.heads, -1).transpose(1, 2)
