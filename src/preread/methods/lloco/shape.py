"""The shape of a compressor, and what one was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preread.core.errors import UsageError
from preread.nn.lora import LoraConfig

LATER = {"start": True, "fixed": False, "summary": "tokens", "attention": "causal"}
"""Settings that a compressor of before they were did not have: so it was made, and so it keeps its hash."""


@dataclass(frozen=True, slots=True)
class CompressorConfig:
    """Shape of a compressor.

    Args:
        max_summary: most summary embeddings that one segment can have.
        lora: the adapter that the decoder wears while it compresses.
        norm: whether the output norm and scale are there (AutoCompressor's published checkpoints have none).
        start: whether every segment begins with the decoder's start token (theirs do not).
        fixed: whether every segment has all summary tokens, however long it is (theirs do); the ratio then decides
            nothing.
        summary: where they come from. `tokens`: the states at summary tokens behind the segment (AutoCompressor);
            `pooled`: the means of even spans of the segment's own states; `anchored`: its most surprising clauses,
            token by token, each plus the mean of the states that it stands for, through a projection that starts at
            zero, so that an untrained compressor keeps a selection of the text.
        attention: whether a segment's tokens see those behind them while they are compressed.
        projection: rank of what is added to pooled states, or to anchors.
    """

    max_summary: int = 384
    lora: LoraConfig = LoraConfig(rank=16, alpha=32.0, dropout=0.0)
    norm: bool = True
    start: bool = True
    fixed: bool = False
    summary: Literal["tokens", "pooled", "anchored"] = "tokens"
    attention: Literal["causal", "bidirectional"] = "causal"
    projection: int = 128

    def __post_init__(self) -> None:
        if self.fixed and self.summary != "tokens":
            raise UsageError(
                expected="summary tokens where their number is fixed",
                got=f"summary: {self.summary} and fixed: true",
                consequence="No compressor was made.",
                remedy="Leave one of the two out.",
            )


@dataclass(frozen=True, slots=True)
class Trained:
    """What a compressor was trained for; zeros for one that was not trained.

    Args:
        segments: most segments read in a row.
        segment_tokens: longest segment.
        positions: most summary embeddings that the decoder read at once.
        ratios: smallest and largest ratio.
        tokens: training tokens seen, epochs included.
        note: what a reader of its results must know.
    """

    segments: int = 0
    segment_tokens: int = 0
    positions: int = 0
    ratios: tuple[float, float] = (0.0, 0.0)
    tokens: int = 0
    note: str = "not trained"


def summary_length(tokens: int, ratio: float) -> int:
    """Summary tokens of a segment: its tokens over the ratio, rounded, and at least one."""
    return max(1, round(tokens / ratio))
