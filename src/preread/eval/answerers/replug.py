"""RePlug (Shi et al., arXiv 2301.12652, section 3): each passage is read alone, and the next tokens are averaged.

p(y | x) = sum over passages d of softmax(s(d, x)) p(y | d, x), where s is the retriever's score, for us the cosine of
the embedder's vectors. The retriever is not trained for the decoder (their RePlug LSR): no answerer's is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from preread.core.errors import UsageError
from preread.core.types import Prompt
from preread.eval.answerer import Answerer
from preread.eval.answerers.plain import text_lead, text_prompts
from preread.eval.case import Answers, Case, Item, Losses, Stretch, Unfit
from preread.eval.kit import Kit
from preread.eval.measuring import fitting, losses
from preread.eval.stepping import Stepping, answered, losses_of
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class Replug(Answerer):
    """The best passages, each before the question on its own, weighted by how near they are to it.

    Args:
        passages: most that are read (paper: 10).

    Raises:
        UsageError: none.
    """

    passages: int = 10
    kind: ClassVar[str] = "replug"

    def __post_init__(self) -> None:
        if self.passages < 1:
            raise UsageError(
                expected="one passage or more",
                got=str(self.passages),
                consequence="Nothing was judged.",
                remedy="Correct `passages` in the recipe.",
            )

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"RePlug {self.passages}"

    def ready(self, kit: Kit, until: float | None = None) -> bool:  # noqa: ARG002
        """Has the embedder loaded before anything is timed."""
        return kit.embedder is not None

    def respond(self, kit: Kit, case: Case, max_tokens: int) -> Answers:
        """As `Answerer.respond`; a response's positions are those of all passages' prompts together.

        Raises:
            Unfit: a passage does not fit the window with question and answer.
        """
        responses = []
        for item in case.items:
            prompts, weights = self._prompts(kit, case, item)
            room = fitting(kit.decoder, prompts, [item], max_tokens)
            ahead = _Mixture(kit.decoder, prompts, weights, room)
            responses.append(answered(kit.decoder, ahead, item, max_tokens, sum(map(len, prompts))))
        stored = len(case.document.text.encode()) + kit.vectors(case.document).nbytes
        return Answers(tuple(responses), stored)

    def losses(self, kit: Kit, stretch: Stretch) -> Losses:
        """As `Answerer.losses`; the stretch's own scores are the weights.

        Raises:
            Unfit: the stretch has no passages, or one does not fit the window with the rest of the text.
        """
        if not stretch.passages:
            raise Unfit("a stretch with retrieved passages", "one text", "The row leaves it out.", "Use another task.")
        decoder = kit.decoder
        best, weights = self._weighed(torch.tensor(stretch.scores))
        pieces = [stretch.far[slice(*stretch.passages[i])] for i in best]
        prompts = [text_lead(decoder, (*piece, *stretch.near)) for piece in pieces]
        nats = torch.stack([losses(decoder, prompt, stretch.target) for prompt in prompts])
        positions = sum(map(len, prompts)) + len(prompts) * len(stretch.target)
        return Losses(-(weights[:, None] - nats).logsumexp(0), positions)

    def _prompts(self, kit: Kit, case: Case, item: Item) -> tuple[list[Prompt], Tensor]:
        """The item behind each of its best passages, and the logarithms of their weights."""
        passages = kit.passages(case.document)
        query = kit.embedder.embed([item.query or item.question], "question")[0]
        best, weights = self._weighed(torch.from_numpy(kit.vectors(case.document) @ query))
        return [text_prompts(kit.decoder, passages[i].ids, [item])[0] for i in best], weights

    def _weighed(self, scores: Tensor) -> tuple[list[int], Tensor]:
        """Numbers of the passages with the highest of [n] scores, and the logarithms of their weights, float32."""
        best = scores.sort(descending=True, stable=True).indices[: self.passages]
        return best.tolist(), scores[best].float().log_softmax(0)


class _Mixture(Stepping):
    """One continuation behind several prompts, with the weighted mean of their probabilities.

    Args:
        decoder: who reads them.
        prompts: P of them, token ids alone.
        weights: [P] logarithms of what each counts.
        room: positions of the longest prompt and of what may follow.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, prompts: Sequence[Prompt], weights: Tensor, room: int) -> None:
        self.decoder, self.weights = decoder, weights.to(decoder.device)
        self._cache, self._lengths = decoder.cache(room, len(prompts)), list(map(len, prompts))
        # Padding stands on the right, where causal attention never looks; what the cache holds of it is cut off.
        rows = nn.utils.rnn.pad_sequence([decoder.embed(prompt.ids) for prompt in prompts], batch_first=True)
        with decoder.adapters.use(None):
            states = decoder.hidden(rows, cache=self._cache)
        for row, length in enumerate(self._lengths):
            self._cache.cut(row, length)
        self._states = states[range(len(prompts)), [length - 1 for length in self._lengths]]

    @property
    @torch.inference_mode()
    def scores(self) -> Tensor:
        """As `Stepping.scores`."""
        each = self.decoder.logits(self._states).float().log_softmax(-1)
        return (each + self.weights[:, None]).logsumexp(0)

    @torch.inference_mode()
    def take(self, token: int) -> None:
        """As `Stepping.take`: all rows go on together."""
        decoder, lengths = self.decoder, self._lengths
        self._cache.at(0, len(lengths))
        mask = decoder.ragged_mask(lengths) if len(set(lengths)) > 1 else None
        positions = torch.tensor(lengths, device=decoder.device)[:, None]
        embeds = decoder.embed(torch.full((len(lengths), 1), token))
        with decoder.adapters.use(None):
            self._states = decoder.hidden(embeds, mask, positions, self._cache)[:, -1]
        self._lengths = [length + 1 for length in lengths]

    @torch.inference_mode()
    def nats(self, ids: Tensor) -> Tensor:
        """As `Stepping.nats`: row after row, whose lengths differ."""
        each = torch.stack([self._row_nats(row, ids) for row in range(len(self._lengths))])
        return -(self.weights.cpu()[:, None] - each).logsumexp(0)

    def _row_nats(self, row: int, ids: Tensor) -> Tensor:
        states = self._states[row : row + 1]
        if len(ids) > 1:
            self._cache.at(row)
            with self.decoder.adapters.use(None):
                further = self.decoder.hidden(self.decoder.embed(ids[:-1])[None], cache=self._cache)[0]
            states = torch.cat([states, further])
            self._cache.cut(row, self._lengths[row])
        return losses_of(self.decoder, states, ids)
