"""Configuration: who wins, where a value comes from, and what is refused."""

from __future__ import annotations

import itertools
import tomllib

import pytest

from preread.core.defaults import Chosen, Defaults, assign, project_file, resolve, unknown_variables, user_file
from preread.core.errors import UsageError


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A function that says a ratio in some of the three places, and what resolves from a folder below."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    below = tmp_path / "project" / "a" / "b"
    below.mkdir(parents=True)
    files = {"user": user_file(), "project": tmp_path / "project" / "preread.toml"}
    files["user"].parent.mkdir(parents=True)

    def say(**texts: str) -> dict[str, Chosen]:
        for name, file in files.items():
            file.unlink(missing_ok=True)
            if name in texts:
                file.write_text(texts[name], encoding="utf-8")
        return resolve({"PREREAD_RATIO": texts["environment"]} if "environment" in texts else {}, below)

    say.files = files
    return say


ORDER = ("user", "project", "environment")
SAID = {"user": "\nratio = 2", "project": "# ours\n\nratio = 3", "environment": "4"}


@pytest.mark.parametrize("said", [s for n in range(4) for s in itertools.combinations(ORDER, n)])
def test_the_last_of_those_who_speak_wins_and_is_named(places, said):
    ratio = places(**{place: SAID[place] for place in said})["ratio"]
    origin = {"user": f"{places.files['user']}:2", "project": f"{places.files['project']}:3"}
    winner = said[-1] if said else None
    assert ratio.value == {"user": 2, "project": 3, "environment": 4, None: None}[winner]
    assert ratio.origin == {**origin, "environment": "PREREAD_RATIO", None: "default"}[winner]


def test_what_nobody_says_is_the_default(places):
    assert {key: chosen.value for key, chosen in places(user="ratio = 2").items() if key != "ratio"} == {
        key: value for key in Defaults.__slots__ if key != "ratio" for value in [getattr(Defaults(), key)]
    }


def test_the_nearest_project_file_alone_counts(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "preread.toml").write_text("ratio = 2\nseed = 5")
    (tmp_path / "a" / "preread.toml").write_text("ratio = 3")
    assert project_file(inner) == tmp_path / "a" / "preread.toml"
    chosen = resolve({}, inner)
    assert (chosen["ratio"].value, chosen["seed"].value) == (3, None)


def test_paths_in_a_file_are_relative_to_it_and_the_home_is_known(places, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    chosen = places(user="library = '~/books'", project="library = 'books'\nmodel = './decoder'")
    assert chosen["library"].value == tmp_path / "project" / "books"
    assert chosen["model"].value == str(tmp_path / "project" / "decoder")
    assert str(places(user="library = '~/books'")["library"].value) == "/home/reader/books"
    assert str(resolve({"PREREAD_LIBRARY": "~/x"}, tmp_path)["library"].value) == "/home/reader/x"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ratoi = 2", ["Did you mean ratio?", "preread.toml:1"]),
        ("\nratio = 'much'", ["valid number", "'much'", "preread.toml:2"]),
        ("mode = 'sideways'", ["'document', 'passages' or 'hybrid'", "preread.toml:1"]),
        ("[ask]\npassages = 2", ["a key of Defaults", "preread.toml"]),
        ("ratio = [", ["TOML", "preread.toml"]),
    ],
)
def test_a_wrong_file_is_refused_and_the_place_named(places, text, parts):
    with pytest.raises(UsageError) as refused:
        places(project=text)
    assert [part for part in parts if part not in str(refused.value)] == []


def test_a_file_that_cannot_be_read_is_refused(places, tmp_path):
    places.files["user"].write_bytes(b"ratio = \xff")
    with pytest.raises(UsageError, match=r"config\.toml"):
        resolve({}, tmp_path)


def test_a_wrong_variable_is_refused_and_an_empty_one_is_none(tmp_path):
    with pytest.raises(UsageError, match="PREREAD_SEED=many"):
        resolve({"PREREAD_SEED": "many"}, tmp_path)
    assert resolve({"PREREAD_SEED": ""}, tmp_path)["seed"].origin == "default"
    assert unknown_variables({"PREREAD_MAX_TOKEN": "3", "PREREAD_SEED": "1", "PREREAD_HOME": "x"}) == [
        "PREREAD_MAX_TOKEN"
    ]


def test_assigning_changes_one_line_and_keeps_the_others(tmp_path):
    file = tmp_path / "new" / "preread.toml"
    assign(file, "ratio", "8")
    file.write_text("# mine\n" + file.read_text() + "model = 'x'\n")
    assign(file, "ratio", "16")
    assign(file, "collection", 'quote " and ü')
    assert file.read_text().startswith("# mine\nmodel = 'x'\n")
    assert tomllib.loads(file.read_text()) == {"model": "x", "ratio": 16.0, "collection": 'quote " and ü'}
    assign(file, "ratio", None)
    assert "ratio" not in tomllib.loads(file.read_text())


@pytest.mark.parametrize(("key", "value"), [("ratoi", "3"), ("ratoi", None), ("ratio", "much")])
def test_assigning_what_does_not_fit_changes_nothing(tmp_path, key, value):
    file = tmp_path / "preread.toml"
    file.write_text("ratio = 4\n")
    with pytest.raises(UsageError):
        assign(file, key, value)
    assert file.read_text() == "ratio = 4\n"
