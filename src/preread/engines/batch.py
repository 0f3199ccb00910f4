"""Rows that are written together: each enters a slot when one is free, and leaves it when it ends.

A step is one of two things, by turns: some prompts are read, or every row that writes gets its next token. A long
prompt is read in pieces, so that it holds nobody up for longer than one piece takes.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.engines.prefixes import Prefixes
from preread.engines.row import Row
from preread.nn.cache import SlotCache
from preread.nn.cpu import one_row_products
from preread.nn.hf import Decoder
from preread.nn.reading import Reading, begins

PIECE, DEVICE_PIECE = 256, 2048
"""Positions read between two tokens of the rows that write, on a CPU and on anything faster.

On a CPU longer pieces are no quicker: attention within a piece computes what is masked too.
"""
ROUND = 64
"""Capacities are multiples of it, so that rows of about one length need no larger buffers."""


class Batch:
    """The rows of one decoder; to be called by one thread at a time.

    Rows that write have the slots from 0 on, and the one that is being read has the slot behind them.

    Args:
        decoder: who reads and writes.
        rows_at_once: most rows in slots; further ones wait in order.
        prefixes: beginnings of prompts that need not be read again.

    Attributes:
        waiting: rows without a slot, first come first.
    """

    def __init__(self, decoder: Decoder, rows_at_once: int, prefixes: Prefixes) -> None:
        self.decoder, self.rows_at_once, self.prefixes = decoder, rows_at_once, prefixes
        self.waiting: deque[Row] = deque()
        self._piece = PIECE if decoder.device.type == "cpu" else DEVICE_PIECE
        self._writing: list[Row] = []
        self._reading: tuple[Row, Reading, str | None] | None = None
        self._cache: SlotCache | None = None
        self._wrote = True

    @property
    def rows(self) -> list[Row]:
        """Every row that has not ended."""
        return [*self._writing, *([self._reading[0]] if self._reading else []), *self.waiting]

    @torch.inference_mode()
    def step(self) -> None:
        """Read some, or write a token of each; what goes wrong becomes the `error` of the rows that it stopped."""
        self.leave()
        may_read = self._reading is not None or (self.waiting and len(self._writing) < self.rows_at_once)
        if may_read and (self._wrote or not self._writing):
            self._wrote = False
            self._read_some()
        elif self._writing:
            self._wrote = True
            self._write()
        self._release()

    @torch.inference_mode()
    def leave(self) -> None:
        """Take out the rows that nobody wants any more; their slots are free."""
        for row in tuple(self.waiting):  # at once: another thread may put one in meanwhile
            if row.dropped:
                self.waiting.remove(row)
                row.cancel()
        if self._reading is not None and self._reading[0].dropped:
            self._stop_reading().cancel()
        for row in self._writing:
            if row.dropped and not row.ended:
                row.cancel()
        self._free_ended()
        self._release()

    def _read_some(self) -> None:
        """Read prompts in order until a piece's worth of positions was read."""
        budget = self._piece
        while budget > 0 and (self._reading is not None or (self.waiting and len(self._writing) < self.rows_at_once)):
            row = self._reading[0] if self._reading is not None else self.waiting[0]
            try:
                budget -= self._read_piece()
            except Exception as error:  # whatever it was, the one who asked must hear of it
                if self._reading is not None:
                    self._stop_reading()
                elif self.waiting and self.waiting[0] is row:
                    self.waiting.popleft()
                row.error = error

    def _read_piece(self) -> int:
        """Read one piece of the row that is being read, or of the next; how many positions."""
        row, reading, key = self._reading or self._enter()
        cache, slot, before = self._cache, len(self._writing), reading.done
        assert cache is not None
        cache.cut(slot, before)  # an interrupted pass may have left something
        cache.at(slot)
        with self.decoder.adapters.use_rows([row.lora]):
            states = reading.read(cache)
        if key is not None and reading.done == begins(row.prompt):
            self.prefixes.put(key, cache.copy(slot, reading.done))
        if not reading.left:
            assert states is not None, "a prompt ends with a position that is read"
            self._begin_writing(row, states[-1:])
        return reading.done - before

    def _enter(self) -> tuple[Row, Reading, str | None]:
        """Give the next row a slot, with its beginning if that is kept."""
        row, slot = self.waiting[0], len(self._writing)
        reading = Reading(self.decoder, row.prompt, self._piece)
        key = self.prefixes.key(row.prompt, row.lora)
        if self._cache is None:
            self._cache = self.decoder.cache(0)
        self._cache.reserve(slot + 1, -(-row.most // ROUND) * ROUND)
        self._cache.cut(slot, 0)
        if key is not None and (held := self.prefixes.get(key)) is not None:
            self._cache.at(slot)
            self._cache.paste(held)
            reading.skip(len(held))
            key = None
        self._reading = row, reading, key
        self.waiting.popleft()
        return self._reading

    def _begin_writing(self, row: Row, state: Tensor) -> None:
        """First token from the [1, D] state of the prompt's last position."""
        with one_row_products(state):
            logits = self.decoder.logits(state)[0]
        row.take(logits)
        self._reading = None
        self._writing.append(row)
        self._free_ended()

    def _write(self) -> None:
        """The next token of each row whose states somebody reads still."""
        for row in self._writing:
            try:
                self.decoder.beside.require(row.prompt)
            except UsageError as error:
                row.error = error
        self._free_ended()
        rows = list(self._writing)
        if not rows:
            return
        try:
            logits = self._next(rows)
        except Exception as error:
            for row in rows:
                row.error = error
        else:
            for row, scores in zip(rows, logits, strict=True):
                self._take(row, scores)
        self._free_ended()

    def _next(self, rows: list[Row]) -> Tensor:
        """[B, V] logits after the last token of each row."""
        decoder, cache = self.decoder, self._cache
        assert cache is not None
        for slot, row in enumerate(rows):
            cache.cut(slot, row.held)  # an interrupted pass may have left something
        cache.at(0, len(rows))
        held = [row.held for row in rows]
        embeds = decoder.embed(torch.tensor([[row.written[-1]] for row in rows]))
        positions = torch.tensor([[row.position] for row in rows], device=decoder.device)
        with (
            decoder.adapters.use_rows([row.lora for row in rows]),
            decoder.beside.reading([row.prompt for row in rows], decoder.device),
            one_row_products(embeds),
        ):
            mask = decoder.ragged_mask(held) if len(set(held)) > 1 else None
            return decoder.logits(decoder.hidden(embeds, mask, positions, cache)[:, -1])

    @staticmethod
    def _take(row: Row, logits: Tensor) -> None:
        """What goes wrong with one row alone stops that row alone."""
        try:
            row.take(logits)
        except Exception as error:
            row.error = error

    def _stop_reading(self) -> Row:
        assert self._reading is not None
        assert self._cache is not None
        row, self._reading = self._reading[0], None
        self._cache.cut(len(self._writing), 0)
        return row

    def _free_ended(self) -> None:
        """Free the slots of rows that ended; the last row moves into each hole, and the one being read behind it."""
        for slot in reversed([i for i, row in enumerate(self._writing) if row.ended]):
            assert self._cache is not None
            last = len(self._writing) - 1
            self._cache.cut(slot, 0)
            if slot != last:
                self._cache.move(last, slot)
                self._writing[slot] = self._writing[last]
            self._writing.pop()
            if self._reading is not None:
                self._cache.move(last + 1, last)

    def _release(self) -> None:
        """With the last row the buffers go too."""
        if not self.rows:
            self._cache = None
            self.decoder.beside.release()
