"""Attention against what trains, when a window is extended: the ablations of LongLoRA (arXiv 2309.12307, section 4).

A small decoder with a short window is made from nothing, then extended by each arm of a grid on the same batches. All
arms are judged by the same tokens of books that none has seen, each behind a whole window, under full attention.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preread import recipes
from preread.bench.figures import Figure
from preread.bench.small_decoder import SmallConfig, small_decoder
from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.intervals import Interval, interval
from preread.core.progress import progress
from preread.core.provenance import commit, device
from preread.core.types import sha256
from preread.data.corpora import Corpus
from preread.methods.longlora.method import LongLora
from preread.models.loading import load
from preread.nn.hf import Decoder
from preread.nn.losses import answer_losses
from preread.recipes import TRAINED, Phase, Recipe

Losses = dict[str, list[float]]
"""Nats a token of each window, by document."""


@dataclass(frozen=True)
class Arm:
    """One way to extend the window.

    Args:
        settings: of the method, over the grid's.
        training: of the loop, over the recipe's.
        window: tokens of its training windows; None is the new window.
        phases: parts of its training that follow one another; none means one.
        lengths: new windows that it is tried at; none means all.
        trained: whether anything is trained, or positions only stretched.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    window: int | None = None
    phases: list[Phase] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    trained: bool = True


@dataclass(frozen=True)
class GridConfig:
    """What is extended, how, and how it is judged.

    Args:
        extend: recipe of every arm; its `model` and `window` are the grid's.
        arms: by name.
        reference: the arm that the others are compared with.
        figure: the arm whose gap to it is the published figure.
        held_out: file of documents that all are judged by.
        lengths: new windows.
        step_tokens: tokens of a step, whatever the window.
        windows: of each document, evenly over it.
        judged: tokens at the end of each window that count, as in the paper's sliding evaluation.
        small: the decoder.
    """

    extend: Recipe
    arms: dict[str, Arm]
    reference: str
    figure: str
    held_out: Path
    lengths: list[int] = field(default_factory=lambda: [1024])
    step_tokens: int = 4096
    windows: int = 24
    judged: int = 256
    small: SmallConfig = SmallConfig()

    def __post_init__(self) -> None:
        if missing := {self.reference, self.figure} - {*self.arms}:
            raise UsageError(
                expected=f"`reference` and `figure` among the arms ({', '.join(self.arms)})",
                got=", ".join(missing),
                consequence="Nothing was trained.",
                remedy="Correct the grid.",
            )


@dataclass(frozen=True)
class Judged:
    """An arm at one length.

    Args:
        arm: its name.
        length: the new window.
        losses: what it was judged by.
        parameters: numbers that trained.
    """

    arm: str
    length: int
    losses: Losses
    parameters: int

    @property
    def perplexity(self) -> float:
        """Over all windows of all documents."""
        return math.exp(float(np.mean([loss for each in self.losses.values() for loss in each])))


def run_grid(config: GridConfig, data: Path, folder: Path) -> list[Judged] | None:
    """Train and judge every arm; what an earlier call finished is kept.

    Args:
        config: the grid.
        data: folder of the texts.
        folder: of the decoder, of every arm's run, and of what was judged.

    Returns:
        None while `minutes` of a training did not suffice: the same call goes on.
    """
    base = small_decoder(config.small, data / config.extend.data[0], folder / "decoder")
    if base is None:
        return None
    model = f"{base}:float32"
    found = []
    for length in config.lengths:
        for name, arm in config.arms.items():
            if arm.lengths and length not in arm.lengths:
                continue
            judged = _arm(config, name, length, model, data, folder / f"{length}" / name.replace(" ", "-"))
            if judged is None:
                return None
            found.append(judged)
    return found


def gap(judged: Judged, reference: Judged) -> Interval:
    """By how many % an arm's perplexity is above another's, with its interval over documents."""
    pairs = {
        name: [(ours - theirs, 1.0) for ours, theirs in zip(losses, reference.losses[name], strict=True)]
        for name, losses in judged.losses.items()
    }
    value, low, high = (100 * math.expm1(end) for end in interval(pairs))
    return value, low, high


