"""Figures of cross-attention's numbers: how far its two ways are apart, and what the table of its speed says."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from statistics import median

import torch

from preread.bench.cepe import Taken
from preread.bench.figures import Figure
from preread.bench.s2_step import SHAPES, random_decoder
from preread.core.errors import UsageError
from preread.methods.cepe.crossing import CrossAttention, CrossShape
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.own import OwnEncoderConfig
from preread.methods.cepe.reader import ReaderConfig
from preread.models.loading import load
from preread.nn.beside import Context
from preread.nn.hf import Decoder

RATIOS = {
    ("llama-2-7b", "128k, forward"): "cepe.throughput_128k_7b",
    ("llama-2-7b", "128k, stored"): "cepe.throughput_stored_128k_7b",
    ("llama-2-7b", "128k, question"): "cepe.question_stored_128k_7b",
    ("llama-2-7b", "128k, decode"): "cepe.decode_128k_7b",
    ("default", "8k stored, decode"): "cepe.cpu_decode_8k",
}
PEAKS = {
    ("llama-2-7b", "128k, forward"): "cepe.peak_gb_128k_7b",
    ("llama-2-7b", "training, train"): "cepe.train_step_7b_gb",
}
HEADS, COUNTS, LENGTHS = ((8, 8), (9, 3), (8, 2), (4, 1)), (1, 7, 300, 8192), (1, 5, 64)
"""Query and key-value heads, states and queries that the two ways are compared over."""


def subject(shape: str, method: Cepe, seed: int) -> tuple[Decoder, Cepe]:
    """What is measured: the default decoder on this CPU with a method as told, or a shape with random weights.

    Raises:
        UsageError: an unknown shape, or a method for one whose weights are random.
    """
    if shape == "default":
        return load("default", device="cpu"), method
    if shape not in SHAPES:
        raise UsageError(
            f"default, or a shape out of {', '.join(SHAPES)}", shape, "Nothing was measured.", "Correct --shape."
        )
    if method != Cepe():
        raise UsageError(
            "--recipe with --shape default alone", shape, "Nothing was measured.", "Leave one of the two out."
        )
    own = OwnEncoderConfig() if shape == "llama-2-7b" else OwnEncoderConfig(300, 32, 2, 2, 2, 64, chunk=16)
    return random_decoder(shape, seed), Cepe(fresh=True, shape=ReaderConfig(own=own, begin="copied"))


def error_figure(seed: int, command: str) -> Figure:
    """The largest difference of the two ways in float32 over all cases, and beside it in bfloat16."""
    draw = torch.Generator().manual_seed(seed)
    errors: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for (heads, kv_heads), count, length in product(HEADS, COUNTS, LENGTHS):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            module = CrossAttention(CrossShape(64, heads, kv_heads, 16, 48, 1e-6))
            module.o.normal_(std=(heads * 16) ** -0.5)
        x, states = (torch.randn(shape, generator=draw) for shape in ((2, length, 64), (2, count, 48)))
        valid = torch.rand(2, count, generator=draw) > 0.3
        for dtype, found in errors.items():
            context = Context(states.to(dtype), valid)
            with torch.inference_mode():
                one, other = (module(x.to(dtype), context, way).float() for way in ("expanded", "absorbed"))
            share = 1.0 if dtype == torch.float32 else max(float(one.norm()), 1e-9)
            far = (one - other).abs().max() if dtype == torch.float32 else (one - other).norm()
            found.append(float(far) / share)
    whole, half = errors.values()
    return Figure(
        id="cepe.absorbed_error",
        value=max(whole),
        low=min(whole),
        high=max(whole),
        unit="abs",
        n=len(whole),
        recipe=f"heads/kv heads {', '.join(f'{h}/{k}' for h, k in HEADS)}; {', '.join(map(str, COUNTS))} states, three "
        f"tenths masked; {', '.join(map(str, LENGTHS))} queries; two rows; seed {seed}",
        command=command,
        note=f"largest absolute difference of outputs of unit size, float32; in bfloat16 the differences are at most "
        f"{max(half):.1e} of the output's norm",
    )


def speed_figures(shape: str, decoder: Decoder, method: Cepe, taken: Mapping[str, Taken], command: str) -> list[Figure]:
    """Those of the scoreboard that the table holds; a ratio only where full attention fitted too."""
    figures = []
    with method.attach(decoder) as handle:
        layers = handle.reader.crossings.modules_by_layer
    about = f"{shape}, {str(decoder.dtype).removeprefix('torch.')}, cross-attention in layers "
    about += ", ".join(layers)
    for key, row in taken.items():
        told = f"{about}; {key}"
        if (name := RATIOS.get((shape, key))) and row.full:
            pace = f"{median(row.ours):.4g} s against {median(row.full):.4g} s with full attention, by turns"
            note = f"{pace}; limit {row.limit:.2f}x; load average {row.load:.1f}; torch {torch.__version__}"
            figures.append(Figure.of(name, row.ratios, "x", told, command, note))
        if name := PEAKS.get((shape, key)):
            note = "weights included" + (f"; full attention {row.peak_full / 1e9:.1f} GB" if row.peak_full else "")
            figures.append(Figure.of(name, [row.peak / 1e9], "GB", told, command, note))
    return figures
