"""What cross-attention over stored states gains on full attention: time, memory, and the most that it could.

Both read the same tokens with the same kernels, by turns, on the same device.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from preread.bench.cepe_limits import Setting, limits, sizes
from preread.core.errors import ResourceError, UsageError
from preread.core.progress import progress
from preread.core.provenance import device
from preread.core.types import TextBatch
from preread.methods.cepe.method import Cepe, CepeHandle
from preread.nn.activations import Levers
from preread.nn.beside import Context
from preread.nn.cache import SlotCache
from preread.nn.cpu import fold_heads, one_row_products
from preread.nn.hf import Decoder
from preread.training.optimizers import optimizer
from preread.training.peak import Peak

RECORD = "cepe.json"
SETTINGS = {
    "8k": Setting(28, 1024),
    "8k stored": Setting(32, 64),
    "32k": Setting(112, 4096),
    "128k": Setting(496, 4096),
    "training": Setting(16, 4096),
}
"""Of the paper, save the first two: of the default decoder's window, and a question behind 8,192 stored tokens."""
TRIAL = Setting(4, 64, 32)
"""For a shape that is only there to try the command."""
ROWS = ("forward", "stored", "question", "decode", "train")
TOKENS = 8
"""Written by one of the two before the other's turn."""


@dataclass(frozen=True)
class Taken:
    """A row of the table.

    Args:
        row: its name.
        ours: seconds, each beside that of `full` with the same number; for `decode`, of a token.
        full: seconds of full attention; none where its memory ran out, or where there is nothing to compare.
        limit: how many times the FLOPs of `ours` full attention needs, for `decode` the bytes; past it goes only what
            one side's kernels do worse, or what stays in a processor's cache.
        peak: bytes, weights included.
        peak_full: the same of full attention.
        device: on which.
        load: processes that ran meanwhile, this one among them (the system's load average).
    """

    row: str
    ours: list[float]
    full: list[float] = field(default_factory=list)
    limit: float = 0.0
    peak: int = 0
    peak_full: int = 0
    device: str = field(default_factory=device)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as full attention."""
        return [full / ours for full, ours in zip(self.full, self.ours, strict=False)]


def take(decoder: Decoder, method: Cepe, setting: Setting, row: str, repeats: int, seed: int) -> Taken:
    """One row.

    Args:
        decoder: who reads.
        method: whose reader stands beside.
        setting: how much text.
        row: of `ROWS`.
        repeats: pairs of timings.
        seed: of the tokens.
    """
    fold_heads(decoder)
    method = replace(method, levers=Levers("full")) if row == "train" else method
    with method.attach(decoder) as handle:
        bench = _Bench(decoder, handle, setting, seed)
        if row == "train":
            return bench.train(repeats)
        most = limits(sizes(decoder, handle.reader), setting)[row]
        return replace(bench.decode(repeats) if row == "decode" else bench.read(row, repeats), limit=most)


class _Bench:
    """A decoder with its reader, and text for both."""

    def __init__(self, decoder: Decoder, handle: CepeHandle, setting: Setting, seed: int) -> None:
        self.decoder, self.handle, self.reader, self.setting = decoder, handle, handle.reader, setting
        count = setting.chunks * self.reader.encoder.chunk
        draw = torch.Generator().manual_seed(seed)
        rows = decoder.model.get_input_embeddings().num_embeddings
        self.ids = torch.randint(rows, (count + max(setting.near, setting.question),), generator=draw)
        self.count = count
        own = torch.Generator(decoder.device).manual_seed(seed)
        self.states = torch.randn(count, self.reader.encoder.width, generator=own, device=decoder.device)
        self.states = self.states.to(decoder.dtype)

    def read(self, row: str, repeats: int) -> Taken:
        """Seconds until the logits of the last token: of all text, of what is behind its states, of a question."""
        own = self.setting.question if row == "question" else self.setting.near
        far, near = self.ids[: self.count], self.ids[self.count : self.count + own]

        def ours() -> None:
            states = self.states
            if row == "forward":
                states = self.reader.joined(self.reader.encoder(torch.split(far, self.reader.encoder.chunk)))
            with self.decoder.beside.use({self.reader.crossings.name: Context(states[None])}):
                self._last(near)

        def full() -> None:
            self._last(torch.cat([far, near]))

        self._last(near[:TOKENS])  # for warmth
        taken = Taken(row, [])
        for _ in range(repeats):
            (seconds, peak), read = _timed(ours), _timed(full)
            assert seconds is not None, "what is measured fits where it is measured"
            taken.ours.append(seconds)
            taken = replace(taken, peak=max(taken.peak, peak))
            if read[0] is not None:
                taken.full.append(read[0])
                taken = replace(taken, peak_full=max(taken.peak_full, read[1]))
        weights, added = _bytes(self.decoder.model), _bytes(self.reader)
        whole = weights + taken.peak_full if taken.full else 0
        return replace(taken, peak=weights + added + taken.peak, peak_full=whole)

    def decode(self, repeats: int) -> Taken:
        """Seconds of a token behind the near text, with the states beside it or with the whole text in the cache."""
        name, near = self.reader.crossings.name, self.setting.near
        taken = Taken("decode", [])
        sides = [(self._filled(near, repeats), {name: Context(self.states[None])}, taken.ours)]
        with suppress(ResourceError):  # a device may have room for our keys and values, and not for those of all text
            sides.append((self._filled(self.count + near, repeats), {}, taken.full))
        for repeat in range(repeats + 1):
            for cache, beside, times in sides:
                with self.decoder.beside.use(beside):
                    seconds, _ = _timed(partial(self._write, cache), count=False)
                if repeat and seconds is not None:  # the first is for warmth
                    times.append(seconds / TOKENS)
        return taken

    def train(self, repeats: int) -> Taken:
        """A step of stage `lm` over one row, the decoder frozen and every layer computed twice; AdamW."""
        objective = self.handle.objective("lm", near=self.setting.near, hidden=0.0)
        adamw = optimizer("adamw", objective.parameters(), 1e-5, (0.9, 0.95), 0.0)
        batch = TextBatch(self.ids[None, : self.count + self.setting.near], 0)

        def step() -> None:
            with torch.enable_grad():
                objective(batch)["lm"].backward()
            adamw.step()
            adamw.zero_grad()

        step()  # the moments are there from now on
        moments = sum(value.nbytes for state in adamw.state.values() for value in state.values())
        timed = [_timed(step) for _ in range(repeats)]
        peak = _bytes(self.decoder.model) + _bytes(self.reader) + moments + max(highest for _, highest in timed)
        return Taken("train", [seconds for seconds, _ in timed if seconds is not None], peak=peak)

    @torch.inference_mode()
    def _last(self, ids: Tensor) -> None:
        with self.decoder.adapters.use(None):
            self.decoder.logits(self.decoder.hidden(self.decoder.embed(ids)[None])[:, -1])

    def _filled(self, held: int, repeats: int) -> SlotCache:
        """A cache with room, as if it had read so much: what keys and values say costs nothing."""
        cache = self.decoder.cache(held + (repeats + 1) * TOKENS)
        _, kv_heads, width = self.decoder.kv_shape
        for layer in cache.layers:
            layer.make(kv_heads, width, width)
            for buffer in layer.buffers:
                buffer.normal_()
        cache.slots.lengths[0] = held
        return cache

    @torch.inference_mode()
    def _write(self, cache: SlotCache) -> None:
        """Some tokens, one after the other, as the engine writes them."""
        with self.decoder.adapters.use(None):
            for token in self.ids[:TOKENS]:
                embeds = self.decoder.embed(token[None])[None]
                with one_row_products(embeds):
                    self.decoder.logits(self.decoder.hidden(embeds, cache=cache)[:, -1])


def bench(
    decoder: Decoder, method: Cepe, shape: str, names: list[str], rows: list[str], work: Path, repeats: int, seed: int
) -> dict[str, Taken]:
    """The table, by `setting, row`; what the folder has already is not taken again.

    Raises:
        UsageError: an unknown setting or row, or the folder holds the table of another shape or device.
    """
    _refuse_unknown("setting", names, [*SETTINGS, "trial"])
    _refuse_unknown("row", rows, ROWS)
    kept = work / RECORD
    work.mkdir(parents=True, exist_ok=True)
    with method.attach(decoder) as handle:  # its shape is that of the weights, where there are some
        reader = json.loads(json.dumps(asdict(handle.reader.config)))
    about = {"shape": shape, "reader": reader, "seed": seed, "device": device()}
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {"about": about, "rows": {}}
    if found["about"] != about:
        raise UsageError(
            f"the table of {about} in {work}", str(found["about"]), "Nothing was measured.", "Choose another --work."
        )
    with progress("measuring", len(names) * len(rows)) as advance:
        for name, row in product(names, rows):
            if (key := f"{name}, {row}") not in found["rows"]:
                setting = TRIAL if name == "trial" else SETTINGS[name]
                found["rows"][key] = asdict(take(decoder, method, setting, row, repeats, seed))
                half = kept.with_suffix(".part")  # whoever is killed here loses the row, not the table
                half.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                half.replace(kept)
            advance(1, key)
    return {key: Taken(**row) for key, row in found["rows"].items()}


def _timed(run: Callable[[], None], count: bool = True) -> tuple[float | None, int]:
    """Seconds, None where a GPU's memory ran out; and bytes at the highest point above what there was before.

    On a CPU tensors are counted, operation by operation, which short operations would feel.
    """
    gpu = torch.cuda.is_available()
    peak = Peak()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    before = torch.cuda.memory_allocated() if gpu else 0
    start = time.perf_counter()
    try:
        with peak if count and not gpu else nullcontext():
            run()
        if gpu:
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return None, 0
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before if gpu else peak.highest


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _refuse_unknown(what: str, given: Sequence[str], known: Iterable[str]) -> None:
    if unknown := [name for name in given if name not in (names := list(known))]:
        raise UsageError(
            f"a {what} out of {', '.join(names)}", ", ".join(unknown), "Nothing was measured.", "Correct it."
        )
