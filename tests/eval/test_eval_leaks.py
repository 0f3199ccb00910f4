"""What a manifest says a model was trained on is never judged with it, however its text was wrapped or named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from preread import recipes
from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.types import Document, text_hash
from preread.eval.answerers.plain import Nothing
from preread.eval.case import Case, Stretch
from preread.eval.leaks import refuse_leaks
from preread.eval.tasks.qa import Qa
from preread.methods.lloco.method import Lloco

TEXTS = [f"On day {i} the storm met the keeper and the lamp burned. " * 8 for i in range(6)]


@dataclass(frozen=True)
class Compressed(Nothing):
    """No context, by a decoder that has a compressor at hand."""

    compressor: Path = Path()
    kind: ClassVar[str] = "compressed"

    def trained_on(self, kit):
        with Lloco(compressor=self.compressor).attach(kit.decoder) as handle:
            return handle.trained_on


@pytest.fixture
def compressor(tmp_path, monkeypatch, tiny_decoder):
    """Trained on the first three texts of a file of six."""
    monkeypatch.setattr("preread.recipes.running.load", lambda name: tiny_decoder("llama"))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    recipe = {
        "method": "lloco",
        "stage": "compress",
        "settings": {"fresh": True, "shape": {"max_summary": 16, "lora": {"rank": 2, "dropout": 0.0}}},
        "objective": {"segments": "mixed", "segment_tokens": [10, 20], "ratios": [2.0, 6.0]},
        "data": ["texts.jsonl"],
        "max_characters": 2 * len(TEXTS[0]) + 1,
        "window": 60,
        "training": {"steps": 1},
    }
    recipes.run(build(recipes.Recipe, recipe), tmp_path, tmp_path / "run")
    return tmp_path / "run" / recipes.TRAINED


def case(text):
    return Case("a case", Document("a file", "a title", text), ())


def stretch(text):
    return Stretch("a stretch", "a source", text_hash(text), (), (), (1,))


@pytest.mark.parametrize("unit", [case, stretch])
def test_what_a_training_run_could_read_is_refused_and_nothing_else(kit, compressor, unit):
    answerer = Compressed(compressor=compressor)
    for text in TEXTS[:3]:
        with pytest.raises(UsageError, match=r"tales that no context was not trained on; got 1 of 2.*a (case|stretch)"):
            refuse_leaks(kit, Qa("tales"), answerer, [unit(TEXTS[5]), unit(text)])
    refuse_leaks(kit, Qa("tales"), answerer, [unit(text) for text in TEXTS[3:]])
    refuse_leaks(kit, Qa("tales"), Nothing(), [unit(text) for text in TEXTS])


def test_other_line_breaks_and_another_title_are_the_same_document(kit, compressor):
    wrapped = TEXTS[0].replace(". ", ".\n\n").replace(" the ", "\u00a0the ")
    with pytest.raises(UsageError):
        refuse_leaks(kit, Qa("tales"), Compressed(compressor=compressor), [case(wrapped)])
