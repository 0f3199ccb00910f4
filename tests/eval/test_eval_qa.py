"""Question sets: a subsample is the same everywhere, and a part of a larger one."""

from __future__ import annotations

import json

import pytest

from preread.core.errors import UsageError
from preread.eval.kit import Kit
from preread.eval.recipe import EvalRecipe
from preread.eval.tasks.qa import STYLES, Qa, question_file

from .conftest import ROWS


def test_a_subsample_depends_on_names_alone(kit, tmp_path):
    shuffled = tmp_path / "other" / "tales.test.jsonl"
    shuffled.parent.mkdir()
    shuffled.write_text("".join(json.dumps(row) + "\n" for row in reversed(ROWS)))
    there = Kit(kit.decoder, shuffled.parent, kit.work)
    assert Qa("tales", documents=2, questions=2).units(kit) == Qa("tales", documents=2, questions=2).units(there)


def test_a_smaller_subsample_is_a_part_of_a_larger_one(kit):
    whole = {case.id: case for case in Qa("tales").units(kit)}
    small = Qa("tales", documents=2, questions=2).units(kit)
    assert [case.id for case in small] == list(whole)[:2]
    for case in small:
        assert set(case.items) < set(whole[case.id].items)
        assert case.document == whole[case.id].document


def test_long_documents_can_be_left_out(kit):
    lengths = {case.id: len(case.document.text) for case in Qa("tales").units(kit)}
    most = sorted(lengths.values())[1]
    assert {case.id for case in Qa("tales", characters=most).units(kit)} == {
        name for name, length in lengths.items() if length <= most
    }


def test_a_set_can_be_a_file(kit, data):
    path = str(data / "qa" / "tales.test.jsonl.gz")
    assert [case.items for case in Qa(path).units(kit)] == [case.items for case in Qa("tales").units(kit)]
    assert Qa(path).label == "tales"


@pytest.mark.parametrize("name", STYLES)
def test_a_file_is_asked_as_the_set_that_it_is_named_after(name):
    assert Qa(f"some/where/{name}.test.jsonl.xz").style == Qa(name).style


@pytest.mark.parametrize("setting", ["documents", "questions", "characters"])
def test_settings_that_leave_nothing_are_refused(setting):
    with pytest.raises(UsageError, match=setting):
        Qa("tales", **{setting: 0})


def test_a_missing_set_is_said(data):
    with pytest.raises(UsageError, match="nowhere"):
        question_file(data, "nowhere", "test")


def test_a_set_of_the_hub_is_fetched_where_no_file_has_its_name(data, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("preread.eval.tasks.sets.fetch", lambda *names: asked.append(names[:2]) or tmp_path)
    assert question_file(data, "qasper", "validation") == tmp_path
    (data / "qasper.test.jsonl").touch()
    assert question_file(data, "qasper", "test") == data / "qasper.test.jsonl"
    assert asked == [("qasper", "validation")]


def test_every_answerer_is_asked_the_same_and_questions_keep_their_references(kit):
    items = {item.id: item for case in Qa("tales").units(kit) for item in case.items}
    for row in ROWS:
        for asked in row["questions"]:
            assert items[asked["id"]].answers == tuple(asked["answers"])
            assert items[asked["id"]].question.startswith(asked["question"])


@pytest.mark.parametrize("name", STYLES)
def test_a_style_scores_what_it_names(name):
    task = Qa(name)
    assert task.headline in STYLES[name].metrics
    assert (task.max_tokens == 0) == (task.headline == "accuracy")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"tasks": [{"kind": "qa", "set": "tales"}], "answerers": [{"kind": "ful"}]}, "Did you mean full"),
        ({"tasks": [{"kind": "qa", "set": "tales", "documens": 3}]}, "Did you mean documents"),
        ({"tasks": [{"kind": "qa", "set": "tales"}] * 2}, "tales twice"),
        ({"tasks": []}, "got none"),
        ({"tasks": [{"set": "tales"}]}, "a kind of task"),
    ],
)
def test_a_wrong_recipe_is_refused_with_a_hint(spec, said):
    recipe = EvalRecipe(**spec)
    with pytest.raises(UsageError) as error:
        recipe.chosen_tasks(), recipe.chosen_answerers()
    assert said in str(error.value)


def test_only_some_tasks_of_a_recipe():
    recipe = EvalRecipe([{"kind": "qa", "set": "tales"}, {"kind": "qa", "set": "qmsum"}])
    assert [task.label for task in recipe.chosen_tasks(["qmsum"])] == ["qmsum"]
    with pytest.raises(UsageError, match="tales, qmsum"):
        recipe.chosen_tasks(["hotpot"])
