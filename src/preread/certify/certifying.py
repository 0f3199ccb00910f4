"""`certify`: every part measured, by the evaluation harness where it has a task for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from preread.certify import verdicts
from preread.certify.causality import Causality, causality
from preread.certify.certificate import Certificate, Check, Limits, Missing
from preread.certify.plan import WHOLE, Plan, Size
from preread.certify.span import span
from preread.certify.verdicts import Regression, Share
from preread.core.errors import Interrupted, PrereadError, UnreadableDocument, UsageError
from preread.core.provenance import commit
from preread.eval.answerers.plain import Full
from preread.eval.cache import Cache
from preread.eval.kit import Kit
from preread.eval.runner import Judged, run
from preread.eval.summary import table
from preread.eval.tables import Table
from preread.eval.task import Task
from preread.nn.cpu import FOLDED
from preread.nn.hf import Decoder

WITHIN = 0.02
"""Of the base's loss: what a short task may lose where nobody says otherwise."""
KNOWN_ATTENTION = frozenset({"eager", "sdpa", FOLDED, "flash_attention_2", "flash_attention_3", "flex_attention"})
"""Transformers' own, and ours in its place, which are the same in every process."""


@dataclass
class _Session:
    """One certification under way: what it judges with, until when, and what it could not do.

    Args:
        data: folder of texts and question sets.
        cache: of what was judged.
        until: when to stop, as `time.monotonic` has it; None runs to the end.
        missing: what could not be judged so far.
        tables: of what was.
        kits: by decoder, as each keeps the tokens of the books.
        cut: whether the time was over.
    """

    data: Path
    cache: Cache
    until: float | None
    missing: list[Missing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    kits: dict[int, Kit] = field(default_factory=dict)
    cut: bool = False

    def judged(self, part: str, decoder: Decoder, tasks: Sequence[Task], seen: frozenset[str]) -> list[Judged] | None:
        """Tasks by plain reading of the whole text; None, with the reason noted, where that cannot be."""
        kit = self.kits.setdefault(id(decoder), Kit(decoder, self.data, self.cache.folder))
        left = None if self.until is None else max(0.0, (self.until - time.monotonic()) / 60)
        with self.part(part):
            found = run(kit, tasks, [Reader(seen)], self.cache, minutes=left)
            unfit = [one.unfit for judged in found for row in judged.outcomes.values() for one in row if one.unfit]
            if not unfit:
                self.tables += [table(one, on_gpu=decoder.device.type == "cuda") for one in found]
                return found
            self.missing.append(Missing(part, unfit[0]))
        return None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What goes wrong with one part is a reason, and the other parts go on."""
        try:
            yield
        except Interrupted:
            self.cut = True
            self.missing.append(Missing(name, "the minutes were over; the same command goes on from there"))
        except (UsageError, UnreadableDocument) as error:
            self.missing.append(Missing(name, _reason(error)))


@dataclass(frozen=True)
class Reader(Full):
    """The whole text, by a decoder that was trained on some documents.

    Args:
        seen: hashes of those.
    """

    seen: frozenset[str] = frozenset()

    def key(self, kit: Kit) -> str:
        """The plain reader's: what was trained on does not change what is read."""
        return Full().key(kit)

    def trained_on(self, kit: Kit) -> frozenset[str]:  # noqa: ARG002
        """Those documents."""
        return self.seen


def certify(
    decoder: Decoder,
    data: Path,
    work: Path,
    *,
    base: Decoder | None = None,
    length: int | None = None,
    size: Size = WHOLE,
    limits: Limits = Limits(),  # noqa: B008 frozen
    minutes: float | None = None,
    trained_on: frozenset[str] = frozenset(),
    command: str = "",
) -> Certificate:
    """Measure whether a decoder's window is real; what was judged before, by content, is not judged again.

    Args:
        decoder: whose window it is, with whatever attention it has.
        data: folder of texts (`text/`) and question sets (`qa/`).
        work: folder of what was judged.
        base: the decoder that it was made of, for what its window costs in short tasks.
        length: positions to certify; None takes the whole window.
        size: how much is judged.
        limits: what must hold.
        minutes: stop after about so long; what is not done then is missing, and the next call goes on.
        trained_on: hashes of the documents that it was trained on; a part that would judge them is missing.
        command: what to type to do it again.

    Raises:
        UsageError: a length that the window does not have, or a folder that holds neither texts nor question sets.
    """
    if not any((data / kind).is_dir() for kind in ("text", "qa")):
        raise UsageError(
            expected=f"a folder with text/ or qa/ in it at {data}",
            got="neither" if data.is_dir() else "no folder",
            consequence="Nothing was measured, and no card was written.",
            remedy="Correct --data; docs/evaluation.md says what it holds.",
        )
    at, it = commit(), span(decoder, base, length)
    attention = _attention(decoder)  # before an engine puts in its own
    plan = Plan(it, size, len(decoder.start_ids))
    until = None if minutes is None else time.monotonic() + 60 * minutes
    checked = causality(decoder, [it.before + 1, it.length], size.places)
    with _outcomes(work, decoder) as folder:
        session = _Session(data, Cache(folder), until)
        regression = _regression(session, decoder, base, plan, trained_on)
        keys = _asked(session, "passkey", decoder, plan, plan.passkey, trained_on)
        by_length = session.judged("loss by length", decoder, plan.by_length, trained_on)
        by_position = session.judged("loss by position", decoder, [plan.by_position], trained_on)
        topics = _asked(session, "topic retrieval", decoder, plan, plan.topics, trained_on)
    return Certificate(
        model=decoder.name,
        fingerprint=decoder.fingerprint,
        weights=decoder.note,
        dtype=str(decoder.dtype).removeprefix("torch."),
        attention=attention,
        window=decoder.window,
        span=it,
        size=size.name,
        base=base.name if base else None,
        within=WITHIN if limits.max_regression is None else limits.max_regression,
        causality=checked,
        lengths=verdicts.by_length(by_length, it) if by_length else [],
        positions=verdicts.by_position(by_position[0], it) if by_position else [],
        passkey=keys,
        topics=topics,
        regression=regression,
        missing=session.missing,
        checks=_checks(checked, keys, regression, len(plan.short), limits),
        tables=session.tables,
        cut=session.cut,
        command=command,
        commit=at,
    )


def _asked(
    session: _Session, part: str, decoder: Decoder, plan: Plan, task: Task | None, seen: frozenset[str]
) -> list[Share]:
    """Right answers in each window that is long enough to be asked about."""
    if task is None:
        session.missing.append(Missing(part, f"{plan.span.length:,} positions hold no document beside a question"))
        return []
    found = session.judged(part, decoder, [task], seen)
    return verdicts.shares(found[0], plan.asked_windows) if found else []


def _regression(
    session: _Session, decoder: Decoder, base: Decoder | None, plan: Plan, seen: frozenset[str]
) -> list[Regression]:
    """Every short task that could be held against the base."""
    found = []
    for task in plan.short:
        own = session.judged(task.label, decoder, [task], seen)
        if base is None:
            session.missing.append(Missing(f"{task.label} beside the base", "no --base was given"))
            continue
        theirs = session.judged(f"{task.label} of the base", base, [task], frozenset()) if own else None
        if own and theirs:
            held = verdicts.regression(own[0], theirs[0])
            if held is None:
                session.missing.append(Missing(f"{task.label} beside the base", "the base has other tokens"))
            else:
                found.append(held)
    return found


def _checks(
    checked: Sequence[Causality], keys: Sequence[Share], regression: Sequence[Regression], tasks: int, limits: Limits
) -> list[Check]:
    """What must hold; `tasks` is how many short ones there are."""
    changed = sum(one.changed for one in checked)
    found = [Check("causality", float(changed), "at most 0", all(one.holds for one in checked))]
    if (least := limits.min_passkey) is not None:
        lowest = min((one.value for one in keys), default=None)
        found.append(Check("passkey", lowest, f"at least {least:g}", lowest is not None and lowest >= least))
    if (most := limits.max_regression) is not None:
        values = [one.relative.value for one in regression]
        worst = max(values, default=None)
        # What was not measured, or is no number, is no pass.
        held = len(values) == tasks and all(value <= most for value in values)
        found.append(Check("regression", worst, f"at most {most:g}", held))
    return found


@contextmanager
def _outcomes(work: Path, decoder: Decoder) -> Iterator[Path]:
    """Where outcomes are kept: not beyond this call where attention was put in by hand, whose name says nothing."""
    if _attention(decoder) in KNOWN_ATTENTION:
        yield work
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def _attention(decoder: Decoder) -> str:
    return str(decoder.model.config.get_text_config()._attn_implementation)


def _reason(error: PrereadError) -> str:
    return f"expected {error.expected}; got {error.got}"
