"""Whether what comes later reaches what came before: states of earlier positions, bit for bit.

All tokens from one place on are replaced by others, and every earlier position must keep its last hidden state to the
bit, as must every other row of the batch; logits are a function of these states alone. So one comparison covers all
pairs of an earlier and a later position around that place, and both forwards have the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from preread.core.progress import progress
from preread.nn.hf import Decoder

Mode = Literal["eval", "train"]
Padding = Literal["none", "right", "left"]
DTYPES = (torch.bfloat16, torch.float32)
LONGEST_RAGGED = 16_384
"""Positions of a padded row: the attention of such rows has a mask that grows with their square."""
BITS = {2: torch.int16, 4: torch.int32}
"""Whole numbers as wide as a float of so many bytes."""


@dataclass(frozen=True, slots=True)
class Causality:
    """What was compared in one dtype, mode and batch.

    Args:
        dtype: of the weights.
        mode: of the model; attention may differ in training.
        rows: tokens of each row of the batch.
        padding: on which side of the shorter rows.
        compared: earlier positions that were compared, over all places.
        changed: those whose state was not the same to the bit.
        heard: rows whose state at the place itself changed, as it must; of `places`.
        places: rows times places where tokens were replaced.
    """

    dtype: str
    mode: Mode
    rows: tuple[int, ...]
    padding: Padding
    compared: int
    changed: int
    heard: int
    places: int

    @property
    def holds(self) -> bool:
        """Whether nothing changed before, and every change was one."""
        return self.changed == 0 and self.heard == self.places


def causality(decoder: Decoder, lengths: Sequence[int], places: int, seed: int = 0) -> list[Causality]:
    """Compare at several lengths, alone and in ragged batches, in evaluation and in training, in bfloat16 and float32.

    Weights that are quantised stay as they are. The model is left as it was.

    Args:
        decoder: with whatever attention it has.
        lengths: of single rows; a ragged batch has rows of the longest, two thirds and one third of it.
        places: how many are drawn in each batch.
        seed: of tokens and places.
    """
    longest = min(max(lengths), LONGEST_RAGGED)
    ragged = (longest, longest * 2 // 3, longest // 3)
    batches: list[tuple[tuple[int, ...], Padding]] = [((length,), "none") for length in lengths]
    batches += [(ragged, "right"), (ragged, "left")]
    modes: tuple[Mode, ...] = ("eval", "train")
    with progress("checking causality", len(_dtypes(decoder)) * len(modes) * len(batches) * (1 + places)) as advance:
        found = []
        for dtype, mode, (rows, padding) in product(_dtypes(decoder), modes, batches):
            with _weights_in(decoder, dtype), _in_mode(decoder, mode):
                name = str(dtype).removeprefix("torch.")
                found.append(_compared(decoder, name, mode, rows, padding, places, seed))
            advance(1 + places)
    return found


def _compared(
    decoder: Decoder, dtype: str, mode: Mode, rows: tuple[int, ...], padding: Padding, places: int, seed: int
) -> Causality:
    draw = torch.Generator().manual_seed(seed)
    width, vocabulary = max(rows), decoder.model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (len(rows), width), generator=draw)
    starts = [width - length if padding == "left" else 0 for length in rows]
    real = torch.stack([_between(start, start + length, width) for start, length in zip(starts, rows, strict=True)])
    mask = None if padding == "none" else real.long().to(decoder.device)
    before = _states(decoder, ids, mask)
    compared = changed = heard = 0
    for _ in range(places):
        cuts = [start + int(torch.randint(1, n, (), generator=draw)) for start, n in zip(starts, rows, strict=True)]
        later = torch.stack([_between(cut, width, width) for cut in cuts])
        others = (ids + torch.randint(1, vocabulary, ids.shape, generator=draw)) % vocabulary
        differs = _differs(before, _states(decoder, torch.where(later, others, ids), mask))
        earlier = real & ~later
        compared += int(earlier.sum())
        changed += int((differs & earlier).sum())
        heard += sum(bool(differs[row, cut]) for row, cut in enumerate(cuts))
    return Causality(dtype, mode, rows, padding, compared, changed, heard, places * len(rows))


@torch.no_grad()
def _states(decoder: Decoder, ids: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, D] last hidden states; what a training mode draws, such as dropout, is drawn alike each time."""
    device = decoder.device
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(0)
        return decoder.hidden(decoder.embed(ids), mask)


def _differs(one: Tensor, other: Tensor) -> Tensor:
    """[B, T] bool on the CPU: where the states of two forwards have other bits."""
    whole = BITS[one.element_size()]
    found: Tensor = (one.contiguous().view(whole) != other.contiguous().view(whole)).any(-1).cpu()
    return found


def _between(start: int, end: int, width: int) -> Tensor:
    """[width] bool."""
    places = torch.arange(width)
    return (places >= start) & (places < end)


def _dtypes(decoder: Decoder) -> tuple[torch.dtype, ...]:
    """Those that the weights can be read in; quantised ones have their own alone."""
    quantised = any(hasattr(weight, "__tensor_flatten__") for weight in decoder.model.parameters())
    return (decoder.dtype,) if quantised else DTYPES


@contextmanager
def _weights_in(decoder: Decoder, dtype: torch.dtype) -> Iterator[None]:
    """Weights in a dtype; behind the block they are the tensors that they were. Buffers, such as angles, stay."""
    held = [(weight, weight.data) for weight in decoder.model.parameters() if weight.is_floating_point()]
    try:
        if decoder.dtype != dtype:
            for weight, own in held:
                weight.data = own.to(dtype)
        yield
    finally:
        for weight, own in held:
            weight.data = own


@contextmanager
def _in_mode(decoder: Decoder, mode: Mode) -> Iterator[None]:
    """The model in training or not; a decoder is never in training otherwise."""
    decoder.model.train(mode == "train")
    try:
        yield
    finally:
        decoder.model.eval()
