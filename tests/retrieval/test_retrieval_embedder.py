"""Vectors mean what the texts mean, whatever their length and company."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preread.core.errors import UnknownModel
from preread.retrieval import embedder as module
from preread.retrieval.embedder import Embedder

LAMP = "The keeper of the lighthouse lit the lamp at dusk. "
BREAD = "Rye bread needs a sourdough and a hot oven. "


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


def test_vectors_are_unit_and_near_what_they_mean(embedder: Embedder) -> None:
    vectors = embedder.embed([LAMP, BREAD, ""])
    assert (vectors.shape, vectors.dtype) == ((3, embedder.dimension), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    question = embedder.embed(["Who lights the beacon for ships?"], "question")[0]
    assert question @ vectors[0] > question @ vectors[1] + 0.2
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_order_and_company_change_nothing(embedder: Embedder) -> None:
    texts = [LAMP * n for n in (1, 30, 2, 5)] + [BREAD]
    together, alone = embedder.embed(texts), np.concatenate([embedder.embed([text]) for text in texts])
    backwards = embedder.embed(texts[::-1])[::-1]
    for other in (together, backwards):  # bfloat16: padding moves the last bits
        assert (other * alone).sum(axis=1).min() > 0.999


def test_nothing_of_a_long_text_is_cut(embedder: Embedder) -> None:
    """Its vector is the mean of its windows' by tokens, and its end counts as much as its beginning."""
    head, tail = LAMP * 60, BREAD * 60
    whole, lamp, bread = embedder.embed([head + tail, LAMP * 5, BREAD * 5])
    assert abs(whole @ lamp - whole @ bread) < 0.2
    assert whole @ bread > 0.5
    cut = embedder.embed([head])[0]
    assert cut @ bread < 0.2


def test_progress_counts_every_text_once(embedder: Embedder) -> None:
    done: list[float] = []
    embedder.embed([LAMP, LAMP * 60, BREAD], advance=done.append)
    assert done == [1, 1, 1]


def test_batches_hold_every_text_once_and_stay_small() -> None:
    lengths = [3, 5000, 9, 4096, 1, 700] * 9
    batches = list(module._batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 4096 for batch in batches)


def test_the_fingerprint_is_the_weights_not_the_name(embedder: Embedder) -> None:
    same = Embedder(str(Path(module._weights(module.DEFAULT))))
    assert same.fingerprint == embedder.fingerprint
    other = Embedder()
    next(other._model.parameters()).data[0, 0] += 1
    assert other.fingerprint != embedder.fingerprint


def test_an_unknown_name_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="needs no network"):
        Embedder(str(tmp_path / "absent")).embed(["text"])


@pytest.mark.slow
def test_it_works_offline_and_says_nothing() -> None:
    program = "from preread.retrieval.embedder import Embedder; Embedder().embed(['text ' * 900, 'b'])"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "always::FutureWarning", "-c", program], env=offline, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
