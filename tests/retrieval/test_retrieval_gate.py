"""The gate: what conformal thresholds promise, by simulation; files that are as written or refused."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from preread.core.errors import FingerprintMismatch, IntegrityError
from preread.data.questions import from_template, what_follows, what_is_missing
from preread.demo import BOOK
from preread.retrieval.embedder import Embedder
from preread.retrieval.gate import ALPHA, ENOUGH, NEAREST, Gate, subject
from preread.retrieval.retriever import wordings


def drawn(rng, count, spread=1.0, width=16):
    """[count, width] unit vectors around one direction, skewed."""
    rows = rng.standard_normal((count, width)) * rng.exponential(spread, (count, 1))
    rows[:, 0] += 1.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("taught", "held_out"), [(40, 19), (40, 100), (200, 0), (300, 30)])
def test_questions_like_the_studied_ones_are_accepted_as_often_as_promised(taught, held_out):
    """Over many gates, each with questions of its own: 1 - alpha at least, and no more than the rank must cost."""
    rng, gates, asked = np.random.default_rng(0), 300, 20
    accepted, expected = 0, 0.0
    for _ in range(gates):
        gate = Gate.fit(drawn(rng, taught), drawn(rng, held_out), "e")
        accepted += sum(gate.decide(one[None]).accepted for one in drawn(rng, asked))
        expected += 1 - int(ALPHA * (gate.calibrated + 1)) / (gate.calibrated + 1)
    share, exact = accepted / (gates * asked), expected / gates
    # Questions put to one gate share its threshold, so the binomial error of one gate's draw bounds that of the share.
    error = 3 * math.sqrt(ALPHA * (1 - ALPHA) / gates)
    assert exact >= 1 - ALPHA
    assert 1 - ALPHA - error <= share
    assert abs(share - exact) < error


@pytest.mark.parametrize("held_out", [0, 18, 19, 20, 38, 39, 150])
def test_the_threshold_is_the_score_of_the_promised_rank(held_out):
    rng = np.random.default_rng(held_out)
    taught, others = drawn(rng, 3), drawn(rng, held_out)  # too few taught ones to spare any
    gate = Gate.fit(taught, others, "e")
    below = sum(gate.score(one) < (gate.threshold or -1) for one in others)
    assert gate.calibrated == held_out
    if held_out < 19:
        assert gate.threshold is None
        assert gate.decide(-taught[:1]).accepted, "no score is known to be too low"
    else:
        assert below == math.floor(0.05 * (held_out + 1)) - 1
        assert not gate.decide(-taught[:1]).accepted


def test_a_score_is_the_mean_cosine_to_the_nearest():
    rng = np.random.default_rng(1)
    for count in (1, 4, NEAREST, 60):
        gate = Gate(drawn(rng, count), None, 0, "e")
        for question in drawn(rng, 5):
            cosines = sorted((float(row @ question) for row in gate.studied), reverse=True)[:NEAREST]
            assert gate.score(question) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    alone, joined = drawn(rng, 2)
    both = gate.decide(np.stack([alone, joined])).score
    assert both == pytest.approx((gate.score(alone) + gate.score(joined)) / 2)


def test_where_few_are_held_out_taught_ones_set_the_threshold_and_are_no_neighbours():
    rng = np.random.default_rng(2)
    taught, few, many = drawn(rng, 200), drawn(rng, 8), drawn(rng, ENOUGH)
    gate = Gate.fit(taught, few, "e")
    assert (gate.calibrated, len(gate.studied)) == (8 + 50, 150)
    assert len(Gate.fit(taught, many, "e").studied) == 200
    held = [row for row in taught if not (gate.studied == row).all(1).any()]
    scores = sorted(map(gate.score, [*few, *held]))
    assert gate.threshold == scores[int(0.05 * 59) - 1]


def test_a_gate_is_read_back_bit_for_bit_and_only_by_its_own_embedder(tmp_path):
    rng = np.random.default_rng(3)
    gate = Gate.fit(drawn(rng, 100), drawn(rng, 60), "ours")
    digest = gate.save(tmp_path)
    again = Gate.load(tmp_path, digest, "ours")
    assert (again.studied == gate.studied).all()
    assert (again.threshold, again.calibrated, again.embedder) == (gate.threshold, gate.calibrated, "ours")
    with pytest.raises(FingerprintMismatch, match="cannot be compared"):
        Gate.load(tmp_path, digest, "theirs")


@pytest.mark.parametrize("name", ["gate.json", "gate.safetensors"])
def test_a_damaged_gate_is_one_clear_error(tmp_path, name):
    rng = np.random.default_rng(4)
    digest = Gate.fit(drawn(rng, 12), drawn(rng, 4), "e").save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), max(1, len(whole) // 40))]
    for place in rng.integers(len(whole), size=100):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for raw in damaged:
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(IntegrityError, match=f"other bytes in {name}.*Study again"):
            Gate.load(tmp_path, digest, "e")
    (tmp_path / name).unlink()
    with pytest.raises(IntegrityError, match="Study again"):
        Gate.load(tmp_path, digest, "e")


def test_a_book_accepts_its_own_questions_and_refuses_the_worlds():
    """The packaged embedder, templates over the packaged book, and questions that nobody asked of it."""
    draw, words, embedder = random.Random(0), BOOK.read_text(encoding="utf-8").split(), Embedder()
    passages = [" ".join(words[start : start + 180]) for start in range(0, len(words), 180)]
    made = (from_template(draw.choice(passages), draw) for _ in range(330))
    about = list(dict.fromkeys(subject(question.text) for question in made if question))
    vectors = embedder.embed(about, "question")
    gate = Gate.fit(vectors[:150], vectors[150:210], embedder.fingerprint)
    own = [gate.decide(one[None]).accepted for one in vectors[210:]]
    world = ["What is the capital of France?", "How does a vaccine work?", "Who painted the Mona Lisa?"]
    world += ["How many bits are in a byte?", "What is the square root of 144?", "Why do leaves turn red in autumn?"]
    asked = ["What breed was Buck's father?", "What animal did Buck kill in the fall of the year?"]
    assert len(own) >= 80
    assert np.mean(own) > 1 - ALPHA - 3 * math.sqrt(ALPHA * (1 - ALPHA) * (1 / len(own) + 1 / gate.calibrated))
    assert sum(gate.decide(one[None]).accepted for one in embedder.embed(world, "question")) <= 1
    assert all(gate.decide(one[None]).accepted for one in embedder.embed(asked, "question"))


def test_a_question_is_about_what_it_quotes():
    text = (
        "In the year 1901 the ship Aurora left Bergen with nine men, and none of them, the mate Olsen said, ever " * 2
    )
    for template in (what_follows, what_is_missing):
        question = template(text, random.Random(0)).text
        assert subject(question) in question
        assert subject(question)[:20] not in question[:12], "the frame is not a part of it"
        assert subject(subject(question)) == subject(question)
    for plain in ("Who was “Olsen”?", "Who left Bergen?", ""):
        assert subject(plain) == plain


def test_a_follow_up_is_worded_as_it_is_searched_for():
    assert wordings("And then?", []) == ["And then?"]
    assert wordings("And then?", ["a", "b", "c"]) == ["And then?", "b c And then?"]
