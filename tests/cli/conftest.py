"""The command line in this process, with no configuration but what a test writes."""

from __future__ import annotations

import os
import sys

import pytest

from preread import cli


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """No variable, file or folder of whoever runs the tests; the working directory is empty."""
    for name in list(os.environ):
        if name.startswith("PREREAD_") and name != "PREREAD_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line: exit code, stdout, stderr."""

    def go(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["preread", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return go


@pytest.fixture
def run(call, open_library, tmp_path, monkeypatch):
    """The same, with a library of tiny models."""
    monkeypatch.setenv("PREREAD_LIBRARY", str(tmp_path / "library"))
    return call