def grid_figure(config: GridConfig, found: list[Judged], recipe: str, command: str) -> Figure:
    """`longlora.small_grid_gap`: the worst of all lengths."""
    of = {(one.arm, one.length): one for one in found}
    gaps = {n: gap(of[config.figure, n], of[config.reference, n]) for n in config.lengths}
    length, (value, low, high) = max(gaps.items(), key=lambda pair: pair[1][0])
    each = ", ".join(f"{n} tokens {at[0]:+.2f} % ({at[1]:+.2f} to {at[2]:+.2f})" for n, at in gaps.items())
    note = (
        f"{config.figure} over {config.reference}; worst of: {each}. Window before: {config.small.window}. "
        f"Interval over {len(of[config.figure, length].losses)} held-out books"
    )
    n = sum(map(len, of[config.figure, length].losses.values()))
    return Figure("longlora.small_grid_gap", value, low, high, "%", n, recipe, command, note)


def record(config: GridConfig, found: list[Judged], command: str) -> dict[str, Any]:
    """Everything that was found, for a results file."""
    of = {(one.arm, one.length): one for one in found}
    rows = []
    for one in found:
        value, low, high = gap(one, of[config.reference, one.length])
        rows.append(
            {
                "arm": one.arm,
                "length": one.length,
                "perplexity": one.perplexity,
                "gap_percent": {"value": value, "low": low, "high": high},
                "parameters": one.parameters,
                "documents": {name: float(np.mean(losses)) for name, losses in one.losses.items()},
            }
        )
    return {
        "command": command,
        "commit": commit(),
        "device": device(),
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "reference": config.reference,
        "rows": rows,
    }


def _arm(config: GridConfig, name: str, length: int, model: str, data: Path, folder: Path) -> Judged | None:
    recipe = _recipe(config, config.arms[name], length, model)
    judged_by = config.held_out, config.windows, config.judged, config.small
    key = sha256(repr(replace(recipe, model="")), repr(judged_by))  # wherever the decoder's folder is
    kept = folder / "judged.json"
    if kept.exists() and (before := json.loads(kept.read_text(encoding="utf-8")))["key"] == key:
        return Judged(name, length, before["losses"], before["parameters"])
    if config.arms[name].trained and not recipes.run(recipe, data, folder).finished:
        return None
    weights = folder / TRAINED if config.arms[name].trained else None
    with _extended(recipe, weights) as (decoder, parameters):
        losses = _judge(decoder, config, length, data)
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"key": key, "losses": losses, "parameters": parameters}) + "\n", encoding="utf-8")
    return Judged(name, length, losses, parameters)


def _recipe(config: GridConfig, arm: Arm, length: int, model: str) -> Recipe:
    """An arm's run: as many tokens a step as every other's."""
    window = arm.window or length
    values = asdict(config.extend)
    return build(
        Recipe,
        {
            **values,
            "model": model,
            "settings": _over({**config.extend.settings, "length": length}, arm.settings),
            "training": {**values["training"], **arm.training},
            "window": window,
            "phases": [asdict(phase) for phase in arm.phases],
            "rows": max(1, config.step_tokens // window),
        },
    )


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those above in the place of those below."""
    both = dict(below)
    for key, value in above.items():
        both[key] = _over(both.get(key) or {}, value) if isinstance(value, Mapping) else value
    return both


@contextmanager
def _extended(recipe: Recipe, weights: Path | None) -> Iterator[tuple[Decoder, int]]:
    """The decoder as an arm left it, reading with full attention, and how many numbers trained."""
    with build(LongLora, {**recipe.settings, "weights": weights}).attach(load(recipe.model)) as handle:
        trained = handle.extension.parameters() if handle.extension else ()
        yield handle.decoder, sum(parameter.numel() for parameter in trained)


@torch.inference_mode()
def _judge(decoder: Decoder, config: GridConfig, length: int, data: Path) -> Losses:
    """Loss of the last tokens of windows that lie evenly over each held-out document."""
    corpus = Corpus.read([data / config.held_out], decoder.tokenizer)
    losses: Losses = {}
    with progress("judging", len(corpus.documents) * config.windows) as advance:
        for name, start, end in zip(corpus.documents, corpus.bounds, corpus.bounds[1:], strict=False):
            if end - start < length:
                wanted, given = f"held-out documents of at least {length} tokens", f"one of {end - start}: {name[:12]}"
                raise UsageError(wanted, given, "Nothing was judged.", "Hold out longer documents, or extend less.")
            for place in np.linspace(start, end - length, config.windows).astype(int):
                ids = torch.from_numpy(corpus.tokens[place : place + length].astype(np.int64))
                losses.setdefault(name[:12], []).append(_loss(decoder, ids, config.judged))
                advance()
    return losses


def _loss(decoder: Decoder, ids: Tensor, judged: int) -> float:
    states = decoder.hidden(decoder.embed(ids[None, :-1]))[0, -judged:]
    return float(answer_losses(decoder.logits, states, ids[-judged:].to(states.device))[0])
