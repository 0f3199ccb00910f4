"""What is measured of retrieval is what it says: paragraphs by order, intervals over documents, a fit that fits."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from preread.bench import relevance, retrieval
from preread.bench.holdings import holdings
from preread.bench.retrieval import Asked, accuracy, auroc, interval
from preread.retrieval.relevance import Evidence

from ..conftest import WordCounts

SHIPS = ("schooner", "brig", "cutter", "barque", "sloop")


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Two small question sets in the layout of the real ones, a story of one ship each document."""

    def record(name, ship):
        lines = [f"On day {i} the {ship} met the {name} storm number {ship}{i}." for i in range(6)]
        asked = [
            {"question": f"Which {name} storm met the {ship} on day {i}?", "answers": [f"{ship}{i}"]} for i in range(6)
        ]
        empty = [{"question": f"Who built the {ship}?", "answers": []}]
        return {"doc_id": f"{name}-{ship}", "title": ship, "text": "\n\n".join(lines), "questions": asked + empty}

    def write(file, name, ships):
        with gzip.open(tmp_path / file, "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(record(name, ship)) + "\n" for ship in ships)

    files = {retrieval.ARTICLES: 5, "letters.test.jsonl.gz": 4}
    write(retrieval.ARTICLES, "winter", SHIPS)
    write("letters.test.jsonl.gz", "summer", SHIPS)
    monkeypatch.setattr(retrieval, "KINDS", files)
    monkeypatch.setattr(relevance, "SETS", files)
    monkeypatch.setattr(retrieval, "DRAWS", 50)
    monkeypatch.setattr(retrieval, "COLLECTIONS", 3)
    return tmp_path


def test_gold_is_where_the_answer_stands(sets, tiny_tokenizer):
    [*held] = holdings(sets / retrieval.ARTICLES, tiny_tokenizer, WordCounts(), gold=True)
    assert len(held) == 5
    for one in held:
        assert len(one.asks) == 6, "what no paragraph answers is not asked"
        assert len(one.vectors) == len(one.passages)
        for number, ask in enumerate(one.asks):
            [gold] = ask.gold
            assert f"{one.document.title}{number}" in one.passages[gold].text


def test_figures_end_to_end(sets, tiny_tokenizer):
    figures = {one.id: one for one in retrieval.retrieval_figures(sets, tiny_tokenizer, WordCounts(), 0, 5)}
    assert figures.keys() == {"retrieval.recall_at_5", "routing.accuracy", "routing.abstain_auroc"}
    for figure in figures.values():
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.command == "preread bench retrieval --data DATA --seed 0 --questions 5"
    assert figures["retrieval.recall_at_5"].n == 30
    assert figures["retrieval.recall_at_5"].value > 0.9, "each question names its ship and storm"
    assert (figures["routing.accuracy"].n, figures["routing.abstain_auroc"].n) == (10, 20)
    assert "n=15" in figures["routing.accuracy"].note, "three articles, five questions each"


def test_the_fit_tells_apart_what_its_documents_hold(sets, tiny_tokenizer):
    fitted = relevance.fit(sets, tiny_tokenizer, WordCounts())
    assert fitted["embedders"].keys() == {"word-counts"}
    assert fitted["embedders"]["word-counts"]["words"] > 0
    assert fitted["words"]["cosine"] == 0
    assert fitted["how"]["questions"] == 54


def test_a_fit_finds_the_model_that_made_the_data_and_its_threshold():
    draw = np.random.default_rng(0)
    seen = []
    for _ in range(6000):
        one = Evidence(float(draw.uniform()), float(draw.uniform()))
        odds = -4 + 6 * one.cosine + 3 * one.words
        seen.append((one, bool(draw.uniform() < 1 / (1 + np.exp(-odds))), 1.0))
    made = relevance.fitted(seen)
    assert (made.bias, made.cosine, made.words) == (
        pytest.approx(-4, abs=0.4),
        pytest.approx(6, abs=0.5),
        pytest.approx(3, abs=0.4),
    )
    below = [made.relevance(one) < made.threshold for one, held, _ in seen if held]
    assert np.mean(below) == pytest.approx(made.missed, abs=1e-3)


def test_intervals_are_over_documents(monkeypatch):
    """Ten questions of one document are one draw, not ten."""
    monkeypatch.setattr(retrieval, "DRAWS", 200)
    alike = [Asked(str(d), True, 0.0, d % 2 == 0) for d in range(20) for _ in range(10)]
    spread = [Asked(str(i), True, 0.0, i % 2 == 0) for i in range(200)]
    wide, narrow = interval(alike, accuracy), interval(spread, accuracy)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert accuracy(alike) == accuracy(spread) == 0.5
    sides = [Asked(str(i), i < 10, i / 20, False) for i in range(20)]
    assert auroc(sides) == 0
    assert interval(sides, auroc) == (0, 0)
