"""Equal stamps mean equal producers, and what the disk does not decide has none."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from preread.collection.settings import Settings
from preread.collection.stamps import stamp


def of(model: object, **options: object) -> str | None:
    return stamp(asdict(Settings(str(model), options=options)))


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_it_changes_with_all_that_decides_the_producer(model, tmp_path):
    stamps = [of(model), of(model, ratio=4.0), of(f"{model}:int8"), of("default"), of("default:int4")]
    (model / "config.json").write_text('{"layers": 2}')
    stamps.append(of(model))
    installed = tmp_path / "home" / "compressors" / "mine"
    installed.mkdir(parents=True)
    (installed / "manifest.json").write_text("{}")
    stamps.append(of(model))
    assert None not in stamps
    assert len(set(stamps)) == len(stamps)
    assert of(model) == stamps[-1]


@pytest.mark.parametrize("name", ["owner/model", "owner/model@main"])
def test_a_hub_id_counts_where_its_commit_is_said(model, name):
    assert of(name) is None
    assert of(f"{name.partition('@')[0]}@{'a' * 40}") is not None
    assert of(f"{name.partition('@')[0]}@{'a' * 40}:int8") is not None
