"""The doctor names each fault, with a remedy, and breaks of none."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from preread import doctor
from preread.doctor import CHECKS, Finding, examine

LIGHT = ("python", "packages", "devices", "memory", "disk", "network", "configuration")


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """What the doctor finds with some of its looks, on a machine of its own, as {name: finding}."""
    monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def look(*names: str, library: Path | None = None) -> dict[str, Finding]:
        monkeypatch.setattr(doctor, "CHECKS", {name: CHECKS[name] for name in names})
        return {finding.name: finding for finding in examine(library)}

    return look


def test_a_sound_machine_has_no_faults_and_every_fault_a_remedy(findings):
    found = findings(*LIGHT)
    assert {"python", "versions", "torch", "processor", "memory", "network", "library"} <= found.keys()
    assert "offline" in found["network"].found
    assert [f for f in found.values() if f.state == "fail"] == []
    assert [f for f in found.values() if (f.state == "ok") == bool(f.remedy)] == []


def test_nothing_is_made(findings, tmp_path):
    findings(*LIGHT, "default decoder", library=tmp_path / "library")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_and_an_old_package_fail(findings, monkeypatch):
    asked = ["no-such-package>=1", "numpy>=999", "numpy>=1", 'nothing-here; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: asked)
    wrong = findings("packages")["packages"]
    assert wrong.state == "fail"
    assert "no-such-package>=1 is missing" in wrong.found
    assert ">=999 is needed" in wrong.found
    assert "nothing-here" not in wrong.found


@pytest.mark.parametrize(("free", "state"), [(10**11, "ok"), (10**9, "warn"), (10**7, "fail")])
def test_little_room_is_said(findings, monkeypatch, free, state):
    usage = namedtuple("usage", "total used free")(10**12, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert findings("disk")["disk: data"].state == state


def test_a_hub_that_never_answers_is_not_waited_for(findings, monkeypatch):
    waits = threading.Event()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "NETWORK_S", 0.05)
    monkeypatch.setattr(doctor, "_ask_hub", lambda *_: waits.wait(20))
    assert findings("network")["network"].state == "warn"
    waits.set()
    monkeypatch.setattr(doctor, "_ask_hub", lambda _, answered: answered.set())
    assert findings("network")["network"].state == "ok"


def test_a_broken_configuration_is_a_finding_and_the_rest_goes_on(findings, monkeypatch):
    Path("preread.toml").write_text("ratoi = 3")
    found = findings("configuration", "python")
    assert found["configuration"].state == "fail"
    assert "preread.toml:1" in found["configuration"].found
    assert found["configuration"].remedy == "Did you mean ratio?"
    assert {"python", "library"} <= found.keys()
    Path("preread.toml").unlink()
    monkeypatch.setenv("PREREAD_MAX_TOKEN", "3")
    assert findings("configuration")["configuration"].state == "warn"


def test_a_library_is_counted_and_a_damaged_one_fails(findings, collection, log):
    collection.add(log)
    path = collection.library.path
    assert findings(library=path)["library"].found.startswith("1 document")
    (path / "library.json").write_text("{")
    damaged = findings(library=path)["library"]
    assert (damaged.state, bool(damaged.remedy)) == ("fail", True)


def test_payloads_that_are_gone_or_of_no_document_are_counted(findings, collection, log):
    collection.add(log)
    path, store = collection.library.path, collection.store
    whole = findings(library=path)["payloads"]
    assert (whole.state, "no document" in whole.found) == ("ok", False)
    store.put({"ab" * 32: b"made for a comparison"})
    assert "1 of no document" in findings(library=path)["payloads"].found
    keys = store.stored("sea")[0][str(log)]
    gone = sorted(keys)[0]
    (path / "payloads" / gone[:2] / gone).unlink()
    found = [finding for finding in examine(path) if finding.name == "payloads"]
    assert [finding.state for finding in found] == ["fail", "ok"]
    assert f"1 of {len(keys)} payloads are gone" in found[0].found
    collection.add(log)
    assert findings(library=path)["payloads"].state == "ok", "the remedy is one"


def test_documents_that_were_interrupted_or_failed_are_said(findings, collection, log, tmp_path):
    collection.add(log)
    (tmp_path / "empty.txt").write_bytes(b"")
    collection.sync([tmp_path / "empty.txt"])
    failed = findings(library=collection.library.path)["jobs"]
    assert (failed.state, "empty.txt" in failed.found) == ("warn", True)
    script = "import os, sys; from pathlib import Path; from preread.store.jobs import Jobs\n"
    script += "with Jobs(Path(sys.argv[1])).running('sea', ['/half.txt']): os._exit(9)"
    killed = subprocess.run([sys.executable, "-c", script, str(collection.library.path)], check=False)
    assert killed.returncode == 9
    states = [finding for finding in examine(collection.library.path) if finding.name == "jobs"]
    assert ["/half.txt" in finding.found for finding in states] == [True, False]


def test_a_damaged_decoder_and_a_foreign_compressor_fail(findings, tmp_path, monkeypatch, tiny_decoder):
    folder = tmp_path / "home" / "cache" / "models" / "smollm2-135m-instruct-0"
    folder.mkdir(parents=True)
    monkeypatch.setattr("preread.models.packaged.folder", lambda _: folder)
    monkeypatch.setattr("preread.models.loading.folder", lambda _: folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert findings("default decoder")["default decoder"].state == "fail"
    monkeypatch.setattr("preread.models.loading.load", lambda *_, **__: tiny_decoder("llama"))
    assert findings("default decoder")["method text"].state == "ok"

    class Foreign:
        def attach(self, decoder):
            from preread.core.errors import FingerprintMismatch

            raise FingerprintMismatch("ours", "theirs", "Refused.", "Take another.")

    monkeypatch.setattr("preread.methods.METHODS", {"foreign": Foreign})
    assert findings("default decoder")["method foreign"].remedy == "Take another."


@pytest.mark.slow
def test_the_embedder_and_the_default_decoder_are_whole(tmp_path, default_decoder, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {name: CHECKS[name] for name in ("embedder", "default decoder")})
    states = {finding.name: finding.state for finding in examine(tmp_path)}
    assert set(states.values()) == {"ok"}
    assert {"embedder", "default decoder", "method text"} <= states.keys()
