"""What others do to the files and to the library while a sync goes on is not undone by it, and does not stop it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preread.collection.intake import Intake
from preread.core.errors import UnreadableDocument

from ..conftest import story


@pytest.fixture
def folder(tmp_path, collection) -> Path:
    """Three learned documents, of which one is gone, and a new one."""
    made = tmp_path / "papers"
    made.mkdir()
    for name in "abc":
        (made / f"{name}.md").write_text(story(name))
    collection.sync([made])
    (made / "c.md").unlink()
    (made / "new.md").write_text(story("new"))
    return made


def held(collection) -> list[str]:
    return [Path(entry.source).name for entry in collection.documents()]


def test_a_file_that_came_back_is_not_forgotten(collection, folder):
    done = collection.sync([folder], on_added=lambda _: (folder / "c.md").write_text(story("c")))
    assert done.forgotten == []
    assert held(collection) == ["a.md", "b.md", "c.md", "new.md"]


def test_what_another_forgot_is_not_missed(collection, folder, open_library):
    other = open_library().collection("sea")
    done = collection.sync([folder], on_added=lambda _: other.forget(folder / "c.md"))
    assert done.forgotten == []
    assert held(collection) == ["a.md", "b.md", "new.md"]


def test_what_another_forgot_is_not_unchanged(collection, folder, open_library):
    intake = Intake(collection)
    assert intake.unchanged(str(folder / "b.md"), thoroughly=True), "now it has looked up what is held"
    open_library().collection("sea").forget(folder / "a.md")
    assert intake.unchanged(str(folder / "a.md"), thoroughly=False) is None


def test_what_one_folder_keeps_no_other_forgets(collection, folder):
    below = folder / "below"
    below.mkdir()
    (below / "only.md").write_text(story("only"))
    collection.sync([below])
    (below / "only.md").unlink()
    done = collection.sync([folder, below])
    assert [Path(source).name for source in done.kept] == ["only.md"]
    assert [Path(source).name for source in done.forgotten] == ["c.md"]
    assert "only.md" in held(collection)


def test_a_file_whose_name_is_not_unicode_stops_no_other(collection, folder):
    name = os.fsdecode(os.fsencode(folder) + b"/\xff.md")
    Path(name).write_text(story("x"))
    told = []
    done = collection.sync([folder], on_failed=lambda source, error: told.append(str(error)))
    assert [Path(source).name for source in done.added] == ["new.md"]
    assert list(done.failed) == [name]
    assert told[0].isprintable()
    with pytest.raises(UnreadableDocument, match="Unicode"):
        collection.add(name)


def test_links_in_a_circle_are_no_documents(collection, folder):
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "circle.md").symlink_to(folder / "circle.md")
    assert [Path(source).name for source in collection.sync([folder]).added] == ["new.md"]
