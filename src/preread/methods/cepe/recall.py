"""The `recall` stage: what stands beside the decoder is asked for word for word.

Cross-attention carries the gist and loses the words (JRT, arXiv 2407.05483, table 6: 5.9 of 72.5 on extraction), and
nothing in running text asks for them. So a part of the training does: values of random keys, and the going on of
sentences that are begun. REFRAG (arXiv 2509.01092, section 4) reports that without such a stage its decoder never
learns to read its chunks.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from preread.core.types import TextBatch
from preread.methods.cepe.objective import ReadObjective, senseless
from preread.methods.cepe.reader import Reader
from preread.nn.losses import answer_losses

BEGUN = 16
"""Tokens of a passage that are given, for the rest to follow from."""
FORMS = (('"', '": "', '",\n'), ("", ": ", "\n"), ("The ", " is ", ".\n"), ("", " = ", "\n"))
"""What stands before a key, between it and its value, and behind."""
ASKS = ("What is the value of {}?", "Give me the value of the key {}.", 'Key: "{}"\nValue:')
"""How a user asks for it."""


class RecallObjective(ReadObjective):
    """Loss terms `pairs`, values of keys out of a list of random ones, `verbatim`, passages that are begun, and `lm`.

    Args:
        pairs: weight of the first.
        verbatim: weight of the second.
        lm: weight of the text behind its context; without it that is forgotten (docs/cepe-training.md).
        asked: keys, and passages, that are asked for in each row.
        near: tokens of each window that are no context; for `verbatim` passages of its context stand in their place.

    Raises:
        UsageError: as `ReadObjective`; or no weight is above 0, or nothing is asked for.
    """

    def __init__(
        self,
        reader: Reader,
        finish: Callable[[], object],
        pairs: float = 1.0,
        verbatim: float = 1.0,
        lm: float = 1.0,
        asked: int = 6,
        **settings: Any,
    ) -> None:
        super().__init__(reader, finish, **{"hidden": 0.0, **settings})
        if not (pairs > 0 or verbatim > 0) or asked < 1:
            given = f"pairs: {pairs}, verbatim: {verbatim}, asked: {asked}"
            raise senseless("a weight above 0 for pairs or verbatim, and something asked", given)
        self.pairs, self.verbatim, self.lm, self.asked = pairs, verbatim, lm, asked

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Loss terms by name, those of weight zero left out; of the first two only what is asked for is judged.

        Raises:
            UsageError: the windows hold no context.
        """
        contexts, text = self._divided(batch.ids)
        draw = random.Random(batch.seed)  # noqa: S311 - no secret
        terms: dict[str, Tensor] = {}
        if self.pairs:
            lists = [self._list(context.shape[0], draw) for context in contexts]
            terms["pairs"] = self.pairs * self._asked([ids for ids, _ in lists], [asked for _, asked in lists], batch)
        if self.verbatim:
            begun = [self._begun(context, draw) for context in contexts]
            terms["verbatim"] = self.verbatim * self._asked(list(contexts), begun, batch)
        if self.lm:
            terms["lm"] = self.lm * self._losses(self._states(list(contexts), batch.seed), text)[0]
        return terms

    def _list(self, tokens: int, draw: random.Random) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """A list of pairs in some tokens, one form for all; and questions for some of its values, as ids."""
        decoder, kind = self.reader.decoder, draw.choice(KINDS)
        before, between, behind = draw.choice(FORMS)
        pieces: list[Tensor] = []
        held: list[tuple[str, str]] = []
        while sum(map(len, pieces)) < tokens:
            key, value = kind(draw), kind(draw)
            pieces.append(decoder.tokens(before + key + between + value + behind))
            held.append((key, value))
        whole = held[:-1]  # the last one may be cut
        if not whole:
            raise senseless("windows with room for two pairs before `near`", f"{tokens} tokens")
        asked = draw.sample(whole, min(self.asked, len(whole)))
        ask = draw.choice((*ASKS, None))
        if ask is None:  # as the list goes on, the space before a value being a part of it
            lead = between.rstrip(" ")
            goes_on = between[len(lead) :]
            return torch.cat(pieces)[:tokens], [
                (self._led(decoder.tokens(before + key + lead)[None])[0], decoder.tokens(goes_on + value + behind))
                for key, value in asked
            ]
        return torch.cat(pieces)[:tokens], [
            (decoder.frame(ask.format(key))[0], decoder.tokens(value)) for key, value in asked
        ]

    def _begun(self, context: Tensor, draw: random.Random) -> list[tuple[Tensor, Tensor]]:
        """Some passages of a context, each as its beginning and what follows."""
        length = max(BEGUN + 1, min(4 * BEGUN, len(context) // 2))
        starts = [draw.randrange(max(1, len(context) - length)) for _ in range(self.asked)]
        passages = [context[start : start + length] for start in starts]
        return [(self._led(passage[None, :BEGUN])[0], passage[BEGUN:]) for passage in passages]

    def _asked(
        self, contexts: Sequence[Tensor], asked: Sequence[Sequence[tuple[Tensor, Tensor]]], batch: TextBatch
    ) -> Tensor:
        """Cross-entropy of what is to follow each question, one row a question, with its context beside it."""
        decoder, context = self.reader.decoder, self._states(contexts, batch.seed)
        rows = [(number, *pair) for number, some in enumerate(asked) for pair in some]
        texts = [torch.cat([question, answer]) for _, question, answer in rows]
        of = torch.tensor([number for number, _, _ in rows], device=context.states.device)
        beside = context.of(of)
        with decoder.adapters.use(None), decoder.beside.use({self.reader.crossings.name: beside}):
            states = decoder.hidden(decoder.embed(torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)))
        predicting = torch.cat(
            [
                row[len(text) - len(answer) - 1 : len(text) - 1]
                for row, text, (_, _, answer) in zip(states, texts, rows, strict=True)
            ]
        )
        targets = torch.cat([answer for _, _, answer in rows]).to(predicting.device)
        return answer_losses(decoder.logits, predicting, targets)[0]


def _hex(draw: random.Random) -> str:
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))


def _number(draw: random.Random) -> str:
    return str(draw.randrange(10 ** draw.randint(3, 8)))


def _letters(draw: random.Random) -> str:
    """Syllables that make no word."""
    return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(2, 5)))


KINDS: tuple[Callable[[random.Random], str], ...] = (_hex, _number, _letters)
"""What keys and values are made of."""
