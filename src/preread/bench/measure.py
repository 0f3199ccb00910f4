"""How much sooner and faster an answer comes from a memory than from the text it stands for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from preread.bench.figures import Figure
from preread.core.progress import Advance
from preread.core.types import MEMORY, Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.nn.cpu import heads_unfolded
from preread.nn.hf import Decoder

QUESTION = "What does the text say of the harbour, and who is it that says so?"
TEXT_TOKENS, RATIO, NEW_TOKENS = 8000, 30, 32
WARM_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds from the request to the first token, and mean seconds of each further one."""

    first_token_s: float
    per_token_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paces of the same question over a memory, over its text, and over its text with `model.generate`.

    The n-th of each list were taken one after the other, so their ratios are of one moment of the machine.
    """

    memory: list[Pace] = field(default_factory=list)
    text: list[Pace] = field(default_factory=list)
    plain: list[Pace] = field(default_factory=list)

    @property
    def first_token(self) -> list[float]:
        """How many times sooner the first token comes from the memory than from the text; same engine."""
        return [t.first_token_s / m.first_token_s for t, m in zip(self.text, self.memory, strict=True)]

    @property
    def decode(self) -> list[float]:
        """How many times faster further tokens come; same engine."""
        return [t.per_token_s / m.per_token_s for t, m in zip(self.text, self.memory, strict=True)]

    @property
    def decode_plain(self) -> list[float]:
        """The same over `model.generate` reading the text."""
        return [p.per_token_s / m.per_token_s for p, m in zip(self.plain, self.memory, strict=True)]


class _Endless(Decoder):
    """The same weights, never ending an answer: a rate needs a fixed number of tokens."""

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset()


def endless(decoder: Decoder) -> Decoder:
    """The same decoder, never ending an answer."""
    return _Endless(decoder.model, decoder.tokenizer, decoder.name, decoder.fingerprint, decoder.note)


def pace(engine: LocalEngine, prompt: Prompt, tokens: int) -> Pace:
    """Write `tokens` tokens greedily with an empty cache."""
    [written] = engine.complete([prompt], Sampling(max_tokens=tokens))
    assert written.tokens == tokens, "an endless decoder writes to the limit"
    return Pace(written.first_token_s, written.per_token_s)


def plain_pace(decoder: Decoder, ids: Tensor, tokens: int) -> Pace:
    """The same with `model.generate` as transformers ships it: its own attention and its default, growing cache.

    Args:
        decoder: whose model is used.
        ids: [T] token ids.
        tokens: how many to write.
    """
    settings = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    clock, start = _Clock(), time.perf_counter()
    with heads_unfolded(decoder.model):
        mask = torch.ones(1, len(ids), dtype=torch.int64)
        decoder.model.generate(ids[None], attention_mask=mask, generation_config=settings, streamer=clock)
    first, *_, last = clock.times[1:]  # the prompt comes first
    assert len(clock.times) == tokens + 1, "no end token is allowed, so it writes to the limit"
    return Pace(first - start, (last - first) / (tokens - 1))


class _Clock(BaseStreamer):  # type: ignore[misc]  # transformers is untyped to mypy
    """Notes when `model.generate` hands over the prompt and each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())

    def end(self) -> None:
        return


def compare(
    decoder: Decoder, text_tokens: int, ratio: int, tokens: int, seed: int, repeats: int, progress: Advance
) -> Comparison:
    """Ask one question of a random text and of as many random embeddings as its memory would have, by turns.

    Args:
        decoder: the model; its weights are read once before anything is timed.
        text_tokens: length of the text.
        ratio: tokens of text for each vector of the memory.
        tokens: how many to write for each answer.
        seed: of text and embeddings.
        repeats: how often each of the three is run.
        progress: told of each repeat.
    """
    draw = torch.Generator().manual_seed(seed)
    vocabulary = len(decoder.tokenizer)
    text = torch.randint(vocabulary, (text_tokens,), generator=draw)
    vectors = -(-text_tokens // ratio)
    memory = decoder.embed(torch.randint(vocabulary, (vectors,), generator=draw)).detach()
    over_memory = Prompt(decoder.frame(QUESTION, [torch.full((vectors,), MEMORY)])[0], memory)
    over_text = Prompt(decoder.frame(QUESTION, [text])[0])
    engine, out = LocalEngine(endless(decoder), prefix_bytes=0), Comparison()
    warm = Prompt(decoder.frame(QUESTION, [text[:WARM_TOKENS]])[0])
    pace(engine, warm, tokens)
    plain_pace(decoder, warm.ids, tokens)
    for _ in range(repeats):
        out.memory.append(pace(engine, over_memory, tokens))
        out.text.append(pace(engine, over_text, tokens))
        out.plain.append(plain_pace(decoder, over_text.ids, tokens))
        progress(1)
    return out


def cpu_figures(decoder: Decoder, seed: int = 0, repeats: int = 5, progress: Advance | None = None) -> list[Figure]:
    """Three ratios: first token, further tokens with the same engine, further tokens against plain transformers.

    Takes some minutes. `progress` is told of each of the `repeats`.

    Raises:
        WindowExceeded: the decoder's window does not hold a text of 8,000 tokens with its question.
    """
    runs = compare(decoder, TEXT_TOKENS, RATIO, NEW_TOKENS, seed, repeats, progress or (lambda *_, **__: None))
    recipe = f"text_tokens={TEXT_TOKENS} ratio={RATIO} new_tokens={NEW_TOKENS} seed={seed} repeats={repeats}"
    command = f"preread bench cpu --seed {seed} --repeats {repeats}"
    weights = f", {decoder.note}" if decoder.note else ""
    note = (
        f"{decoder.name} in {str(decoder.dtype).removeprefix('torch.')}{weights}; random token ids and embeddings: "
        "speed only; batch 1, greedy, cold cache, warm weights; median, least and greatest ratio of neighbouring runs; "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    plain = (
        f"{note}; plain is model.generate with sdpa attention, growing cache and the same threads. The goal of 15 was "
        "set when plain decoding at this length was over ten times slower than transformers' is now; what is left of a "
        "token over a memory is mostly the reading of the weights, which both sides share"
    )
    return [
        Figure.of("lloco.cpu_ttft_ratio_8k", runs.first_token, "x", recipe, command, note),
        Figure.of("lloco.cpu_decode_ratio_8k", runs.decode, "x", recipe, command, note),
        Figure.of("lloco.cpu_decode_ratio_8k_plain", runs.decode_plain, "x", recipe, command, plain),
    ]
