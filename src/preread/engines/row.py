"""One prompt on its way to an answer."""

from __future__ import annotations

import time
from collections import deque

from torch import Tensor

from preread.core.types import Prompt, Sampling
from preread.engines.base import Event, Finish
from preread.engines.sampling import Sampler
from preread.engines.stream import Characters, Stops
from preread.nn.hf import Decoder
from preread.nn.reading import next_position


class Row:
    """One prompt with its sampling, what was written so far, and the events that nobody has taken yet.

    Args:
        number: of the prompt in its call.
        prompt: what it reads.
        sampling: how its tokens are drawn.
        decoder: whose tokenizer, end tokens and adapter are used; the adapter is the one that has the name now.
        start: when it was asked for, by `time.perf_counter`.

    Attributes:
        events: what happened to it, oldest first, for whoever asked to take.
        finish: why it ended; None while it has not.
        error: what stopped it, if something did.
        dropped: nobody wants it any more.

    Raises:
        UsageError: a senseless sampling or an unknown adapter.
    """

    def __init__(self, number: int, prompt: Prompt, sampling: Sampling, decoder: Decoder, start: float) -> None:
        decoder.adapters.require(prompt.adapter)
        self.number, self.prompt, self.max_tokens = number, prompt, sampling.max_tokens
        self.lora = None if prompt.adapter is None else decoder.adapters[prompt.adapter]
        self.written: list[int] = []
        self.events: deque[Event] = deque()
        self.finish: Finish | None = None
        self.error: Exception | None = None
        self.dropped = False
        self._choose = Sampler(sampling)
        self._characters, self._stops = Characters(decoder.tokenizer), Stops(sampling.stop)
        self._ends, self._start, self._after = decoder.end_ids, start, next_position(prompt)
        self._first_s = self._last_s = 0.0

    @property
    def ended(self) -> bool:
        """Nothing more will happen to it."""
        return self.finish is not None or self.error is not None

    @property
    def held(self) -> int:
        """Positions in the cache: the prompt and all tokens written but the last, which is still to be read."""
        return len(self.prompt) + len(self.written) - 1

    @property
    def position(self) -> int:
        """Where the last token written stands for RoPE."""
        return self._after + len(self.written) - 1

    @property
    def most(self) -> int:
        """Positions it may come to hold."""
        return len(self.prompt) + self.max_tokens

    def take(self, logits: Tensor) -> None:
        """Choose a token from [V] logits and say what it adds."""
        token = self._choose(logits, self.written)
        now = time.perf_counter() - self._start
        self._first_s = self._first_s or now
        if token in self._ends:
            return self._end("stop")
        self.written.append(token)
        self._last_s = now
        piece = self._stops.push(self._characters.push(token))
        if self._stops.met:
            return self._say(piece, "stop")
        if len(self.written) == self.max_tokens:
            return self._end("length", piece)
        return self._say(piece)

    def cancel(self) -> None:
        """End it as it is."""
        self._end("cancelled")

    def _end(self, finish: Finish, piece: str = "") -> None:
        piece += self._stops.push(self._characters.flush())
        if not self._stops.met:
            piece += self._stops.flush()
        self._say(piece, "stop" if self._stops.met else finish)

    def _say(self, piece: str, finish: Finish | None = None) -> None:
        further = len(self.written) - 1
        per_token = (self._last_s - self._first_s) / further if further > 0 else 0.0
        self.events.append(Event(self.number, piece, len(self.written), self._first_s, per_token, finish))
        self.finish = finish
