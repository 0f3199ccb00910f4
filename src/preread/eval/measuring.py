"""What every answerer is measured by: greedy answers, and the likelihood of given ones behind the same prompts.

What prompts share is read once, for the answers and for all likelihoods. The token that ends an answer is not judged:
any context at all makes a short answer likelier to end, and that alone closed half of the gap between no context and
full text (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from preread.core.errors import WindowExceeded
from preread.core.types import Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.eval.case import Item, Likelihood, Response, Unfit
from preread.nn.cache import SlotCache
from preread.nn.hf import Decoder
from preread.nn.reading import Reading, begins, followed, next_position, same

ROWS_AT_ONCE = 8
MOST_REFERENCES = 4
"""References of an item that are judged by likelihood."""
PIECE = 512
"""Positions read, and turned into logits, at once."""


def respond(decoder: Decoder, prompts: Sequence[Prompt], items: Sequence[Item], max_tokens: int) -> list[Response]:
    """Answer prompts of one context greedily, and judge the items' references and choices behind them.

    What all prompts begin with is read once. Where they begin with different parts of the context, those of
    `ROWS_AT_ONCE` items are kept at a time.

    Args:
        decoder: who reads.
        prompts: one an item.
        items: with references and choices.
        max_tokens: most tokens of an answer; 0 writes none.

    Raises:
        Unfit: a prompt with its answer does not fit the decoder's window.
    """
    longest = fitting(decoder, prompts, items, max_tokens)
    at_once = len(prompts) if all(_alike(prompts[0], prompt) for prompt in prompts) else ROWS_AT_ONCE
    found: list[Response] = []
    for start in range(0, len(prompts), at_once):
        some = slice(start, start + at_once)
        found += _respond(decoder, prompts[some], items[some], max_tokens, longest)
    return found


def fitting(decoder: Decoder, prompts: Sequence[Prompt], items: Sequence[Item], max_tokens: int) -> int:
    """Positions that are enough for any of the prompts with any text that is judged or written behind it.

    Raises:
        Unfit: the decoder's window is not.
    """
    room = max(_longest(decoder, items), max_tokens)
    longest = max(len(prompt) for prompt in prompts)
    if longest + room > decoder.window:
        raise Unfit(
            expected=f"a context that fits {decoder.window} positions with the question and {room} for the answer",
            got=f"{longest} positions",
            consequence="The row leaves it out.",
            remedy="Compare on shorter contexts, or with an answerer that shortens them.",
        )
    return longest + room


def answer_room(decoder: Decoder, items: Sequence[Item]) -> int:
    """Positions to leave for answers: the most that the items ask for, and those of the longest text that is judged."""
    return max([_longest(decoder, items), *(item.room for item in items)])


def judged_references(item: Item) -> tuple[str, ...]:
    """The references that are judged by likelihood: the first few, but for empty ones, which have no token to judge."""
    return tuple(text for text in item.answers if text)[:MOST_REFERENCES]


def _respond(
    decoder: Decoder, prompts: Sequence[Prompt], items: Sequence[Item], max_tokens: int, longest: int
) -> list[Response]:
    """As `respond`, with every beginning kept; `longest` positions are enough for any prompt and what follows it."""
    engine = LocalEngine(decoder, ROWS_AT_ONCE, prefix_bytes=2**40)  # beginnings, however long
    try:
        written = engine.complete(prompts, Sampling(max_tokens=max_tokens)) if max_tokens else [None] * len(prompts)
    except WindowExceeded as error:
        raise Unfit(error.expected, error.got, "The row leaves it out.", error.remedy) from error
    judge = _Judge(decoder, engine, longest)
    found = []
    for prompt, item, answer in zip(prompts, items, written, strict=True):
        references = judge.likelihoods(prompt, judged_references(item))
        choices = judge.likelihoods(prompt, item.choices)
        text, tokens = (answer.text.strip(), answer.tokens) if answer else ("", 0)
        found.append(Response(text, references, choices, len(prompt), tokens))
    return found


@torch.inference_mode()
def losses(decoder: Decoder, prompt: Prompt, target: Sequence[int]) -> Tensor:
    """[T] negative log-likelihood of each token that follows a prompt, in nats, float32 on the CPU; one pass.

    Args:
        decoder: who reads.
        prompt: what stands before.
        target: the tokens, at least one.

    Raises:
        Unfit: prompt and target do not fit the decoder's window.
    """
    ids = torch.tensor(target, dtype=torch.int64)
    whole = followed(prompt, ids)
    if max(len(whole), next_position(whole)) > decoder.window:
        raise Unfit(
            expected=f"text that fits {decoder.window} positions",
            got=f"{len(whole)} positions",
            consequence="The row leaves it out.",
            remedy="Compare on shorter texts, or with an answerer that shortens them.",
        )
    with decoder.adapters.use(prompt.adapter):
        return _followers(decoder, Reading(decoder, whole, PIECE), decoder.cache(len(whole)), ids)


class _Judge:
    """Likelihoods behind prompts of one context, whose beginning the engine has read and kept."""

    def __init__(self, decoder: Decoder, engine: LocalEngine, longest: int) -> None:
        self.decoder, self.engine = decoder, engine
        self._cache = decoder.cache(longest)
        self._held: str | None = None

    @torch.inference_mode()
    def likelihoods(self, prompt: Prompt, texts: Sequence[str]) -> tuple[Likelihood, ...]:
        """Of each text behind the prompt."""
        lora = None if prompt.adapter is None else self.decoder.adapters[prompt.adapter]
        key = self.engine.prefixes.key(prompt, lora) if texts else None
        found = []
        for text in texts:
            ids = self.decoder.tokens(text)
            reading = Reading(self.decoder, followed(prompt, ids), PIECE)
            with self.decoder.adapters.use(prompt.adapter):
                reading.skip(self._kept(prompt, key))
                nats = _followers(self.decoder, reading, self._cache, ids)
            self._held = key
            found.append(Likelihood(float(nats.sum()), len(ids)))
        return tuple(found)

    def _kept(self, prompt: Prompt, key: str | None) -> int:
        """Leave in the cache what prompts share, from the text before or from the engine; how many positions."""
        if key is not None and key == self._held:
            self._cache.cut(0, begins(prompt))
            return begins(prompt)
        self._held = None
        self._cache.cut(0, 0)
        # Where nothing was written the engine has read nothing: the first text then reads all.
        beginning = None if key is None else self.engine.prefixes.get(key)
        if beginning is None:
            return 0
        self._cache.paste(beginning)
        return len(beginning)


def _followers(decoder: Decoder, reading: Reading, cache: SlotCache, ids: Tensor) -> Tensor:
    """[T] losses of the last tokens of what is read, each from the state before it."""
    first = len(reading.prompt) - len(ids) - 1  # the position whose state predicts the first of them
    found: list[Tensor] = []
    while reading.left:
        start = reading.done
        states = reading.read(cache)
        if states is None or reading.done <= first:
            continue
        states = states[max(0, first - start) :]
        states = states[:-1] if not reading.left else states
        done = sum(map(len, found))
        logits = decoder.logits(states).float()
        wanted = ids[done : done + len(states)].to(logits.device)
        found.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none").cpu())
    return torch.cat(found)


def _alike(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts begin with the same tokens and the same memory."""
    if (one.shared, one.adapter, one.reader) != (other.shared, other.adapter, other.reader):
        return False
    given = [(prompt.ids[: prompt.shared], _memory(prompt), prompt.states) for prompt in (one, other)]
    return all(same(*pair) for pair in zip(*given, strict=True))


def _memory(prompt: Prompt) -> Tensor | None:
    return prompt.embeds if prompt.kv is None else prompt.kv.keys


def _longest(decoder: Decoder, items: Sequence[Item]) -> int:
    """Tokens of the longest text that is judged."""
    texts = [text for item in items for text in (*judged_references(item), *item.choices)]
    return max((len(decoder.tokens(text)) for text in texts), default=0)
