"""Folders on the command line: what is printed, and how it ends."""

from __future__ import annotations

import json
import os
import signal

import pytest

from preread.methods.lloco.method import LlocoHandle

from ..conftest import WordCounts, story


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "papers"
    made.mkdir()
    for name in ("a.md", "b.md"):
        (made / name).write_text(story(name[0] * 3, 40))
    (made / "photo.png").write_bytes(b"\x89PNG")
    return made


def test_a_folder_is_added_synced_and_forgotten(run, folder):
    code, out, _ = run("add", str(folder), "--model", "tiny")
    assert code == 0
    assert "2 added in " in out
    assert "not read: 1 .png" in out
    (folder / "b.md").unlink()
    (folder / "bad.txt").write_bytes(b"")
    code, out, err = run("add", str(folder), "--dry-run")
    assert code == 0
    assert f"forget: {folder / 'b.md'}" in out
    assert f"add: {folder / 'bad.txt'}" in out
    code, out, err = run("add", str(folder), "--json")
    assert code == 1, err
    assert out, err
    assert json.loads(out.splitlines()[-1])["forgotten"] == [str(folder / "b.md")]
    assert [json.loads(line)["error"] for line in err.splitlines() if line.startswith("{")] == ["UnreadableDocument"]
    listed = {row["source"]: row["state"] for row in json.loads(run("list", "--json")[1])}
    assert listed == {str(folder / "a.md"): "learned", str(folder / "bad.txt"): "failed"}
    (folder / "a.md").unlink()
    (folder / "bad.txt").unlink()
    code, _, err = run("add", str(folder))
    assert code == 1
    assert "--remove" in err
    assert "stale" in run("list")[1]
    assert run("forget")[0] == run("forget", str(folder / "a.md"), "--all")[0] == 2
    code, out, _ = run("forget", "--all")
    assert code == 0
    assert "nothing of it in any" in out
    assert json.loads(run("list", "--json")[1]) == []
    assert run("cancel", "--json")[1] == '{"cancelled": 0}\n'


def test_ctrl_c_ends_add_after_the_batch_and_the_same_command_goes_on(run, folder, monkeypatch):
    encode = LlocoHandle.encode

    def pressed(self, passages, scope="passage"):
        os.kill(os.getpid(), signal.SIGINT)
        yield from encode(self, passages, scope)

    with monkeypatch.context() as patch:
        patch.setattr(LlocoHandle, "encode", pressed)
        code, out, err = run("add", str(folder), "--model", "tiny")
    assert (code, out) == (130, "")
    assert err.count("goes on from there") == 1
    assert [row["state"] for row in json.loads(run("list", "--json")[1])] == ["queued", "queued"]
    code, out, _ = run("add", str(folder), "--model", "tiny")
    assert code == 0
    assert "2 added in " in out


def test_ctrl_c_is_heard_while_a_document_is_embedded(run, folder, monkeypatch):
    def pressed(self, texts, role, advance):
        os.kill(os.getpid(), signal.SIGINT)
        advance(1)
        pytest.fail("it went on")

    monkeypatch.setattr(WordCounts, "embed", pressed)
    assert run("add", str(folder), "--model", "tiny")[:2] == (130, "")


def test_every_file_has_one_line_whatever_it_is_called_and_names_its_path_once(run, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "a\nb\x1b[2J.txt").write_text(story("brig", 20))
    (folder / "c\nd.txt").write_text("")
    lines = []
    for command in (("add", str(folder), "--model", "tiny", "--dry-run"), ("add", str(folder), "--model", "tiny")):
        _, out, err = run(*command)
        lines += [*out.splitlines(), *err.splitlines()]
    lines += [*run("list")[1].splitlines(), *run("ask", "Which brig?", "--method", "text")[1].splitlines()]
    assert not [line for line in lines if "\x1b" in line]
    held = [line for line in lines if r"a\nb\x1b[2J.txt" in line]
    assert [line.split()[0] for line in held] == ["add:", "added:", "default"]
    refused = next(line for line in lines if line.startswith("preread: "))
    assert refused.count(r"c\nd.txt") == 1


def test_a_path_that_leads_nowhere_is_said_to_whatever_its_ending(run, tmp_path):
    code, _, err = run("add", str(tmp_path / "reports"), "--model", "tiny")
    assert code == 1
    assert "no such file" in err


def test_a_collection_has_a_name_that_a_list_can_show(run, tmp_path):
    (tmp_path / "a.txt").write_text(story("brig", 20))
    for name in ("", " ", "a\nb", "\x1b[2J"):
        code, out, err = run("add", str(tmp_path / "a.txt"), "--model", "tiny", "--collection", name)
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert run("list", "--json")[1] == "[]\n"


def test_no_question_and_no_add_to_cancel_are_said_in_words(run, tmp_path):
    (tmp_path / "a.txt").write_text(story("brig", 20))
    assert run("add", str(tmp_path / "a.txt"), "--model", "tiny")[0] == 0
    code, out, err = run("ask", " ")
    assert (code, out) == (2, "")
    assert "a question" in err
    assert run("cancel")[1] == "nothing to end: no add is running\n"


def test_a_library_that_cannot_be_opened_says_where_and_what_to_do(run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        code, out, err = run("list", "--library", str(place))
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert str(tmp_path / "file") in err
        assert "--library" in err
