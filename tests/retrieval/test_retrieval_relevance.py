"""Evidence counts what speaks for a collection, and relevance grows with it, whatever else was asked."""

from __future__ import annotations

import pytest

from preread.retrieval.embedder import Embedder
from preread.retrieval.relevance import Calibration, Evidence, calibration, evidence, mean, stems

KEEPER = "The keepers of the lighthouse wrote down every ship."
STORM = "The storm reached the island at night."


def words(question: str, best: list[str], found: list[str] | None = None) -> float:
    return evidence(question, None, best, found if found is not None else best).words


def test_a_passage_with_all_words_is_1_and_with_none_0():
    assert words(STORM, [KEEPER, STORM]) == pytest.approx(1)
    assert words("zebra quartz", [KEEPER, STORM]) == 0
    assert words("", [KEEPER]) == words("?!", [KEEPER]) == words("storm", []) == 0


def test_endings_and_case_do_not_count_but_other_words_do():
    assert stems("Lighthouses") == stems("LIGHTHOUSE's") - {"s"}
    assert stems("ship") != stems("shop")
    assert stems("灯台守 the") == {"灯", "台", "守", "the"}


def test_the_words_must_stand_in_one_passage():
    question = "the lighthouse in the storm"
    apart = words(question, [KEEPER, STORM], [KEEPER, STORM])
    together = words(question, [KEEPER + " " + STORM], [KEEPER, STORM])
    assert apart < together


def test_a_word_that_most_passages_have_tells_little():
    found = ["the mill and the wheel"] * 29 + ["a granary"]
    common, rare = words("mill granary", [found[0]], found), words("mill granary", [found[-1]], found)
    assert 0 < common < 0.2 < 0.8 < rare < 1


def test_a_collection_of_one_passage_is_judged_as_one_of_many():
    """That all of it holds a word makes the word no commoner."""
    others = [f"something else {i}" for i in range(30)]
    alone, among = (
        words("When did the storm reach the mill?", [STORM]),
        words("When did the storm reach the mill?", [STORM], [STORM, *others]),
    )
    assert alone == pytest.approx(among, abs=0.05)


@pytest.mark.parametrize("name", ["words", "embedder"])
def test_relevance_is_a_probability_that_grows_with_the_evidence(name):
    fitted = calibration("of nobody") if name == "words" else calibration(Embedder().fingerprint)
    scale = [fitted.relevance(Evidence(step / 10, step / 10)) for step in range(11)]
    assert scale == sorted(scale)
    assert 0 < scale[0] < fitted.threshold < scale[-1] < 1
    assert scale[0] < 0.05 < 0.95 < scale[-1]


def test_an_embedder_that_was_not_calibrated_is_judged_by_words_alone():
    unknown, known = calibration("of nobody"), calibration(Embedder().fingerprint)
    assert unknown.relevance(Evidence(0.1, 0.5)) == unknown.relevance(Evidence(0.9, 0.5))
    assert known.relevance(Evidence(0.1, 0.5)) < known.relevance(Evidence(0.9, 0.5))


def test_the_mean_of_several_wordings_lies_between_them():
    low, high = Evidence(0.2, 0.1), Evidence(0.6, 0.5)
    assert mean([low]) == low
    middle = mean([low, high])
    assert (middle.cosine, middle.words) == (pytest.approx(0.4), pytest.approx(0.3))
    assert mean([Evidence(None, 0.5), Evidence(None, 0.7)]).cosine is None
    steep = Calibration(-5, 5, 5, 0.5, 0.05)
    assert steep.relevance(low) < steep.relevance(middle) < steep.relevance(high)
