"""Any answerer that lays prompts, read with a LoRA that was taught a set's training questions from such prompts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from preread.core.errors import IntegrityError, UsageError
from preread.core.types import sha256, text_hash
from preread.eval.answerer import Answerer, Layout, Prompted
from preread.eval.answerers.plain import Full
from preread.eval.case import Case, Item, Stretch, Unfit
from preread.eval.kit import Kit
from preread.eval.task import Task
from preread.eval.tasks.qa import Qa
from preread.eval.tasks.sets import expect
from preread.eval.taught import SELF_STUDY, Generated, Taught, taught
from preread.eval.tuning import Lessons, NoneFits, Tuning, teach
from preread.nn.lora import Lora, digest

PROTOCOL = 1
"""Raised whenever the same settings would teach otherwise; older adapters are then not found."""
MANIFEST = "manifest.json"
NONE_FITS = "none fits"
"""Stands in a manifest where there was nothing to teach."""


@dataclass(frozen=True)
class Tuned(Tuning, Prompted):
    """Reads what another answerer reads, with a LoRA for it.

    The adapter stands in `work` under a hash of all that decides it (decoder, what is read, questions, settings), so
    any recipe that asks for it finds it. Training is a part of `ready`; without it every unit is unfit.

    Args:
        of: the other answerer's `kind` and settings; no context at all shows what the adapter alone remembers.
        lessons: what it is taught instead of the set's labels: `{kind: selfstudy}` are questions that the decoder wrote
            about the same documents; `{kind: needle, split: train}` is a generated task's part for training.
    """

    of: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    lessons: dict[str, Any] | None = None
    kind: ClassVar[str] = "tuned"

    def __post_init__(self) -> None:
        expect(1, documents=self.documents, questions=self.questions, steps=self.steps, batch=self.batch)
        of = self.inner.label  # made now, so that a wrong one is refused before anything is done
        assert self._taught or self.set is None
        if not self.epochs > 0 or not self.learning_rate > 0:
            raise UsageError(
                expected="epochs and a learning_rate above 0",
                got=f"{self.epochs:g} and {self.learning_rate:g} for {of}, tuned",
                consequence="Nothing was judged.",
                remedy="Correct it in the recipe.",
            )

    @cached_property
    def inner(self) -> Prompted:
        """The other answerer.

        Raises:
            UsageError: an unknown kind or setting, or one that is tuned itself.
        """
        from preread.eval.answerers import ANSWERERS  # which names this one too
        from preread.eval.recipe import built

        table = {kind: made for kind, made in ANSWERERS.items() if kind != self.kind and issubclass(made, Prompted)}
        made = built(table, self.of, "answerer that can be tuned")
        assert isinstance(made, Prompted)
        return made

    @property
    def label(self) -> str:
        """As tables name it: with the set where the recipe names one, and what differs from the usual training."""
        usual = Tuning()
        told = ["by self-study"] if self.lessons and self.lessons.get("kind") == SELF_STUDY else []
        told += [f"on {Path(self.set).name.split('.')[0]}"] if self.set else []
        told += [f"on {self._taught.label}"] if isinstance(self._taught, Generated) else []
        told += [f"lr {self.learning_rate:g}"] if self.learning_rate != usual.learning_rate else []
        told += [f"distil {self.distil:g}"] if self.distil != usual.distil else []
        return " ".join([f"{self.inner.label}, tuned", *told])

    def key(self, kit: Kit) -> str:
        """What it reads, and every number of its adapter."""
        learned = self._manifest(kit)
        what = self._folder(kit).name if self._taught else self.inner.key(kit)
        return f"{self.kind} {what} {learned['digest'] if learned else 'not yet'}"

    def caveats(self, kit: Kit) -> tuple[str, ...]:
        """What it was taught, and what was left out of that."""
        learned = self._manifest(kit)
        if not learned or not self._taught or NONE_FITS in learned:
            return self.inner.caveats(kit)
        notes = [
            f"LoRA of rank {self.lora.rank}, one for all documents, taught {learned['questions']} questions of "
            f"{len(learned['documents'])} documents of {self._taught.label} in {learned['steps']} steps of "
            f"{self.batch} at {self.learning_rate:g}"
        ]
        if learned["left_out"]:
            notes.append(f"{learned['left_out']} training questions left out: over {learned['limit']} positions")
        return (*self.inner.caveats(kit), *notes)

    def trained_on(self, kit: Kit) -> frozenset[str]:
        """The documents of its training questions, also before the training, and those of what it reads."""
        learned = self._manifest(kit)
        own = learned["documents"] if learned else self._taught.documents(kit) if self._taught else []
        return self.inner.trained_on(kit) | frozenset(own)

    def on(self, task: Task) -> Answerer:
        """Taught the training questions of the task's own set, where the recipe names none."""
        return replace(self, set=task.set) if self._taught is None and isinstance(task, Qa) else self

    def ready(self, kit: Kit, until: float | None = None) -> bool:
        """Train the adapter, unless it is there."""
        if self._taught is None or self._manifest(kit):
            return True
        if (until is not None and time.monotonic() >= until) or not self._taught.ready(kit, until):
            return False
        teacher = Full() if self.distil else None
        try:
            lessons = Lessons(kit, self.inner, teacher, self._taught.cases(kit), self, self._taught.missing)
        except NoneFits as error:  # known from now on, for every document was read to see it
            self._untaught(kit, error)
            return True
        documents = sorted({text_hash(lessons.cases[case].document.text) for case, _ in lessons.taught})
        about = {"recipe": asdict(self), "documents": documents}
        return teach(lessons, self._folder(kit), f"tuning {self.label}", about, until)

    @contextmanager
    def laid(self, kit: Kit, case: Case, items: Sequence[Item], adapter: str | None = None) -> Iterator[Layout]:
        """As `Prompted.laid`, with the adapter of its own."""
        assert adapter is None, "a prompt has one adapter"
        with self.inner.laid(kit, case, items, self._attached(kit)) as layout:
            yield layout

    @contextmanager
    def continued(self, kit: Kit, stretch: Stretch) -> Iterator[Layout]:
        """As `Prompted.continued`, with the adapter: what tuning does to running text."""
        name = self._attached(kit)
        with self.inner.continued(kit, stretch) as layout:
            yield replace(layout, prompts=[replace(prompt, adapter=name) for prompt in layout.prompts])

    def _attached(self, kit: Kit) -> str:
        """The adapter's name on the decoder. It stays there for the run: it acts for prompts that name it alone."""
        learned = self._manifest(kit)
        if not learned:
            raise Unfit(
                expected="a finished adapter"
                if self._taught
                else "a task with training questions, or a set or lessons",
                got="a training that has not come to its end" if self._taught else "neither",
                consequence="The row is empty.",
                remedy="Run the same command again: the training goes on." if self._taught else "Name a set.",
            )
        if NONE_FITS in learned:
            raise NoneFits(**learned[NONE_FITS])
        folder, adapters = self._folder(kit), kit.decoder.adapters
        if folder.name not in adapters:
            lora = Lora.load(folder, kit.decoder.projections)
            if digest(lora) != learned["digest"]:
                raise IntegrityError(
                    expected=f"the adapter that {folder / MANIFEST} describes",
                    got="other numbers",
                    consequence="Nothing more was judged.",
                    remedy=f"Delete {folder} to train it again.",
                )
            adapters.add(folder.name, lora)
        return folder.name

    @cached_property
    def _taught(self) -> Taught | None:
        """Its lessons; None before it stands in the table of a set, where the recipe names neither."""
        task = None if self.set is None else Qa(self.set, self.split, self.documents, self.questions)
        return taught(self.lessons, task)

    def _untaught(self, kit: Kit, error: NoneFits) -> None:
        """Leave a manifest without an adapter."""
        told = {name: getattr(error, name) for name in ("expected", "got", "consequence", "remedy")}
        path = self._folder(kit) / MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{MANIFEST}.part")
        half.write_text(json.dumps({"training": {NONE_FITS: told, "documents": [], "digest": NONE_FITS}}))
        half.replace(path)

    def _manifest(self, kit: Kit) -> Mapping[str, Any] | None:
        """What a finished training said of itself."""
        if self._taught is None:
            return None
        try:
            found: dict[str, Any] = json.loads((self._folder(kit) / MANIFEST).read_text(encoding="utf-8"))["training"]
        except FileNotFoundError:
            return None
        return found

    def _folder(self, kit: Kit) -> Path:
        """Where the adapter is or will be, named by all that decides it; found out once, for that takes a while."""
        where = kit.reader, str(kit.decoder.dtype), kit.decoder.device.type, str(kit.data)
        if where not in self._names:
            assert self._taught, "nobody asks where nothing is taught"
            settings = {one.name: getattr(self, one.name) for one in fields(Tuning)}
            parts = (str(PROTOCOL), *where[:3], self.inner.key(kit), repr(self._taught.content(kit)), repr(settings))
            self._names[where] = sha256(*parts)[:16]
        return kit.work / self._names[where]

    @cached_property
    def _names(self) -> dict[tuple[str, ...], str]:
        return {}
