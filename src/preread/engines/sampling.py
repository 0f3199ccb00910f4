"""The next token of one row, by transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from preread.core.errors import UsageError
from preread.core.types import Sampling


class Sampler:
    """Chooses tokens for one row, with a random generator of its own.

    Raises:
        UsageError: a value outside its range.
    """

    def __init__(self, sampling: Sampling) -> None:
        _refuse_senseless(sampling)
        self._greedy = sampling.temperature == 0
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._process = LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            self._process.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if not self._greedy:
            self._process.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                self._process.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._process.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: Tensor, written: Sequence[int]) -> int:
        """The next token id.

        Args:
            logits: [V] of the last position.
            written: token ids of the answer so far.
        """
        if self._greedy and not self._process:
            return int(logits.argmax())
        so_far = torch.tensor([written], dtype=torch.int64).reshape(1, -1)
        scores: Tensor = self._process(so_far, logits.float().cpu().unsqueeze(0))
        if self._greedy:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))


def _refuse_senseless(sampling: Sampling) -> None:
    ranges = {
        "max_tokens": (sampling.max_tokens >= 1, "at least 1"),
        "temperature": (0 <= sampling.temperature < float("inf"), "0 or above"),
        "top_p": (0 < sampling.top_p <= 1, "above 0 and at most 1"),
        "top_k": (sampling.top_k >= 0, "0 or above"),
        "repetition_penalty": (0 < sampling.repetition_penalty < float("inf"), "above 0"),
        "stop": (all(sampling.stop), "strings that are not empty"),
    }
    for name, (holds, wanted) in ranges.items():
        if not holds:
            raise UsageError(
                expected=f"{name}: {wanted}",
                got=repr(getattr(sampling, name)),
                consequence="Nothing was computed.",
                remedy=f"Correct {name}.",
            )
