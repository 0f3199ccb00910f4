"""Folders on the command line: what is printed, and how it ends."""

from __future__ import annotations

import json
import os
import signal

import pytest

from preread.methods.lloco.method import LlocoHandle

from ..conftest import story


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
