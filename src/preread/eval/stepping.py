"""Answerers that read by a rule of their own, token by token: measured as `measuring` does it for prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from preread.engines.stream import Characters
from preread.eval.case import Item, Likelihood, Response
from preread.eval.measuring import PIECE, judged_references
from preread.nn.hf import Decoder


class Stepping(ABC):
    """A prompt that was read, and what may follow."""

    @property
    @abstractmethod
    def scores(self) -> Tensor:
        """[V] log-probability of each next token."""

    @abstractmethod
    def take(self, token: int) -> None:
        """Go on: this is the next token."""

    @abstractmethod
    def nats(self, ids: Tensor) -> Tensor:
        """[T] negative log-likelihood of each token of a text that follows, float32 on the CPU; nothing is taken."""


def answered(decoder: Decoder, ahead: Stepping, item: Item, max_tokens: int, positions: int) -> Response:
    """Judge an item's references and choices, then answer it greedily.

    Args:
        decoder: whose tokenizer and end tokens are used.
        ahead: behind the item's prompt; used up.
        item: what is asked.
        max_tokens: most tokens of the answer; 0 writes none.
        positions: of the response.
    """

    def likelihoods(texts: Sequence[str]) -> tuple[Likelihood, ...]:
        each = [ahead.nats(decoder.tokens(text)) for text in texts]
        return tuple(Likelihood(float(nats.sum()), len(nats)) for nats in each)

    references, choices = likelihoods(judged_references(item)), likelihoods(item.choices)
    text, tokens = _written(decoder, ahead, max_tokens)
    return Response(text, references, choices, positions, tokens)


def _written(decoder: Decoder, ahead: Stepping, max_tokens: int) -> tuple[str, int]:
    """The greedy answer and how many tokens it has, the end token aside."""
    characters, text = Characters(decoder.tokenizer), ""
    for count in range(max_tokens):
        token = int(ahead.scores.argmax())
        if token in decoder.end_ids:
            return (text + characters.flush()).strip(), count
        text += characters.push(token)
        if count + 1 < max_tokens:
            ahead.take(token)
    return (text + characters.flush()).strip(), max_tokens


@torch.inference_mode()
def losses_of(decoder: Decoder, states: Tensor, ids: Tensor) -> Tensor:
    """[T] negative log-likelihood of each token by the [T, D] state before it, in nats, float32 on the CPU."""
    found = []
    for some, wanted in zip(torch.split(states, PIECE), torch.split(ids.to(states.device), PIECE), strict=True):
        found.append(torch.nn.functional.cross_entropy(decoder.logits(some).float(), wanted, reduction="none").cpu())
    return torch.cat(found)
