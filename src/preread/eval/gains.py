"""What tuning gives each answerer, by group of question sets: the mean of the sets' scores before and after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from preread.eval.pooled import mean_difference, mean_score, whole
from preread.eval.runner import Judged
from preread.eval.tables import Gain

TUNED = ", tuned"
"""Behind an answerer's label where it was tuned as usual."""
ALL = "all"
"""The group of every set."""


def gains(judged: Sequence[Judged]) -> list[Gain]:
    """For each answerer that was judged before and after, a line for each group of sets of which it did every unit.

    Args:
        judged: all tasks of a run; question sets count.
    """
    groups: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        if one.task.kind == "qa":
            groups[one.task.group].append(one)
            groups[ALL].append(one)
    if len(groups) == 2:  # all is the one group
        groups.pop(ALL)
    order = sorted(groups, key=lambda group: group == ALL)
    return [gain for group in order for gain in _gains(group, groups[group])]


def _gains(group: str, sets: Sequence[Judged]) -> list[Gain]:
    found = []
    for tuned in sets[0].outcomes:
        answerer = tuned.removesuffix(TUNED)
        if answerer == tuned or not (whole(sets, answerer) and whole(sets, tuned)):
            continue
        before, after = mean_score(sets, answerer), mean_score(sets, tuned)
        found.append(Gain(group, answerer, len(sets), before, after, mean_difference(sets, tuned, answerer)))
    return found
