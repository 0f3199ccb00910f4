"""Needles of both kinds, judged by tiny models as a recipe has them, come out as a heat map for each answerer."""

from __future__ import annotations

import json

import pytest

from preread.eval.cache import Cache
from preread.eval.kit import Kit
from preread.eval.recipe import EvalRecipe
from preread.eval.results import result, write
from preread.eval.runner import run
from preread.nn.views import within
from preread.report.markdown import markdown
from preread.report.page import page
from preread.report.reading import read
from preread.report.sections import Report

from .seen import Page

LENGTHS, DEPTHS = [128, 256, 1024], [0.0, 1.0]
MEMORY = {"kind": "memory", "method": "lloco", "settings": {"ratio": 16.0}}


@pytest.fixture(scope="module")
def report(tmp_path_factory, tiny_decoder):
    folder = tmp_path_factory.mktemp("needles")
    text = "".join(f"In the year {i} the harbour froze and nobody came. " for i in range(900))
    for split in ("train", "test"):
        path = folder / "data" / "text" / f"books.{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"doc_id": split, "text": f"{split}. {text}"}) + "\n")
    grid = {"kind": "needle", "lengths": LENGTHS, "depths": DEPTHS, "samples": 1}
    lessons = {"kind": "needle", "split": "train", "lengths": [128], "depths": [0.5], "samples": 2}
    recipe = EvalRecipe(
        [{**grid, "needle_is": "fixed"}, {**grid, "needle_is": "random"}],
        [{"kind": "none"}, {"kind": "full"}, MEMORY, {"kind": "tuned", "of": MEMORY, "lessons": lessons, "steps": 1}],
    )
    kit = Kit(within(tiny_decoder("llama"), 512), folder / "data", folder / "work")
    judged = run(kit, recipe.chosen_tasks(), recipe.chosen_answerers(), Cache(folder / "cache"))
    found = result("needle", recipe, judged, kit, "preread eval needle.yaml", "abc", None)
    write(found, judged, folder / "results")
    return Report(read(folder / "results"))


def test_both_needles_have_their_maps_and_numbers(report):
    seen = Page(page(report))
    maps = [figure["alt"] for tag, figure in seen.elements if tag == "img" and "Heat maps" in (figure["alt"] or "")]
    assert len(maps) == 2, "fixed and random"
    assert all("length and depth" in alt for alt in maps)
    assert {"needle, fixed", "needle, random"} <= {table.label for table in report.sections[0].evaluation.tasks}


def test_a_text_of_several_windows_is_in_the_memorys_map_and_not_in_the_full_texts(report):
    for table in report.sections[0].evaluation.tasks:
        lengths = {row.answerer: {cell.at["length"] for cell in row.cells} for row in table.rows}
        assert lengths["full text"] == {128, 256}, "it does not fit"
        assert lengths["lloco 16x"] == set(LENGTHS)
        assert lengths["lloco 16x, tuned on needle, random (train)"] == set(LENGTHS)
    assert "1,024" in markdown(report)
