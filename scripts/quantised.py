"""What a quantised base costs: bytes, likelihood of held-out text, and speed beside bfloat16 on this CPU.

python scripts/quantised.py text/books.valid.jsonl.xz text/science_plos.valid.jsonl.xz

The speeds are ratios of runs that take turns, so that other work on the machine slows all of them alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from preread.data.corpora import records
from preread.models.loading import load
from preread.nn.hf import Decoder

WINDOW, DOCUMENTS, TURNS = 2048, 5, 5


def size(tensors: list[Tensor]) -> int:
    """Bytes, each storage once."""
    plain = {}
    for tensor in tensors:
        parts = (
            [getattr(tensor, n) for n in tensor.__tensor_flatten__()[0]]
            if hasattr(tensor, "__tensor_flatten__")
            else [tensor]
        )
        plain |= {part.data_ptr(): part.numel() * part.element_size() for part in parts}
    return sum(plain.values())


@torch.inference_mode()
def nll(decoder: Decoder, windows: list[Tensor]) -> float:
    """Mean nats a token."""
    sums = [
        F.cross_entropy(decoder.logits(decoder.hidden(decoder.embed(ids[None])))[0, :-1].float(), ids[1:]).item()
        for ids in windows
    ]
    return statistics.mean(sums)


@torch.inference_mode()
def seconds(decoder: Decoder, ids: Tensor) -> float:
    """Of one pass."""
    start = time.perf_counter()
    decoder.hidden(decoder.embed(ids[None]))
    return time.perf_counter() - start


def main(files: list[Path]) -> None:
    """Print a Markdown table."""
    decoders = {dtype: load("default", device="cpu", dtype=dtype) for dtype in ("bfloat16", "int8", "int4")}
    base = decoders["bfloat16"]
    texts = [record["text"][20000:40000] for file in files for record in islice(records(file), DOCUMENTS)]
    windows = [ids[:WINDOW] for text in texts if len(ids := base.tokens(text)) >= WINDOW]
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(TURNS):
        for length in (1, 512):
            for dtype, decoder in decoders.items():
                times.setdefault((dtype, length), []).append(seconds(decoder, windows[0][:length]))
    pace = {key: statistics.median(taken[1:]) for key, taken in times.items()}
    head = "| dtype | MB | nats a token | speed, 512 tokens | speed, 1 token |"
    sys.stdout.write(f"{sum(map(len, windows)):,} tokens\n\n{head}\n|---|---|---|---|---|\n")
    for dtype, decoder in decoders.items():
        ratios = [f"{pace['bfloat16', length] / pace[dtype, length]:.2f}x" for length in (512, 1)]
        megabytes = size(list(decoder.model.parameters())) / 1e6
        sys.stdout.write(f"| {dtype} | {megabytes:.0f} | {nll(decoder, windows):.3f} | {' | '.join(ratios)} |\n")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
