"""The torch engine: a decoder in this process, on whatever device it sits.

Each prompt is read on its own, so that nothing of its neighbours can reach it; then the rows write together, one token
a step, padded on the left. A row that ends leaves the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import torch
from torch import Tensor

from preread.core.errors import IntegrityError, UsageError, WindowExceeded
from preread.core.types import Prompt, Sampling
from preread.engines.base import ACCEPTED, Engine, Event, Finish, check
from preread.engines.sampling import Sampler
from preread.engines.stream import Characters, Stops
from preread.nn.cache import PreallocatedCache
from preread.nn.cpu import fold_heads, one_row_products
from preread.nn.hf import Decoder


class LocalEngine(Engine):
    """Writes with a `Decoder`.

    Args:
        decoder: whose weights, tokenizer and adapters are used.
        rows_at_once: most rows in a batch; further ones wait for it to end.
    """

    name = "local"
    accepts = ACCEPTED["local"]

    def __init__(self, decoder: Decoder, rows_at_once: int = 8) -> None:
        self.decoder, self.rows_at_once = decoder, rows_at_once
        fold_heads(decoder.model)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """As `Engine.generate`; everything that can be refused is refused here, before any work."""
        start = time.perf_counter()
        each = [sampling or Sampling()] * len(prompts) if not isinstance(sampling, Sequence) else sampling
        if len(each) != len(prompts):
            raise UsageError(
                expected=f"one sampling for each of {len(prompts)} prompts, or one for all",
                got=str(len(each)),
                consequence="Nothing was computed.",
                remedy="Pass as many as there are prompts.",
            )
        for prompt, wanted in zip(prompts, each, strict=True):
            check(prompt.fields, self)
            self._refuse(prompt, wanted)
        ends = self.decoder.end_ids
        rows = [_Row(i, *pair, self.decoder, ends, start) for i, pair in enumerate(zip(prompts, each, strict=True))]
        self.decoder.cache(0)  # refuses a decoder whose keys and values it cannot keep
        return self._run(rows, cancelled)

    def _run(self, rows: Sequence[_Row], cancelled: Callable[[], bool]) -> Iterator[Event]:
        groups: dict[str | None, list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.prompt.adapter, []).append(row)
        for group in groups.values():
            for first in range(0, len(group), self.rows_at_once):
                yield from self._batch(group[first : first + self.rows_at_once], cancelled)

    def _batch(self, rows: Sequence[_Row], cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Rows of one adapter: read one after the other, then write together."""
        writing, cache = yield from self._read_all(rows, cancelled)
        while writing:
            if cancelled():
                yield from (row.cancel() for row in writing)
                return
            logits = self._step(writing, cache)
            for row, scores in zip(writing, logits, strict=True):
                yield row.take(scores)
            kept = [i for i, row in enumerate(writing) if row.finish is None]
            if 0 < len(kept) < len(writing):
                longest = max(writing[i].positions for i in kept)
                cache.keep(kept, drop=cache.get_seq_length() - longest)
            writing = [writing[i] for i in kept]

    def _read_all(
        self, rows: Sequence[_Row], cancelled: Callable[[], bool]
    ) -> Generator[Event, None, tuple[list[_Row], PreallocatedCache]]:
        """First tokens; returns the rows that have more to write, and one cache for them."""
        caches, writing = [], []
        for row in rows:
            if cancelled():
                yield row.cancel()
                continue
            cache = self.decoder.cache(len(row.prompt) + row.max_tokens)
            yield row.take(self._read(row.prompt, cache))
            if row.finish is None:
                caches.append(cache)
                writing.append(row)
        if len(caches) == 1:
            return writing, caches[0]
        longest = max((len(row.prompt) for row in writing), default=0)
        batch = self.decoder.cache(longest + max((row.max_tokens for row in writing), default=0))
        if writing:
            batch.join(caches)
        return writing, batch

    @torch.inference_mode()
    def _read(self, prompt: Prompt, cache: PreallocatedCache) -> Tensor:
        """[V] logits of a prompt's last position; fills the cache."""
        decoder = self.decoder
        with decoder.adapters.use(prompt.adapter):
            states = decoder.hidden(decoder.embed(prompt.ids, prompt.embeds).unsqueeze(0), cache=cache)[:, -1:]
            with one_row_products(states):
                return decoder.logits(states)[0, -1]

    @torch.inference_mode()
    def _step(self, rows: Sequence[_Row], cache: PreallocatedCache) -> Tensor:
        """[B, V] logits after the last token of each row."""
        decoder, length = self.decoder, cache.get_seq_length() + 1
        positions = torch.tensor([[row.positions] for row in rows], device=decoder.device)
        embeds = decoder.embed(torch.tensor([[row.written[-1]] for row in rows]))
        mask = None
        if any(row.positions + 1 < length for row in rows):
            places = torch.arange(length, device=decoder.device)
            mask = (places >= length - 1 - positions).to(torch.int64)
        with decoder.adapters.use(rows[0].prompt.adapter), one_row_products(embeds):
            return decoder.logits(decoder.hidden(embeds, mask, positions, cache)[:, -1])

    def _refuse(self, prompt: Prompt, sampling: Sampling) -> None:
        positions, window = len(prompt) + sampling.max_tokens, self.decoder.window
        if positions > window:
            raise WindowExceeded(
                expected=f"at most {window} positions, the window of {self.decoder.name}",
                got=f"{positions}: {len(prompt)} of the prompt and {sampling.max_tokens} to write",
                consequence="Nothing was computed.",
                remedy="Ask of fewer passages, write fewer tokens, or use a method that compresses the text.",
            )
        if not len(prompt):
            raise UsageError(
                expected="a prompt of at least one position",
                got="an empty one",
                consequence="Nothing was computed.",
                remedy="Ask a question.",
            )
        if prompt.embeds is not None and not bool(prompt.embeds.isfinite().all()):
            raise IntegrityError(
                expected="finite embeddings in a prompt",
                got="infinite ones or NaN",
                consequence="Nothing was computed.",
                remedy="Add the document again to rebuild its memory.",
            )
        self.decoder.adapters.require(prompt.adapter)


