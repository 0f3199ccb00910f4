"""How likely a decoder finds given answers: what tells readings apart where its own words do not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from preread.core.types import Prompt
from preread.nn.hf import Decoder
from preread.nn.reading import followed, read_behind


@torch.inference_mode()
def answer_nats(decoder: Decoder, prompts: Sequence[Prompt], answers: Sequence[Tensor]) -> list[float]:
    """Negative log-likelihood of each answer behind its prompt in nats, summed over its tokens; no end token is judged.

    Args:
        decoder: who reads; what several prompts begin with is read once.
        prompts: of one adapter, or all of none.
        answers: [T] int64 each, at least one token.
    """
    [adapter] = {prompt.adapter for prompt in prompts}
    whole = [followed(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    with decoder.adapters.use(adapter):
        states = read_behind(decoder, whole)
    found = []
    for row, answer in zip(states, answers, strict=True):
        logits = decoder.logits(row[-len(answer) - 1 : -1]).float()
        found.append(float(F.cross_entropy(logits, answer.to(logits.device), reduction="sum")))
    return found
