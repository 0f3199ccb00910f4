"""The tasks by kind: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping

from preread.eval.task import Task
from preread.eval.tasks.ability import ClosedBook, ShortText
from preread.eval.tasks.chunked import Chunked
from preread.eval.tasks.positions import Positions
from preread.eval.tasks.qa import Qa
from preread.eval.tasks.ralm import Ralm
from preread.eval.tasks.sliding import Sliding

TASKS: Mapping[str, type[Task]] = {
    kind.kind: kind for kind in (Qa, Sliding, Chunked, Positions, Ralm, ShortText, ClosedBook)
}
"""Every task by the kind that recipes name."""
