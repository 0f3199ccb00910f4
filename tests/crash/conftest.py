"""`pytest tests/crash --kills 500` kills more often; `--publish FILE` publishes how many documents were lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from preread.bench.figures import Figure, publish

OUTCOME = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="how many times the writer is killed")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many times the writer is killed: 60 in the suite."""
    return request.config.getoption("--kills", default=None) or 60


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> dict:
    """Where the test leaves what it counted."""
    return request.config.stash.setdefault(OUTCOME, {})


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path, seen = session.config.getoption("--publish"), session.config.stash.get(OUTCOME, {})
    if path and seen and exitstatus == 0:
        wrong = seen["lost"] + seen["half"] + seen["doubled"]
        phases = ", ".join(f"{name} {number}" for name, number in seen["phases"].most_common())
        note = (
            f"{seen['lost']} lost, {seen['half']} half, {seen['doubled']} doubled of {seen['checked']} acknowledged "
            f"documents that were looked for after {seen['kills']} kill -9 of a process that adds, syncs, studies and "
            f"forgets; it was at: {phases}; slowest reopening {seen['slowest_s']:.2f} s; tiny random model"
        )
        command = f"pytest tests/crash --kills {seen['kills']} --publish {path}"
        recipe = f"tests/crash kills={seen['kills']}"
        publish(
            [Figure("main.crash_lost", wrong, wrong, wrong, "documents", seen["kills"], recipe, command, note)],
            Path(path),
        )
