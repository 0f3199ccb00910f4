"""The run of a recipe: its phases one after the other, resumed where it stopped, with a manifest at the end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from preread.core.config import build, dump
from preread.core.errors import UsageError
from preread.core.method import Handle, Objective
from preread.core.paths import cache_home, compressors_home, readers_home
from preread.core.progress import progress
from preread.core.provenance import commit, device
from preread.core.types import PackedBatch, TextBatch
from preread.data.corpora import Corpus
from preread.data.instructions import Instructions
from preread.methods import METHODS
from preread.models.loading import load
from preread.nn.hf import Decoder
from preread.recipes.recipe import Recipe, phases
from preread.training.estimate import Estimate
from preread.training.estimate import estimate as cost
from preread.training.loop import Batches, Outcome, TrainingConfig, train

Source = Corpus | Instructions
"""What batches are drawn from."""
TRAINED = "trained"
"""The folder of the result, in the run's."""
HOMES: Mapping[str, Callable[[], Path]] = {"lloco-compressor": compressors_home, "cepe-reader": readers_home}
"""Where methods look for what was trained, by the kind that its manifest says."""


def run(recipe: Recipe, data: Path, folder: Path) -> Outcome:
    """Run a recipe, or go on with it where it stopped; the result is in `folder` when it is finished.

    Args:
        recipe: what to do.
        data: folder that the recipe's files are relative to.
        folder: checkpoints and log while it runs, those of all phases but the last in folders of their own; the trained
            weights and their manifest at the end.

    Returns:
        What was done, steps of all phases together; the losses are those of the phase at hand.

    Raises:
        UsageError: an unknown method, as the method's own settings say, or the folder is another recipe's.
    """
    start, steps, seconds = time.perf_counter(), 0, 0.0
    # Before the decoder is loaded: each process of a launcher has a device of its own.
    processes = PartialState(cpu=not torch.cuda.is_available())
    with _prepared(recipe, data) as prepared:
        parts = list(phases(recipe))
        for number, phase in enumerate(parts, start=1):
            last = number == len(parts)
            where = folder if last else folder / f"phase-{number}"
            objective = prepared.objective(phase)
            if number > 1:
                objective.load(folder / f"phase-{number - 1}" / TRAINED)
            what = f"{phase.method} {phase.stage}" + (f", phase {number} of {len(parts)}" if recipe.phases else "")
            # What else decides the numbers than the loop's settings, and what does not change them left out.
            rest = dump(replace(phase, training=TrainingConfig(), held_out=[], held_out_batches=0))
            loop = replace(phase.training, minutes=_left(phase.training.minutes, start))
            outcome = train(objective, prepared.batches(phase), loop, where, what, rest)
            steps, seconds = steps + outcome.step, seconds + outcome.seconds
            if not outcome.finished:
                break
            held_out = prepared.held_out(phase, objective) if last else {}
            if processes.is_main_process:
                objective.save(where / TRAINED, provenance(recipe, phase, prepared.corpus, outcome, held_out))
            processes.wait_for_everyone()
    return replace(outcome, step=steps, seconds=seconds)


def estimate(recipe: Recipe, data: Path) -> Estimate:
    """What a recipe's run would cost on this machine, from a few of its steps; nothing is kept.

    Raises:
        UsageError: as `run`.
    """
    with _prepared(recipe, data) as prepared:
        costs = [
            cost(
                prepared.objective(phase),
                prepared.batches(phase),
                phase.training,
                phase.training.accumulation * phase.rows * phase.window,
            )
            for phase in phases(recipe)
        ]
    return reduce(Estimate.then, costs)


def expect_plain(name: str) -> None:
    """Refuse a name that is none of a folder, before hours of training.

    Raises:
        UsageError: it is none.
    """
    if Path(name).name != name or name[:1] in ("", "."):
        raise UsageError(
            expected="a plain name for what is trained",
            got=repr(name),
            consequence="Nothing was installed.",
            remedy="Choose one of letters, digits and dashes.",
        )


def install(folder: Path, name: str) -> Path:
    """Put what a finished run trained where its decoder finds it without being told.

    Args:
        folder: the run's.
        name: of the compressor or reader; one that had it is replaced.

    Returns:
        Its folder in the user's data directory.

    Raises:
        UsageError: the run is not finished, or the name is not one of a folder; or it trained something that no method
            looks for.
    """
    expect_plain(name)
    trained = folder / TRAINED
    if not (trained / "manifest.json").is_file():
        raise UsageError(
            expected="a finished run",
            got=f"{folder}",
            consequence="Nothing was installed.",
            remedy="Run it to its end.",
        )
    kind = str(json.loads((trained / "manifest.json").read_text(encoding="utf-8")).get("kind"))
    if kind not in HOMES:
        raise UsageError(
            expected=f"a run that trained what a method looks for by itself ({', '.join(HOMES)})",
            got=kind,
            consequence="Nothing was installed.",
            remedy="Name the folder where it is wanted.",
        )
    home = HOMES[kind]()
    target = home / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = home.with_suffix(".part")  # beside, where nobody looks for them
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(trained, part)
    shutil.rmtree(target, ignore_errors=True)
    return part.rename(target)


