"""The torch engine: a decoder in this process, on whatever device it sits.

All that is asked of an engine at the same time, in however many calls and threads, is written in one batch (`batch`).
There is no thread behind it: of the callers that wait, one takes the next step, for all.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from preread.core.errors import UsageError
from preread.core.types import Prompt, Sampling
from preread.engines.base import ACCEPTED, Engine, Event, check
from preread.engines.batch import Batch
from preread.engines.prefixes import Prefixes
from preread.engines.refusing import refuse
from preread.engines.row import Row
from preread.nn.cpu import fold_heads
from preread.nn.hf import Decoder

PREFIX_BYTES = 256 * 2**20
"""Most bytes of beginnings of prompts that are kept: 11,000 positions of the default model."""


class LocalEngine(Engine):
    """Writes with a `Decoder`.

    Args:
        decoder: whose weights, tokenizer and adapters are used.
        rows_at_once: most rows in the batch; further ones wait for a free slot.
        prefix_bytes: most bytes of beginnings of prompts that are kept for other questions; 0 keeps none.

    Attributes:
        prefixes: those beginnings, with `hits` and `misses`.
    """

    name = "local"
    accepts = ACCEPTED["local"]

    def __init__(self, decoder: Decoder, rows_at_once: int = 8, prefix_bytes: int = PREFIX_BYTES) -> None:
        self.decoder, self.prefixes = decoder, Prefixes(prefix_bytes)
        self._batch = Batch(decoder, rows_at_once, self.prefixes)
        self._dropped: deque[Row] = deque()
        self._news, self._busy = threading.Condition(), False
        fold_heads(decoder)

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
        pairs = enumerate(zip(prompts, each, strict=True))
        return self._run([self._row(i, prompt, wanted, start) for i, (prompt, wanted) in pairs], cancelled)

    def submit(self, prompt: Prompt, sampling: Sampling | None = None) -> Row:
        """Put a prompt into the batch; its `events` come as somebody steps, and its `error` if something stops it.

        Raises:
            PrereadError: as `generate`.
        """
        row = self._row(0, prompt, sampling or Sampling(), time.perf_counter())
        self._batch.waiting.append(row)
        return row

    def step(self) -> bool:
        """Take one step for all rows, or wait for the one that somebody takes; False once there are none left."""
        with self._news:
            if self._busy:
                self._news.wait()
                return bool(self._batch.rows)
            self._busy = True
        try:
            self._batch.step()
        finally:
            self._rest()
        return bool(self._batch.rows)

    def cancel(self, row: Row) -> None:
        """End a row as `cancelled`, if it has not ended: at once, or after the step that is being taken."""
        row.dropped = True
        self._dropped.append(row)
        self._tidy()

    def _run(self, rows: Sequence[Row], cancelled: Callable[[], bool]) -> Iterator[Event]:
        """Submit the rows, and give out their events until they have ended."""
        self._batch.waiting.extend(rows)
        try:
            left = list(rows)
            while left:
                if cancelled():
                    for row in left:
                        self.cancel(row)
                self._wait(left)
                for row in left:
                    while row.events:
                        yield row.events.popleft()
                    if row.error is not None:
                        raise row.error
                left = [row for row in left if not row.ended or row.events]
        finally:
            for row in rows:
                if not row.ended:
                    self.cancel(row)

    def _wait(self, rows: Sequence[Row]) -> None:
        """Until something happens to one of the rows, by the steps of others or by one's own."""
        while not any(row.events or row.ended for row in rows):
            self.step()

    def _rest(self) -> None:
        """The step is over: who waits looks for what came of it, and takes the next."""
        with self._news:
            self._busy = False
            self._news.notify_all()
        self._tidy()

    def _tidy(self) -> None:
        """Free the slots of cancelled rows, unless somebody steps, who will do it afterwards.

        Never waits: an iterator may be closed anywhere, even by the garbage collector in the midst of a step.
        """
        while self._dropped:
            with self._news:
                if self._busy:
                    return
                self._busy = True
            try:
                self._dropped.clear()
                self._batch.leave()
            finally:
                with self._news:
                    self._busy = False
                    self._news.notify_all()

    def _row(self, number: int, prompt: Prompt, sampling: Sampling, start: float) -> Row:
        """A row for what can be done; what cannot is refused."""
        check(prompt.fields, self)
        refuse(self.decoder, prompt, sampling)
        return Row(number, prompt, sampling, self.decoder, start)
