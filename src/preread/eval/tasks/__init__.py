"""The tasks by kind: the one table that names them all."""

from __future__ import annotations

from collections.abc import Mapping

from preread.eval.task import Task
from preread.eval.tasks.qa import Qa

TASKS: Mapping[str, type[Task]] = {kind.kind: kind for kind in (Qa,)}
"""Every task by the kind that recipes name."""
