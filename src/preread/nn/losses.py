"""Cross-entropy and top-k distillation over a large vocabulary, a chunk of positions at a time.

Logits of all positions at once are the largest tensor of a training step (49,152 floats a position for SmolLM2), so
each chunk's are computed, used and dropped, and computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 512
"""Positions whose logits exist at the same time."""

Head = Callable[[Tensor], Tensor]
"""[T, D] hidden states -> [T, V] logits."""


@dataclass(frozen=True, slots=True)
class TopK:
    """The head of a teacher's next-token distribution.

    Args:
        ids: [T, k] int64 tokens, the likeliest first.
        probabilities: [T, k] float32; what they leave to 1 is the rest bucket.
    """

    ids: Tensor
    probabilities: Tensor


@torch.no_grad()
def teach(head: Head, states: Tensor, k: int) -> TopK:
    """The `k` likeliest next tokens and their probabilities at each position of [T, D] states."""
    ids, probabilities = [], []
    for chunk in torch.split(states, CHUNK):
        top = head(chunk).float().softmax(-1).topk(k)
        ids.append(top.indices)
        probabilities.append(top.values)
    return TopK(torch.cat(ids), torch.cat(probabilities))


def answer_losses(head: Head, states: Tensor, targets: Tensor, teacher: TopK | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the targets, and mean KL(teacher || student) over k tokens and the rest bucket.

    Args:
        head: the decoder's output head.
        states: [T, D], each the state that predicts the target at the same index.
        targets: [T] int64.
        teacher: the teacher's distribution at the same positions; without one the second loss is zero.

    Returns:
        Two scalars, in nats a token.
    """
    ce, kl = states.new_zeros((), dtype=torch.float32), states.new_zeros((), dtype=torch.float32)
    # One split, whose gradient is one concatenation: each slice's would be as large as all states.
    for number, piece in enumerate(torch.split(states, CHUNK)):
        these = slice(number * CHUNK, (number + 1) * CHUNK)
        taught = (teacher.ids[these], teacher.probabilities[these]) if teacher else None
        more = checkpoint(_chunk, head, piece, targets[these], taught, use_reentrant=False)
        assert more is not None
        ce, kl = ce + more[0], kl + more[1]
    return ce / len(targets), kl / len(targets)


def _chunk(head: Head, states: Tensor, targets: Tensor, taught: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    log_q = head(states).float().log_softmax(-1)
    ce = F.nll_loss(log_q, targets, reduction="sum")
    if taught is None:
        return ce, torch.zeros_like(ce)
    ids, p = taught
    log_q_top = log_q.gather(-1, ids)
    # The rest bucket is what the top k leave; the floor keeps log(0) away where they take everything.
    p_rest = (1 - p.sum(-1)).clamp_min(1e-6)
    q_rest = (1 - log_q_top.exp().sum(-1)).clamp_min(1e-6)
    kl = (p * (p.clamp_min(1e-12).log() - log_q_top)).sum() + (p_rest * (p_rest.log() - q_rest.log())).sum()
    return ce, kl