@dataclass(frozen=True)
class _Prepared:
    """What a recipe trains and on what, while its method is attached."""

    handle: Handle
    corpus: Source
    unseen: Source | None

    def objective(self, phase: Recipe) -> Objective:
        """What a phase minimises."""
        return _objective(self.handle, phase)

    def batches(self, phase: Recipe) -> Batches:
        """Windows by number of the micro-step."""
        return partial(_batch, self.corpus, phase)

    @torch.no_grad()
    def held_out(self, phase: Recipe, objective: Objective) -> dict[str, float]:
        """Mean of each loss term over batches of the held-out files; nothing where there are none."""
        if self.unseen is None:
            return {}
        objective.eval()
        sums: dict[str, float] = {}
        with progress("judging on held-out text", phase.held_out_batches) as advance:
            for number in range(phase.held_out_batches):
                for name, value in objective(_batch(self.unseen, phase, number)).items():
                    sums[name] = sums.get(name, 0.0) + float(value) / phase.held_out_batches
                advance()
        return sums


@contextmanager
def _prepared(recipe: Recipe, data: Path) -> Iterator[_Prepared]:
    if recipe.method not in METHODS:
        raise UsageError(
            expected=f"a method ({', '.join(METHODS)})",
            got=recipe.method,
            consequence="Nothing was trained.",
            remedy="Correct `method` in the recipe.",
        )
    method = build(METHODS[recipe.method], recipe.settings)
    decoder = load(recipe.model)
    torch.manual_seed(recipe.training.seed)
    handle: Handle
    with method.attach(decoder) as handle:
        with torch.random.fork_rng():  # senseless phases are told before texts are read and those before them trained
            for phase in phases(recipe):
                _objective(handle, phase).expect(phase.rows, phase.window)
        yield _Prepared(handle, *_sources(recipe, data, decoder))


def _objective(handle: Handle, phase: Recipe) -> Objective:
    """What a phase minimises."""
    try:
        made = handle.objective(phase.stage, **phase.objective)
    except TypeError as error:  # a keyword that the stage does not have
        raise UsageError(
            expected=f"settings of {phase.method}'s stage {phase.stage}",
            got=str(error),
            consequence="Nothing was trained.",
            remedy="Correct `objective` in the recipe.",
        ) from error
    if phase.batches not in made.batches:
        wanted = f"batches of {' or '.join(sorted(made.batches))} for {phase.method}'s stage {phase.stage}"
        raise UsageError(wanted, phase.batches, "Nothing was trained.", "Correct `batches` in the recipe.")
    return made


def _sources(recipe: Recipe, data: Path, decoder: Decoder) -> tuple[Source, Source | None]:
    """What is trained on, and what is held out of it."""
    corpus = _read(recipe.data, recipe, data, decoder)
    unseen = _read(recipe.held_out, recipe, data, decoder) if recipe.held_out else None
    if unseen and (seen := {*unseen.documents} & {*corpus.documents}):
        wanted, given = "documents in `held_out` that are not in `data`", f"{len(seen)} that are in both"
        raise UsageError(wanted, given, "Nothing was trained.", "Hold out other files.")
    return corpus, unseen


def _left(minutes: float | None, start: float) -> float | None:
    """Minutes of a call that are left since its start, if they are counted."""
    return None if minutes is None else max(0.0, minutes - (time.perf_counter() - start) / 60)


def _read(paths: list[Path], recipe: Recipe, data: Path, decoder: Decoder) -> Source:
    files = [data / path for path in paths]
    if recipe.batches == "instructions":
        return Instructions.read(files, decoder)
    kept = cache_home() / "corpora"
    return Corpus.read(files, decoder.tokenizer, recipe.max_characters, kept, decoder.fingerprint)


def _batch(source: Source, phase: Recipe, number: int) -> TextBatch | PackedBatch:
    """What the micro-step of a number reads."""
    seed = (phase.data_seed << 32) + number
    if phase.batches == "windows":
        assert isinstance(source, Corpus), "instructions are never read as windows"
        return TextBatch(source.windows(phase.rows, phase.window, seed), seed)
    return source.packed(phase.rows, phase.window, seed)


def provenance(
    recipe: Recipe, phase: Recipe, corpus: Source, outcome: Outcome, held_out: Mapping[str, float]
) -> Mapping[str, Any]:
    """What a manifest says of a run: recipe, data, losses, device, commit and day.

    All documents that the run could read are named, so that nothing it trained is judged on them. Tokens are those of
    the last phase: who saves adds those of the ones before it.
    """
    seen = outcome.step * phase.training.accumulation * phase.rows * phase.window
    return {
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        "window": phase.window,
        "tokens": seen,
        "documents": sorted(set(corpus.documents)),
        "corpus_tokens": corpus.size,
        "epochs": seen / corpus.size,
        "losses": outcome.losses,
        "held_out": dict(held_out),
        "device": device(),
        "commit": commit(),
        "date": date.today().isoformat(),
    }
