"""`eval` as a user meets it: a table, a result on disk, and the same again for nothing."""

from __future__ import annotations

import json

import pytest

RECIPE = """
what: whether the text helps
model: tiny
tasks:
  - {kind: qa, set: tales}
  - {kind: qa, set: fables}
answerers:
  - {kind: none}
  - {kind: full}
"""


@pytest.fixture
def arguments(tmp_path, monkeypatch, tiny_decoder):
    monkeypatch.setattr("preread.models.loading.load", lambda name: tiny_decoder("llama"))
    for name in ("tales", "fables"):
        path = tmp_path / "data" / "qa" / f"{name}.test.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "doc_id": f"{name}-{i}",
                "title": name,
                "text": f"The keeper of lighthouse {i} slept.",
                "questions": [{"id": f"{name}-{i}", "question": "Who slept?", "answers": ["The keeper"]}],
            }
            for i in range(3)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    work = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    return ["eval", str(tmp_path / "recipe.yaml"), *work]


def test_a_recipe_gives_a_table_and_a_result(call, arguments, tmp_path):
    code, out, err = call(*arguments)
    assert code == 0, err
    assert "tales: 3 items of 3 documents" in out
    assert "full text" in out
    found = json.loads((tmp_path / "here" / "results" / "eval" / "recipe.json").read_text())
    assert [task["label"] for task in found["tasks"]] == ["tales", "fables"]
    assert found["command"].startswith("preread eval ")
    assert found["what"] == "whether the text helps"


def test_again_it_is_the_same_and_judges_nothing(call, arguments, monkeypatch):
    _, first, _ = call(*arguments, "--json")
    monkeypatch.setattr("preread.eval.runner.judge", lambda *_: pytest.fail("it was judged already"))
    code, again, _ = call(*arguments, "--json")
    assert code == 0
    assert json.loads(again)["tasks"] == json.loads(first)["tasks"]


def test_a_part_is_published_only_where_somebody_says_so(call, arguments, tmp_path):
    code, out, _ = call(*arguments, "--limit", "2", "--only", "tales")
    assert code == 0
    assert "tales: 2 items of 2 documents" in out
    assert "fables" not in out
    assert not (tmp_path / "here" / "results").exists()
    call(*arguments, "--limit", "2", "--out", str(tmp_path / "elsewhere"))
    assert json.loads((tmp_path / "elsewhere" / "eval" / "recipe.json").read_text())["limit"] == 2


def test_a_narrower_decoder_is_judged_anew_and_its_result_has_a_name_of_its_own(call, arguments, tmp_path):
    call(*arguments)
    code, _, err = call(*arguments, "--set", "window=64")
    assert code == 0, err
    folder = tmp_path / "here" / "results" / "eval"
    whole, narrow = (json.loads((folder / f"recipe{end}.json").read_text()) for end in ("", "-64"))
    assert (whole["window"], narrow["window"]) == (2048, 64)
    rows = [[row["unfit"] for row in task["rows"]] for task in (*whole["tasks"], *narrow["tasks"])]
    assert rows[0] == [None, None], "the whole decoder could read the text"
    assert rows[2][1]["units"] == 3, "the narrower one could not, whatever was judged before"
    code, _, err = call(*arguments, "--set", "window=100000")
    assert (code, "1 to 2048" in err) == (2, True)


def test_a_figure_is_published_by_a_run_that_is_whole_for_it_alone(call, arguments, tmp_path, monkeypatch):
    figures = tmp_path / "figures.jsonl"
    _, _, err = call(*arguments, "--figures", str(figures))
    assert "published: nothing" in err, "most answerers are missing"
    assert figures.read_text() == ""
    monkeypatch.setattr("preread.bench.quality.GAP_SETS", ("tales", "fables"))
    rows = [{"kind": "none"}, {"kind": "full"}, {"kind": "memory", "method": "lloco", "settings": {"ratio": 4}}]
    changed = ["--set", f"answerers={json.dumps(rows)}", "--figures", str(figures)]
    _, _, err = call(*arguments, *changed, "--only", "tales")
    assert "published: nothing" in err, "a set is missing"
    _, _, err = call(*arguments, *changed, "--limit", "2")
    assert "published: nothing" in err, "documents are missing"
    monkeypatch.setattr("preread.bench.quality.isfinite", lambda _: True)  # to a random decoder the text tells nothing
    _, _, err = call(*arguments, *changed)
    assert "published: lloco.gap_recovered_4x\n" in err
    figure = json.loads(figures.read_text())
    assert (figure["id"], figure["n"], figure["unit"]) == ("lloco.gap_recovered_4x", 6, "share")
    assert "tales 3 questions of 3 documents" in figure["note"]


def test_a_missing_set_ends_with_a_usage_error(call, arguments, tmp_path):
    code, out, err = call(*arguments, "--set", "tasks=[{kind: qa, set: nowhere}]")
    assert (code, out) == (2, "")
    assert "nowhere" in err
    assert "Traceback" not in err
