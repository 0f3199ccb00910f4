"""A recipe from YAML to weights that load, at small size; the same command again changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from preread.core.config import build
from preread.core.errors import FingerprintMismatch, IntegrityError, UnreadableDocument, UsageError
from preread.core.types import text_hash
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.reader import Reader
from preread.methods.lloco.compressor import Compressor
from preread.methods.lloco.method import Lloco
from preread.models.loading import load
from preread.recipes import Recipe, estimate, install, run, running
from preread.recipes.recipe import phases

VALUES = {
    "method": "lloco",
    "stage": "compress",
    "model": "tiny",
    "settings": {"fresh": True, "shape": {"max_summary": 16, "lora": {"rank": 2, "dropout": 0.0}}},
    "objective": {"segments": "mixed", "segment_tokens": [10, 20], "ratios": [2.0, 6.0]},
    "data": ["texts.jsonl"],
    "window": 60,
    "rows": 2,
    "training": {"steps": 6, "learning_rate": 0.003, "save_every": 2},
}


@pytest.fixture
def data(tmp_path, monkeypatch, tiny_decoder):
    decoder = tiny_decoder("llama")
    monkeypatch.setattr("preread.recipes.running.load", lambda name: decoder if name == "tiny" else load(name))
    monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))
    lines = [json.dumps({"text": f"On day {i} the storm met the keeper and the lamp burned. " * 8}) for i in range(5)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_a_recipe_gives_weights_that_load_and_again_changes_nothing(data, tiny_decoder):
    recipe = build(Recipe, VALUES)
    first = run(recipe, data, data / "out")
    manifest = data / "out" / "trained" / "manifest.json"
    record = json.loads(manifest.read_text())
    assert first.finished
    assert record["trained"]["tokens"] == 6 * 2 * 60 == record["training"]["tokens"]
    assert record["trained"]["segments"] == 6
    texts = [json.loads(line)["text"] for line in (data / "texts.jsonl").read_text().splitlines()]
    assert record["training"]["documents"] == sorted(map(text_hash, texts))
    assert set(record["training"]["losses"]) == {"lm", "distil", "reconstruct"}
    compressor = Compressor.load(manifest.parent, tiny_decoder("llama"))
    again = run(recipe, data, data / "out")
    assert again.losses == first.losses
    assert Compressor.load(manifest.parent, tiny_decoder("llama")).hash == compressor.hash
    assert json.loads(manifest.read_text())["training"]["losses"] == record["training"]["losses"]


PHASES = [
    {"objective": {"lm": 0.0, "distil": 0.0}, "training": {"steps": 2}, "rows": 3},
    {"objective": {"reconstruct": 0.0, "general": 0.5, "distractors": 1}, "window": 50},
]


def test_a_curriculum_is_one_run_after_another(data, tiny_decoder):
    """The phases of one recipe, against the same runs one by one, each from the weights of the one before."""
    whole = build(Recipe, {**VALUES, "phases": PHASES})
    outcome = run(whole, data, data / "whole")
    assert (outcome.step, outcome.finished) == (8, True)
    assert set(outcome.losses) == {"lm", "distil", "general"}
    record = json.loads((data / "whole" / "trained" / "manifest.json").read_text())
    assert record["trained"]["tokens"] == 2 * 3 * 60 + 6 * 2 * 50
    assert len(record["training"]["recipe"]["phases"]) == 2

    first = {**VALUES, "rows": 3, "objective": {**VALUES["objective"], "lm": 0.0, "distil": 0.0}}
    run(build(Recipe, {**first, "training": {**VALUES["training"], "steps": 2}}), data, data / "first")
    _, second = phases(whole)
    assert second.data_seed == whole.data_seed + 1
    start = {"fresh": False, "compressor": str(data / "first" / "trained")}
    run(replace(second, settings=start), data, data / "second")
    a, b = (Compressor.load(data / f / "trained", tiny_decoder("llama")) for f in ("whole", "second"))
    assert a.hash == b.hash


@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_curriculum_stopped_in_any_phase_ends_with_the_same_weights(data, tiny_decoder, stop_after, monkeypatch):
    whole = build(Recipe, {**VALUES, "phases": PHASES})
    run(whole, data, data / "whole")
    stopped = 0
    real = running.train

    def stopping(*args):
        nonlocal stopped
        stopped += 1
        asked = replace(args[2], minutes=0.0 if stopped - 1 == stop_after else None)
        return real(*args[:2], asked, *args[3:])

    monkeypatch.setattr(running, "train", stopping)
    assert not run(whole, data, data / "halves").finished
    assert stopped == stop_after + 1
    assert not (data / "halves" / "trained").exists()
    monkeypatch.setattr(running, "train", real)
    assert run(whole, data, data / "halves").finished
    a, b = (Compressor.load(data / f / "trained", tiny_decoder("llama")) for f in ("whole", "halves"))
    assert a.hash == b.hash


def test_held_out_text_is_judged_and_changes_nothing_that_is_trained(data, tiny_decoder):
    (data / "other.jsonl").write_text(json.dumps({"text": "The tide came in and the boats went out. " * 20}))
    plain, judged = build(Recipe, VALUES), build(Recipe, {**VALUES, "held_out": ["other.jsonl"], "held_out_batches": 3})
    for name, recipe in (("plain", plain), ("judged", judged)):
        run(recipe, data, data / name)
    records = {n: json.loads((data / n / "trained" / "manifest.json").read_text()) for n in ("plain", "judged")}
    assert records["plain"]["weights"] == records["judged"]["weights"]
    assert records["plain"]["training"]["held_out"] == {}
    held_out = records["judged"]["training"]["held_out"]
    assert set(held_out) == {"lm", "distil", "reconstruct"}
    assert all(value > 0 for value in held_out.values())
    assert text_hash("The tide came in and the boats went out. " * 20) not in records["judged"]["training"]["documents"]


def test_tokens_are_kept_for_the_next_run_and_damage_costs_time_alone(data, monkeypatch):
    kept = data / "home" / "cache" / "corpora"
    whole = build(Recipe, VALUES)
    run(whole, data, data / "one")
    (shard,) = kept.iterdir()
    with monkeypatch.context() as context:
        context.setattr("preread.data.corpora.Corpus._tokenised", lambda *_: pytest.fail("tokenised again"))
        run(whole, data, data / "two")
    shard.write_bytes(shard.read_bytes()[:-40])
    run(whole, data, data / "three")
    raw = bytearray(shard.read_bytes())
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 8] |= 1  # zip's flag of an encrypted file
    shard.write_bytes(raw)
    run(whole, data, data / "four")
    runs = ("one", "two", "three", "four")
    records = [json.loads((data / n / "trained" / "manifest.json").read_text()) for n in runs]
    assert len({record["weights"] for record in records}) == 1


def test_a_curriculum_is_estimated_as_a_whole(data):
    cost = estimate(build(Recipe, {**VALUES, "phases": PHASES}), data)
    assert (cost.steps, cost.tokens) == (8, 2 * 3 * 60 + 6 * 2 * 50)


def test_a_stopped_recipe_ends_with_the_same_weights(data, tiny_decoder):
    whole = build(Recipe, VALUES)
    run(whole, data, data / "whole")
    stopped = build(Recipe, VALUES, ["training.minutes=0"])
    assert not run(stopped, data, data / "halves").finished
    assert not (data / "halves" / "trained").exists()
    run(whole, data, data / "halves")
    a, b = (Compressor.load(data / f / "trained", tiny_decoder("llama")) for f in ("whole", "halves"))
    assert a.hash == b.hash


@pytest.mark.parametrize("change", ["window=50", "data_seed=1", "objective.lm=0.5", "settings.shape.lora.rank=1"])
def test_a_run_goes_on_as_it_began_or_not_at_all(data, change):
    """A step is a function of its number only as long as all that it is made of stays."""
    run(build(Recipe, VALUES, ["training.steps=6", "training.minutes=0"]), data, data / "out")
    with pytest.raises(UsageError, match="recipe"):
        run(build(Recipe, VALUES, [change]), data, data / "out")
    assert run(build(Recipe, VALUES, ["training.save_every=1"]), data, data / "out").finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method=magic", "a method"),
        ("stage=magic", "stage compress or adapter"),
        ("objective.magic=1", "magic"),
        ("window=5000", "a document of at least 5000 tokens"),
        ("settings.ratio=0", "a ratio"),
        ("data=[]", "a file in `data`"),
        ("rows=0", "`rows` of at least 1"),
        ("window=19", "a window of two segments at least, 20 tokens"),
        ("phases=[{window: 3}]", "a window of two segments"),
        ("objective.segment_tokens=[20,10]", "segment_tokens as a smallest"),
        ("objective.ratios=[0.5,2.0]", "ratios as a smallest of at least 1"),
        ("objective.distractors=-1", "distractors of at least 0"),
        ("held_out=[texts.jsonl]", "5 that are in both"),
        ("settings.ratoi=4", "Did you mean ratio"),
    ],
)
def test_mistakes_are_named(data, change, message):
    with pytest.raises(UsageError) as caught:
        run(build(Recipe, VALUES, [change]), data, data / "out")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("values", "change", "message"),
    [
        ("lloco", "phases=[{}, {stage: magic}]", "magic"),
        ("lloco", "phases=[{}, {objective: {magic: 1}}]", "magic"),
        ("lloco", "phases=[{}, {window: 19}]", "two segments"),
        ("lloco", "phases=[{}, {rows: 1, objective: {distractors: 1}}]", "two documents"),
        ("cepe", "phases=[{}, {window: 20}]", "below the window of 20"),
        ("cepe", "phases=[{}, {stage: distil, rows: 1, objective: {near: 9, strange: 0.1}}]", "`rows` of 2"),
    ],
)
def test_a_senseless_phase_is_told_before_anything_is_read_or_trained(data, values, change, message):
    (data / "texts.jsonl").unlink()
    with pytest.raises(UsageError, match=message):
        run(build(Recipe, {"lloco": VALUES, "cepe": READER}[values], [change]), data, data / "out")
    assert not (data / "out").exists()


@pytest.mark.parametrize("line", ["5", '{"title": "no text"}', "not json"])
def test_records_without_text_are_named(data, line):
    (data / "texts.jsonl").write_text(line)
    with pytest.raises(UnreadableDocument, match=r"texts\.jsonl"):
        run(build(Recipe, VALUES), data, data / "out")


@pytest.fixture(params=["qwen2", "gemma"])
def other(request, tiny_decoder, tmp_path):
    """A folder with a decoder of another architecture."""
    decoder = tiny_decoder(request.param, seed=3)
    decoder.model.save_pretrained(tmp_path / request.param)
    decoder.tokenizer.save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def test_a_compressor_for_another_model_is_found_by_that_model(data, other):
    recipe = build(Recipe, VALUES, [f"model={other}"])
    assert run(recipe, data, data / "out").finished
    decoder, elsewhere = load(str(other)), load(str(other), dtype="float32")
    with Lloco().attach(decoder) as handle:
        assert handle.compressor.trained.tokens == 0, "nothing is installed yet"
    where = install(data / "out", "my-own")
    for chosen in (Lloco(), Lloco(compressor=Path("my-own")), Lloco(compressor=where)):
        with chosen.attach(decoder) as handle:
            assert handle.compressor.hash == json.loads((where / "manifest.json").read_text())["weights"]
    with Lloco().attach(elsewhere) as handle:
        assert handle.compressor.trained.tokens == 0, "other weights are another decoder"
    with pytest.raises(FingerprintMismatch):
        Lloco(compressor=Path("my-own")).attach(elsewhere)


def test_the_newest_of_ones_own_is_taken(data):
    for name, rate in (("first", 0.003), ("second", 0.001), ("first", 0.002)):
        folder = data / f"{name}-{rate}"
        run(build(Recipe, VALUES, [f"training.learning_rate={rate}"]), data, folder)
        install(folder, name)
    newest = json.loads((data / "home" / "compressors" / "first" / "manifest.json").read_text())
    assert newest["training"]["recipe"]["training"]["learning_rate"] == 0.002
    os.utime(data / "home" / "compressors" / "first" / "manifest.json")
    with Lloco().attach(running.load("tiny")) as handle:
        assert handle.compressor.hash == newest["weights"]


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", ""])
def test_only_what_is_finished_is_installed_and_only_by_a_plain_name(data, name):
    with pytest.raises(UsageError, match="finished run"):
        install(data / "nothing", "good")
    run(build(Recipe, VALUES), data, data / "out")
    with pytest.raises(UsageError, match="plain name"):
        install(data / "out", name)


READER = {
    "method": "cepe",
    "stage": "lm",
    "model": "tiny",
    "settings": {"fresh": True, "shape": {"encoder": {"layers": 1, "chunk": 16}}},
    "data": ["texts.jsonl"],
    "window": 60,
    "objective": {"near": 20, "hidden": 0.0},
    "training": {"steps": 3, "learning_rate": 0.003, "save_every": 2},
    "phases": [
        {"objective": {"trains": ["gates"]}, "training": {"learning_rate": 0.1}},
        {"window": 100},
        {"stage": "recall", "objective": {"near": 20, "asked": 1}, "window": 300},
    ],
}


class KilledError(Exception):
    """Ends a run in the middle of a step."""


def _deaths(monkeypatch, every):
    """From here on a run dies with each batch of such a number; a turn for each of its lives."""
    drawn, calls = running._batch, count(1)

    def batch(*what):
        if next(calls) % every == 0:
            raise KilledError
        return drawn(*what)

    monkeypatch.setattr(running, "_batch", batch)
    return range(20)


def test_a_reader_is_trained_by_stages_and_found_by_the_decoder(data, tiny_decoder, monkeypatch):
    """Killed again and again, in each of its phases, and gone on with, it gives the same bits."""
    (data / "texts.jsonl").write_text(json.dumps({"text": "The keeper lit the lamp, and the storm came. " * 60}))
    recipe = build(Recipe, READER)
    assert [(phase.stage, phase.objective.get("hidden")) for phase in phases(recipe)] == [
        ("lm", 0.0),
        ("lm", 0.0),
        ("recall", None),
    ]
    whole = run(recipe, data, data / "out")
    assert whole.finished
    manifest = json.loads((data / "out" / "trained" / "manifest.json").read_text())
    assert set(manifest["training"]["losses"]) == {"pairs", "verbatim", "lm"}
    # Each stage trained in its own way: gates of zero would leave all else as it began.
    trained = Reader.load(data / "out" / "trained", tiny_decoder("llama"))
    assert all(module.gate.abs().max() > 0 for module in trained.crossings.modules_by_layer.values())
    assert any(b.abs().max() > 0 for b in trained.encoder.lora.b.values())
    for _ in _deaths(monkeypatch, every=3):
        try:
            run(recipe, data, data / "parts")
            break
        except KilledError:
            assert not (data / "parts" / "trained").exists()
    assert Reader.load(data / "parts" / "trained", tiny_decoder("llama")).hash == trained.hash
    install(data / "out", "mine")
    with Cepe().attach(tiny_decoder("llama")) as handle:
        assert handle.reader.hash == trained.hash


def test_a_damaged_compressor_of_ones_own_is_named(data):
    run(build(Recipe, VALUES), data, data / "out")
    where = install(data / "out", "mine")
    (where / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError, match="mine"):
        Lloco().attach(running.load("tiny"))


def test_an_estimate_is_what_the_run_then_is(data):
    """Counted and measured against the run itself; the pace within a wide factor, for machines are shared."""
    recipe = build(Recipe, VALUES, ["training.steps=12", "training.accumulation=2"])
    guess = estimate(recipe, data)
    done = run(recipe, data, data / "out")
    record = json.loads((data / "out" / "trained" / "manifest.json").read_text())
    compressor = Compressor.load(data / "out" / "trained", running.load("tiny"))
    assert guess.steps == 12
    assert guess.tokens == record["training"]["tokens"] == 12 * 2 * 2 * 60
    assert guess.parameters == sum(p.numel() for p in compressor.parameters())
    written = (data / "out" / "checkpoint.safetensors").stat().st_size
    assert guess.checkpoint_bytes == pytest.approx(written, abs=1024)  # the run's header holds its recipe
    assert done.seconds / 10 < guess.seconds < done.seconds * 10
    assert guess.peak_bytes > 10 * guess.parameters
    assert f"{guess.tokens:,} tokens" in guess.line


def test_counted_operations_are_those_of_the_equations(data, tiny_decoder):
    """Language modelling alone behind independent segments of one length: 2 operations a weight and token forward, and
    in the backward pass the same again for what flows to the inputs, and for the LoRA and the summary tokens."""
    settings = {"lm": 1.0, "distil": 0.0, "reconstruct": 0.0, "segments": "independent"}
    recipe = build(Recipe, {**VALUES, "objective": {**settings, "segment_tokens": [30, 30], "ratios": [6.0, 6.0]}})
    model = tiny_decoder("llama").model
    layers = sum(p.numel() for name, p in model.named_parameters() if "proj" in name)
    head = model.get_output_embeddings().weight.numel()
    compressed, predicted, read = 2 * 2 * (30 + 5 + 1), 2 * 30, 2 * (5 + 30 + 1)
    products = 2 * 2 * layers * (compressed + read) + 3 * 2 * head * predicted  # the head's forward is taken twice
    assert estimate(recipe, data).flops / recipe.training.steps == pytest.approx(products, rel=0.25)


def test_batches_that_a_stage_cannot_read_are_refused(data):
    with pytest.raises(UsageError, match="batches of windows"):
        run(build(Recipe, {**VALUES, "batches": "packed"}), data, data / "out")
