"""What it costs that rows of one batch have different adapters, and that the next batch has another one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from preread.bench.figures import Figure
from preread.bench.measure import endless
from preread.core.progress import Advance
from preread.core.types import Prompt, Sampling
from preread.engines.local import LocalEngine
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig

ROWS, ADAPTERS, RANK = 8, 4, 8
PROMPT_TOKENS, NEW_TOKENS, SWITCHES = 32, 32, 200
COMMAND = "preread bench engine"


@dataclass(frozen=True, slots=True)
class Costs:
    """Measurements by repeat; the n-th of `one` and `mixed` were taken one after the other.

    Args:
        one: seconds of the batch whose rows have one adapter.
        mixed: seconds of the same batch with `ADAPTERS` adapters.
        switch: seconds to go over to another adapter that was in use before.
        first: seconds that the first step of a set of adapters takes longer than its next, to join their matrices.
    """

    one: list[float] = field(default_factory=list)
    mixed: list[float] = field(default_factory=list)
    switch: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> list[float]:
        """How many times as long the mixed batch takes."""
        return [mixed / one for mixed, one in zip(self.mixed, self.one, strict=True)]


def measure(decoder: Decoder, seed: int, repeats: int, progress: Advance) -> Costs:
    """The same prompts under one adapter and under several, by turns, and switches in between.

    Args:
        decoder: random adapters are attached while it is measured.
        seed: of prompts and adapters.
        repeats: how often each is measured.
        progress: told of each repeat.
    """
    draw, costs = torch.Generator().manual_seed(seed), Costs()
    texts = [torch.randint(len(decoder.tokenizer), (PROMPT_TOKENS,), generator=draw) for _ in range(ROWS)]
    engine = LocalEngine(endless(decoder), rows_at_once=ROWS, prefix_bytes=0)
    with _attached(engine.decoder, seed) as names:
        one = [Prompt(ids, adapter=names[0]) for ids in texts]
        mixed = [Prompt(ids, adapter=names[i % ADAPTERS]) for i, ids in enumerate(texts)]
        for prompts in (one, mixed):
            _seconds(engine, prompts)
        for _ in range(repeats):
            costs.one.append(_seconds(engine, one))
            costs.mixed.append(_seconds(engine, mixed))
            costs.switch.append(_switch(engine.decoder, names[:2]))
            costs.first.append(_first(engine.decoder, seed))
            progress(1)
    return costs


def engine_figures(decoder: Decoder, seed: int = 0, repeats: int = 5, progress: Advance | None = None) -> list[Figure]:
    """The cost of mixed adapters and of a switch; about a minute. `progress` is told of each of the `repeats`."""
    costs = measure(decoder, seed, repeats, progress or (lambda *_, **__: None))
    recipe = (
        f"rows={ROWS} adapters={ADAPTERS} rank={RANK} on q,k,v,o prompt_tokens={PROMPT_TOKENS} "
        f"new_tokens={NEW_TOKENS} switches={SWITCHES} seed={seed} repeats={repeats}"
    )
    command = f"{COMMAND} --seed {seed} --repeats {repeats}"
    weights = f", {decoder.note}" if decoder.note else ""
    base = f"{decoder.name} in {str(decoder.dtype).removeprefix('torch.')}{weights}; random ids and adapters; "
    mixed = base + "reading and writing of the whole batch; median, least and greatest ratio of neighbouring runs"
    switch = base + (
        "to an adapter that was in use before, for 8 rows; each repeat is the median of its switches. A set of "
        f"{ADAPTERS} adapters that never wrote together joins its matrices once, in {1e3 * median(costs.first):.1f} ms"
    )
    milliseconds = [1e3 * seconds for seconds in costs.switch]
    return [
        Figure.of("engine.mixed_adapter_cost", costs.ratio, "x", recipe, command, mixed),
        Figure.of("engine.adapter_switch_ms", milliseconds, "ms", recipe, command, switch),
    ]


@contextmanager
def _attached(decoder: Decoder, seed: int) -> Iterator[list[str]]:
    """Random adapters under names that nobody has, for as long as the block lasts."""
    names = [f"bench-engine-{i}" for i in range(ADAPTERS)]
    for i, name in enumerate(names):
        decoder.adapters.add(name, _random(decoder, seed + i))
    try:
        yield names
    finally:
        for name in names:
            decoder.adapters.remove(name)


def _random(decoder: Decoder, seed: int) -> Lora:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lora = Lora(LoraConfig(rank=RANK, dropout=0.0), decoder.projections).eval()
        for b in lora.b.values():
            torch.nn.init.normal_(b, std=0.01)
    return lora.requires_grad_(False)


def _seconds(engine: LocalEngine, prompts: Sequence[Prompt]) -> float:
    start = time.perf_counter()
    written = engine.complete(prompts, Sampling(max_tokens=NEW_TOKENS))
    assert all(event.tokens == NEW_TOKENS for event in written), "an endless decoder writes to the limit"
    return time.perf_counter() - start


def _switch(decoder: Decoder, names: Sequence[str]) -> float:
    """Median seconds to enter and leave another adapter's block."""
    rows = [[decoder.adapters[name]] * ROWS for name in names]
    taken = []
    for i in range(SWITCHES):
        start = time.perf_counter()
        with decoder.adapters.use_rows(rows[i % len(rows)]):
            pass
        taken.append(time.perf_counter() - start)
    return median(taken)


@torch.inference_mode()
def _first(decoder: Decoder, seed: int) -> float:
    """How much longer the first pass of a set of adapters takes than its second."""
    loras = [_random(decoder, seed + i) for i in range(ADAPTERS)]
    embeds, taken = decoder.embed(torch.zeros(ADAPTERS, 1, dtype=torch.int64)), []
    for _ in range(2):
        start = time.perf_counter()
        with decoder.adapters.use_rows(loras):
            decoder.hidden(embeds)
        taken.append(time.perf_counter() - start)
    return max(0.0, taken[0] - taken[1])
