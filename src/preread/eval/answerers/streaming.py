"""StreamingLLM (arXiv 2309.17453): the whole text is read, and the sinks and recent positions alone are kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from preread.eval.answerer import Answerer
from preread.eval.answerers.plain import text_lead, text_prompts
from preread.eval.case import Answers, Case, Losses, Stretch
from preread.eval.kit import Kit
from preread.eval.stepping import Stepping, answered, losses_of
from preread.nn.hf import Decoder
from preread.nn.streaming import Stream


@dataclass(frozen=True)
class Streaming(Answerer):
    """The full text, however long, through a cache that does not grow.

    Args:
        sinks: first positions that stay (paper: 4).
        recent: last positions that stay (paper: 2,044 where the window is 4,096).
    """

    sinks: int = 4
    recent: int = 2044
    kind: ClassVar[str] = "streaming"

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"StreamingLLM {self.sinks}+{self.recent}"

    def respond(self, kit: Kit, case: Case, max_tokens: int) -> Answers:
        """As `Answerer.respond`; a response's positions are those that the cache holds when the answer begins.

        Raises:
            UsageError: more sinks and recent positions than the decoder was trained for.
            UnsupportedModel: its keys cannot be moved.
        """
        decoder = kit.decoder
        prompts = text_prompts(decoder, decoder.tokens(case.document.text).tolist(), case.items)
        trunk, shared = Stream(decoder, self.sinks, self.recent), prompts[0].shared
        trunk.read(prompts[0].ids[:shared])
        responses = []
        for prompt, item in zip(prompts, case.items, strict=True):
            ahead = _Ahead(decoder, trunk.fork(), prompt.ids[shared:])
            responses.append(answered(decoder, ahead, item, max_tokens, ahead.stream.held))
        return Answers(tuple(responses), trunk.nbytes)

    def losses(self, kit: Kit, stretch: Stretch) -> Losses:
        """As `Answerer.losses`; raises as `respond`."""
        decoder, target = kit.decoder, torch.tensor(stretch.target)
        stream = Stream(decoder, self.sinks, self.recent)
        before = text_lead(decoder, (*stretch.far, *stretch.near)).ids
        states = stream.read(torch.cat([before, target])[:-1])[-len(target) :]
        return Losses(losses_of(decoder, states, target), stream.held + 1, stream.nbytes)


class _Ahead(Stepping):
    """A stream behind a prompt."""

    def __init__(self, decoder: Decoder, stream: Stream, ids: Tensor) -> None:
        self.decoder, self.stream = decoder, stream
        self._state = stream.read(ids)[-1:]

    @property
    @torch.inference_mode()
    def scores(self) -> Tensor:
        """As `Stepping.scores`."""
        return self.decoder.logits(self._state)[0].float().log_softmax(-1)

    def take(self, token: int) -> None:
        """As `Stepping.take`."""
        self._state = self.stream.read(torch.tensor([token]))

    def nats(self, ids: Tensor) -> Tensor:
        """As `Stepping.nats`."""
        further = [self.stream.fork().read(ids[:-1])] if len(ids) > 1 else []
        return losses_of(self.decoder, torch.cat([self._state, *further]), ids)
