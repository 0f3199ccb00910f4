"""A certificate: what was measured of a decoder's window, what follows, and what was not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from preread.certify.causality import Causality
from preread.certify.span import Span
from preread.certify.verdicts import Regression, Share, Verdict
from preread.core.provenance import commit, device
from preread.eval.cache import PROTOCOL
from preread.eval.tables import Table, plain


@dataclass(frozen=True, slots=True)
class Missing:
    """A part that was not measured, and why."""

    part: str
    why: str


@dataclass(frozen=True, slots=True)
class Check:
    """A number with a threshold.

    Args:
        name: what is checked.
        value: what was measured; None where it was not, which is no pass.
        bound: `at least` or `at most` so much.
        passed: whether it holds.
    """

    name: str
    value: float | None
    bound: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold beside causality; None asks for nothing.

    Args:
        min_passkey: lowest share of right passkeys in any window.
        max_regression: highest share by which a short task's loss may be above the base's.
    """

    min_passkey: float | None = None
    max_regression: float | None = None


@dataclass(frozen=True)
class Certificate:
    """Everything that was found, and how to find it again.

    Args:
        model: as it was named.
        fingerprint: of its weights.
        weights: what must be said of them.
        dtype: they were read in.
        attention: its name in transformers.
        window: positions that its config says.
        span: what was certified of it.
        size: how much was judged.
        base: what short tasks were held against, if anything.
        within: share by which a short task may be worse and still be called so.
        causality: every batch of that check.
        lengths: each window of the span by the same tokens.
        positions: the same by position.
        passkey: right numbers in each window.
        topics: right topics in each window.
        regression: short tasks beside the base.
        missing: what was not measured.
        checks: what has a threshold.
        tables: all numbers behind it, as the evaluation has them.
        cut: whether the time was over before the end.
    """

    model: str
    fingerprint: str
    weights: str
    dtype: str
    attention: str
    window: int
    span: Span
    size: str
    base: str | None
    within: float
    causality: Sequence[Causality]
    lengths: Sequence[Verdict]
    positions: Sequence[Verdict]
    passkey: Sequence[Share]
    topics: Sequence[Share]
    regression: Sequence[Regression]
    missing: Sequence[Missing]
    checks: Sequence[Check]
    tables: Sequence[Table]
    cut: bool
    command: str = ""
    protocol: int = PROTOCOL
    commit: str = field(default_factory=commit)
    device: str = field(default_factory=device)
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @property
    def passed(self) -> bool:
        """Whether every check with a threshold holds."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """As JSON has it: numbers that are none are null."""
        return plain(self)
