"""The absorbed way as one kernel, for CUDA: a tile of states is read once, and is both keys and values.

Two products read every state twice, and write and read scores between them; where one token is written behind a hundred
thousand states, reading is all there is to do. Programs share the states out among them, each with the running maximum
and sum of a softmax over its own (Flash-Decoding; FlashAttention-2, arXiv 2307.08691, section 2.3), and a second kernel
puts their parts together.

Imports Triton, which comes with PyTorch's builds for CUDA alone: `kernels` imports this module where there is one.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from preread.nn.cpu import two_products

WIDEST = 2048
"""Bytes of a state: a tile of them, and the rows that ask, are held on a processor of the device together."""
MOST_ROWS = 64
"""Beyond, a program for each 32 rows would read all states again, and two products are the better way."""
TILE = 32
"""States that a program reads at once."""
ALLOWED = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 1e-4}
"""How far a trial may be off, of numbers about 1."""
_LOWEST, _LOG2E = tl.constexpr(-1.0e30), tl.constexpr(1.4426950408889634)
"""Scores are counted in powers of two, which a device computes at once."""


@triton.jit
def _attend(
    rows, states, counts, means, highest, sums,  # tensors: what asks, what is asked, which count, and the parts
    row_count, state_count, each, parts,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Part `program_id(2)` of the attention of some rows: an unnormalised mean, its highest score and its sum."""
    batch, block, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row, column = block * ROWS + tl.arange(0, ROWS), tl.arange(0, PADDED)
    held, wide = row < row_count, column < WIDTH
    asked = tl.load(
        rows + (batch * row_count + row[:, None]) * WIDTH + column[None, :],
        mask=held[:, None] & wide[None, :],
        other=0.0,
    )
    top = tl.full([ROWS], _LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, PADDED], tl.float32)
    end = tl.minimum((part + 1) * each, state_count)
    for first in range(part * each, end, TILE):
        number = first + tl.arange(0, TILE)
        shown = number < end
        tile = tl.load(
            states + (batch * state_count + number[:, None]) * WIDTH + column[None, :],
            mask=shown[:, None] & wide[None, :],
            other=0.0,
        )
        if MASKED:
            shown = shown & (tl.load(counts + batch * state_count + number, mask=shown, other=0) != 0)
        scores = tl.dot(asked, tl.trans(tile), input_precision="ieee") * _LOG2E
        scores = tl.where(shown[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))  # never below the lowest, so that nothing is infinity less itself
        kept, weights = tl.exp2(top - higher), tl.exp2(scores - higher[:, None])
        total = total * kept + tl.sum(weights, 1)
        mean = mean * kept[:, None] + tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
        top = higher
    place = (batch * parts + part) * row_count + row
    tl.store(means + place[:, None] * WIDTH + column[None, :], mean, mask=held[:, None] & wide[None, :])
    tl.store(highest + place, top, mask=held)
    tl.store(sums + place, total, mask=held)


@triton.jit
def _join(
    means, highest, sums, out, row_count, parts,
    WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """One row: its parts by their sums, all counted from the highest score there is."""
    batch, row, column = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, PADDED)
    top = tl.load(highest + batch * parts * row_count + row)
    for part in range(1, parts):
        top = tl.maximum(top, tl.load(highest + (batch * parts + part) * row_count + row))
    total = top * 0.0
    mean = tl.zeros([PADDED], tl.float32)
    for part in range(parts):
        place = (batch * parts + part) * row_count + row
        weight = tl.exp2(tl.load(highest + place) - top)
        total += weight * tl.load(sums + place)
        mean += weight * tl.load(means + place * WIDTH + column, mask=column < WIDTH, other=0.0)
    tl.store(out + (batch * row_count + row) * WIDTH + column, mean / total, mask=column < WIDTH)


def fused(rows: Tensor, states: Tensor, mask: Tensor | None, parts: int | None = None) -> Tensor:
    """The means of the states, weighted by the softmax of how well they fit each row.

    Args:
        rows: [B, R, S] scaled queries.
        states: [B, N, S] of the same dtype, one at least.
        mask: [B, 1, 1, N], True for the states that count, one at least of each row of the batch; None where all do.
        parts: how many programs share the states of some rows; None takes two for each processor of the device.

    Returns:
        [B, R, S]; sums are float32, weights are rounded to the states' dtype.
    """
    (batch, count, width), most = rows.shape, states.shape[1]
    block = 16 if count <= 16 else 32  # a product of tiles takes 16 rows or more
    blocks = triton.cdiv(count, block)
    parts = parts or max(1, 2 * _processors(states.device) // (batch * blocks))
    each = TILE * triton.cdiv(triton.cdiv(most, parts), TILE)
    parts = triton.cdiv(most, each)
    rows, states = rows.contiguous(), states.contiguous()
    means = rows.new_empty((batch, parts, count, width), dtype=torch.float32)
    highest, sums = (rows.new_empty((batch, parts, count), dtype=torch.float32) for _ in range(2))
    counts = states if mask is None else mask.reshape(batch, most).contiguous().view(torch.uint8)
    padded = triton.next_power_of_2(width)
    out = torch.empty_like(rows)
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]  # where Triton starts its programs
        _attend[batch, blocks, parts](
            rows, states, counts, means, highest, sums, count, most, each, parts,
            WIDTH=width, PADDED=padded, ROWS=block, TILE=TILE, MASKED=mask is not None, num_warps=8, num_stages=1,
        )  # fmt: skip
        _join[batch, count](means, highest, sums, out, count, parts, WIDTH=width, PADDED=padded)
    return out


def serves(rows: Tensor, states: Tensor) -> bool:
    """Whether the kernel is for these: no gradient, not too wide, few rows, and right on this device."""
    if torch.is_grad_enabled() and (rows.requires_grad or states.requires_grad):
        return False
    if rows.dtype != states.dtype or rows.shape[1] > MOST_ROWS or states.shape[-1] * states.element_size() > WIDEST:
        return False
    return agrees(states.dtype, states.shape[-1], 16 if rows.shape[1] <= 16 else 32, states.device)


@lru_cache
def agrees(dtype: torch.dtype, width: int, count: int, device: torch.device) -> bool:
    """Whether it says the same as two products on a device: tried once, since no other has run what this one runs."""
    if dtype not in ALLOWED:
        return False
    draw = torch.Generator().manual_seed(0)
    rows, states = (torch.randn(1, n, width, generator=draw).to(device, dtype) for n in (count, 5 * TILE + 3))
    mask = (torch.rand(1, 1, 1, states.shape[1], generator=draw) < 0.7).to(device)
    rows = rows * width**-0.5
    expected = two_products(rows[:, None], states[:, None], states[:, None], mask)[:, 0]
    try:
        off = float((fused(rows, states, mask, parts=3) - expected).abs().max())
    except Exception as error:  # a compiler's may be any, and there is another way
        logging.getLogger(__name__).warning("no fused kernel on %s, two products instead: %s", device, error)
        return False
    if not off <= ALLOWED[dtype]:
        logging.getLogger(__name__).warning("a fused kernel that is off by %g on %s: two products instead", off, device)
        return False
    return True


@lru_cache
def _processors(device: torch.device) -> int:
    """How many a device has that run at the same time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