class _Row:
    """One prompt on its way to an answer."""

    def __init__(
        self,
        number: int,
        prompt: Prompt,
        sampling: Sampling,
        decoder: Decoder,
        ends: frozenset[int],
        start: float,
    ) -> None:
        self.number, self.prompt, self.max_tokens = number, prompt, sampling.max_tokens
        self.written: list[int] = []
        self.finish: Finish | None = None
        self._choose = Sampler(sampling)
        self._characters, self._stops = Characters(decoder.tokenizer), Stops(sampling.stop)
        self._ends, self._start = ends, start
        self._first_s = self._last_s = 0.0

    @property
    def positions(self) -> int:
        """Positions in the cache: the prompt and all tokens written but the last, which is still to be read."""
        return len(self.prompt) + len(self.written) - 1

    def take(self, logits: Tensor) -> Event:
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
            self.finish = "stop"
        elif len(self.written) == self.max_tokens:
            return self._end("length", piece)
        return self._event(piece)

    def cancel(self) -> Event:
        """End it as it is."""
        return self._end("cancelled")

    def _end(self, finish: Finish, piece: str = "") -> Event:
        piece += self._stops.push(self._characters.flush())
        if not self._stops.met:
            piece += self._stops.flush()
        self.finish = "stop" if self._stops.met else finish
        return self._event(piece)

    def _event(self, piece: str) -> Event:
        further = len(self.written) - 1
        per_token = (self._last_s - self._first_s) / further if further > 0 else 0.0
        return Event(self.number, piece, len(self.written), self._first_s, per_token, self.finish)
