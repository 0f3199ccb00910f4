"""`pytest tests/parity --publish results/figures.jsonl` publishes the largest error that these tests saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from preread.bench.figures import Figure, publish

ERRORS = pytest.StashKey[list[float]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ERRORS] = []


@pytest.fixture
def errors(request: pytest.FixtureRequest) -> list[float]:
    """Where a test leaves the error it measured."""
    return request.config.stash[ERRORS]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path, seen = session.config.getoption("--publish"), session.config.stash[ERRORS]
    if path and seen and exitstatus == 0:
        command = f"pytest tests/parity --publish {path}"
        note = "largest absolute difference of a summary embedding; float32; tiny random models; ragged documents"
        figure = Figure(
            "lloco.parity_error", max(seen), min(seen), max(seen), "abs", len(seen), "tests/parity", command, note
        )
        publish([figure], Path(path))
