"""What is measured of gates is what it says: perplexity by document, and questions put to other collections' gates."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from dataclasses import asdict

import numpy as np
import pytest

from preread.bench import gate, gate_rates
from preread.bench.gate import GateConfig, Reading, change, gate_figures
from preread.bench.gate_rates import judged
from preread.core.errors import UnreadableDocument, UsageError
from preread.render import figures as shown
from preread.render import gate_rates as rates_shown

from ..conftest import WordCounts, story

QUICK = ("training.learning_rate=0.02", "lora.rank=4", "lora.dropout=0.0", "written=0.0", "general=0.0")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Small sets in the layout of the real ones."""

    def write(name, rows):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        opener = gzip.open if path.suffix == ".gz" else lzma.open
        with opener(path, "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"title": row["doc_id"], **row}) + "\n" for row in rows)

    asked = [{"question": f"What met the storm number {7 * i} on day {i}?", "answers": ["ship"]} for i in range(12)]
    ships = [{"doc_id": name, "text": story(name, 60), "questions": asked} for name in ("brig", "barque", "cutter")]
    write(gate.STUDIED, ships)
    bread = "Rye bread needs sourdough; butter thickens every sauce, says some cook. " * 20
    for kind in gate.TEXTS:
        write(f"text/{kind}.test.jsonl.xz", [{"doc_id": f"{kind}-{i}", "text": bread * (i + 1)} for i in range(2)])
    world = [
        {"doc_id": f"q{i}", "text": "", "questions": [{"question": f"Who baked loaf {i}?", "answers": [f"baker {i}"]}]}
        for i in range(6)
    ]
    write(gate.QUESTIONS.format(split="test"), world)
    monkeypatch.setattr(gate_rates, "SETS", {gate_rates.ARTICLES: 3, "loaves.train.jsonl.gz": 6})
    write(f"qa/{gate_rates.ARTICLES}", ships)
    write("qa/loaves.train.jsonl.gz", [{**row, "text": bread} for row in world])
    return tmp_path / "data"


def reading(document, tokens, bare, forced, accepted):
    return Reading("books", document, tokens, bare, forced, accepted)


def test_the_change_of_perplexity_is_that_of_all_tokens_together():
    rng = np.random.default_rng(0)
    made = [
        reading(f"d{i % 5}", int(n), float(n * 3.0), float(n * (3.0 + d)), bool(rng.integers(2)))
        for i, (n, d) in enumerate(zip(rng.integers(5, 200, 40), rng.normal(0.05, 0.02, 40), strict=True))
    ]
    total = sum(one.tokens for one in made)
    for how in ("forced", "gated"):
        value, low, high = change(made, how)
        before = math.exp(sum(one.bare for one in made) / total)
        after = math.exp(sum(getattr(one, how) for one in made) / total)
        assert value == pytest.approx(100 * (after / before - 1))
        assert low < value < high


def test_a_gate_that_refuses_all_changes_nothing_and_one_that_accepts_all_changes_as_much_as_none():
    texts = [(f"d{i}", 10, 20.0, 20.0 + i) for i in range(4)]
    assert change([reading(*text, accepted=False) for text in texts], "gated") == (0.0, 0.0, 0.0)
    accepting = [reading(*text, accepted=True) for text in texts]
    assert change(accepting, "gated") == change(accepting, "forced")


@pytest.mark.slow
def test_figures_end_to_end(data, open_library, tmp_path):
    config = GateConfig(documents=1, steps=25, stretches=2, questions=5, study=QUICK)
    off, on = gate_figures(data, tmp_path / "work", config, "tiny")
    assert (off.id, on.id) == ("lloco.general_loss_gate_off", "lloco.general_loss_gate_on")
    assert off.n == on.n == len(gate.TEXTS) * 2 * 2
    assert off.value != 0
    assert abs(on.value) < abs(off.value), "bread is nothing that the ships' adapter was studied for"
    assert "0 of 5 accepted" in on.note
    assert "--steps 25" in on.command
    assert "--set lora.rank=4" in on.command
    assert "lloco.general_loss_gate_on" in shown([asdict(on)])
    assert [one.value for one in gate_figures(data, tmp_path / "work", config, "tiny")] == [off.value, on.value], (
        "the library is kept, and what was studied is not studied again"
    )


def test_a_file_that_is_missing_is_named_before_anything_is_studied(data, tmp_path):
    with pytest.raises(UnreadableDocument, match=r"books\.vaild\.jsonl\.xz"):
        gate_figures(data, tmp_path / "work", GateConfig(split="vaild"), "no such decoder")


def test_without_an_adapter_there_is_nothing_to_measure(data, open_library, tmp_path):
    harmful = ("training.learning_rate=30.0", "training.clip=1e9", "training.warmup=0.0")
    with pytest.raises(UsageError, match="Study longer"):
        gate_figures(data, tmp_path / "work", GateConfig(documents=1, steps=3, study=harmful), "tiny")


def test_questions_of_a_far_collection_are_refused_and_of_a_near_one_accepted():
    rng = np.random.default_rng(0)

    def around(centre, count):
        rows = rng.normal(0, 0.2, (count, 8))
        rows[:, centre] += 1
        return [(f"{centre}/{i % 6}", row / np.linalg.norm(row)) for i, row in enumerate(rows)]

    def collection(centre):
        return {"labels": around(centre, 400), "templates": around(centre, 400)}

    collections = {"here": collection(0), "same": collection(0), "far": collection(1)}
    for how in gate_rates.HOW:
        put = judged("here", collections, how)
        own = [one.accepted for one in put if one.own]
        near, far = ([one.accepted for one in put if not one.own and one.unit[0] == unit] for unit in "01")
        assert (len(own), len(near), len(far)) == (100, gate_rates.OTHERS, gate_rates.OTHERS)
        assert np.mean(own) > 0.87
        assert np.mean(near) > 0.8
        assert not any(far)


def test_rates_end_to_end(data, tiny_tokenizer):
    rates = gate_rates.gate_rates(data / "qa", tiny_tokenizer, WordCounts())
    sets = [name.partition(".")[0] for name in gate_rates.SETS]
    assert [one.collection for one in rates] == [*sets, "each SQuAD article"] * 2
    assert [one.studied_with for one in rates] == ["labels"] * 3 + ["templates"] * 3
    table = rates_shown([asdict(one) for one in rates])
    assert table.count("\n") == len(rates)
