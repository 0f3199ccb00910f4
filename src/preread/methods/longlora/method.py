"""`longlora`: plain tokens in a window extended by fine-tuning with shifted sparse attention (arXiv 2309.12307).

Training attends sparsely and reading attends in full. What training adds is an `Extension`; merged into the decoder
(`export`) it is an ordinary model with a longer window, which every method and every other program can use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.memory import Memory
from preread.core.method import Method, Objective
from preread.core.types import Scope, sha256
from preread.methods.longlora.attaching import attach, detach
from preread.methods.longlora.extension import Extension, ExtensionConfig
from preread.methods.longlora.objective import MANIFEST, ExtendObjective, InstructObjective
from preread.nn.activations import Levers, frugal
from preread.nn.hf import Decoder
from preread.nn.plain import PlainHandle
from preread.nn.rope import RULES, Rule, stretched
from preread.nn.views import view

STAGES = {"extend": ExtendObjective, "instruct": InstructObjective}
Kind = Literal["s2", "full"]
Backend = Literal["auto", "sdpa", "flex", "varlen"]


@dataclass(frozen=True)
class Attention:
    """How a training attends.

    Args:
        kind: `s2`, or `full` for the grid that it is compared in, by the same kernels.
        group: tokens of a group; None takes a quarter of the new window, and the old window where that is longer.
        shifted: whether half of the heads attend in groups moved by half of one; without, no group sees another.
        reading: whether it attends sparsely outside training too (the paper: optional at inference).
        backend: what computes it.
    """

    kind: Kind = "s2"
    group: int | None = None
    shifted: bool = True
    reading: bool = False
    backend: Backend = "auto"


@dataclass(frozen=True)
class LongLora(Method):
    """How a window is extended.

    Args:
        length: positions of the new window; None is the decoder's own, or what the weights were trained for.
        rule: how positions are stretched to it: `linear` as the paper, `yarn` (the better one), `ntk` or `longrope`;
            with `weights`, theirs.
        weights: folder of a trained extension; None reads with the decoder as it is.
        extension: what a training adds.
        attention: how a training attends.
        levers: how a training saves memory.
    """

    name: ClassVar[str] = "longlora"
    length: int | None = None
    rule: str = "yarn"
    weights: Path | None = None
    extension: ExtensionConfig = ExtensionConfig()
    attention: Attention = Attention()
    levers: Levers = Levers()

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(
                expected=f"a rule out of {', '.join(RULES)}",
                got=self.rule,
                consequence="Nothing was done.",
                remedy="Correct `rule`; yarn is the usual one.",
            )

    def attach(self, decoder: Decoder) -> LongLoraHandle:
        """Stretch the decoder's positions and put the extension's weights in force.

        Raises:
            IntegrityError: the weights are damaged.
            FingerprintMismatch: they were trained for another decoder.
            UnsupportedModel: its RoPE cannot be stretched.
        """
        return LongLoraHandle(self, decoder)


class LongLoraHandle(PlainHandle):
    """The whole document as it is, in the extended window.

    `decoder` is a view of the one attached to, with a window and a fingerprint of its own.
    """

    name: ClassVar[str] = "longlora"
    reads: ClassVar[Scope] = "document"

    def __init__(self, method: LongLora, decoder: Decoder) -> None:
        self.method, self.base, self.trained_window = method, decoder, decoder.window
        self.extension: Extension | None = None
        self.manifest = _manifest(method.weights, decoder) if method.weights else {}
        self._training = ExitStack()
        with ExitStack() as stack:
            trained = self.manifest.get("length")
            length = _length(method.length, trained, decoder.window)
            self.rule: Rule = RULES[self.manifest.get("rule", method.rule)](max(1.0, length / decoder.window))
            seen = stack.enter_context(stretched(decoder, self.rule))
            if method.weights:
                self.extension = Extension.load(method.weights, decoder)
                self.extension.attach()
                stack.callback(self.extension.detach)
                seen = view(seen, fingerprint=sha256(seen.fingerprint, self.extension.hash))
            if method.attention.reading:
                stack.enter_context(_attending(seen, self.trained_window, method.attention, reading=True))
            super().__init__(seen)
            self._attached = stack.pop_all()

    @property
    def trained_on(self) -> frozenset[str]:
        """The extension's documents."""
        return frozenset(self.manifest.get("trained_on", ()))

    @property
    def alters(self) -> bool:
        """Where it has weights or stretches positions."""
        return self.rule.factor > 1 or self.extension is not None or self.method.attention.reading

    def caveats(self, memories: Sequence[Memory]) -> tuple[str, ...]:
        """That positions are stretched and nothing was trained for it, where that is so."""
        if memories and self.rule.factor > 1 and self.extension is None:
            return (f"positions are stretched by {self.rule.name} x{self.rule.factor:g} without training",)
        return ()

    def objective(self, stage: str, **settings: Any) -> Objective:
        """`extend` trains on running text, `instruct` on long instructions; both go on from `weights` if there are any.

        Args:
            stage: one of the two.
            settings: `pose`, whether windows skip positions; `attention`, `s2` or `full` in the place of the method's,
                so that the last phase of a curriculum may attend as reading will.

        Raises:
            UsageError: another stage or kind of attention.
        """
        if stage not in STAGES:
            raise UsageError(
                expected=f"stage {' or '.join(STAGES)}",
                got=stage,
                consequence="Nothing was trained.",
                remedy="Choose one of the two.",
            )
        return self._objective(stage, **settings)

    def detach(self) -> None:
        """Put weights, positions and attention back."""
        self._training.close()
        self._attached.close()

    def _objective(self, stage: str, pose: bool = False, attention: Kind | None = None) -> ExtendObjective:
        if attention not in (None, *get_args(Kind)):
            raise UsageError(
                expected=f"attention: {' or '.join(get_args(Kind))}",
                got=str(attention),
                consequence="Nothing was trained.",
                remedy="Correct `objective` in the recipe.",
            )
        self._training.close()  # of the phase before
        attending = replace(self.method.attention, kind=attention or self.method.attention.kind)
        with ExitStack() as stack:
            extension = self.extension
            if extension is None:
                extension = Extension(self.method.extension, self.base)
                extension.attach()
                stack.callback(extension.detach)
            sparing = stack.enter_context(ExitStack())  # what ends with the training, while its weights stay in force
            if not self.method.attention.reading:
                sparing.enter_context(_attending(self.decoder, self.trained_window, attending, reading=False))
            sparing.enter_context(frugal(self.decoder.model, self.method.levers, self.decoder.acting))
            made = {
                "kind": "extension",
                "base": self.base.fingerprint,
                "rule": self.rule.name,
                "length": self.decoder.window,
                "trained_on": sorted(self.trained_on),
            }
            objective = STAGES[stage](self.decoder, extension, made, pose, sparing.close)
            stack.callback(self.decoder.model.eval)
            self._training = stack.pop_all()
        return objective


@contextmanager
def _attending(decoder: Decoder, window: int, attention: Attention, reading: bool) -> Iterator[None]:
    """Inside the block the decoder attends as said, in training, or in reading too.

    Args:
        decoder: with its new window.
        window: the one before, up to which attention is full.
        attention: how.
        reading: whether in reading too.
    """
    group, full_below = attention.group, window
    if attention.kind == "full" or decoder.window <= window:  # the same kernels, each document a single stretch
        group, full_below = 2, decoder.window
    attach(
        decoder.model,
        decoder.window,
        group=group,
        shifted=attention.shifted,
        inference=reading,
        backend=attention.backend,
        full_below=full_below,
    )
    try:
        yield
    finally:
        detach(decoder.model)


def _length(wanted: int | None, trained: int | None, window: int) -> int:
    """Positions of the new window."""
    if trained is not None and wanted not in (None, trained):
        expected, remedy = f"length: {trained}, as the weights were trained for", "Leave `length` out."
    elif wanted is not None and wanted < window:
        expected, remedy = f"a length of {window} or more", f"The decoder has {window} positions already; ask for more."
    else:
        return wanted or trained or window
    raise UsageError(expected, str(wanted), "Nothing was attached.", remedy)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was trained, at which length and for whom.

    Raises:
        IntegrityError: the folder holds no trained extension.
    """
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _, _, _ = found["base"], RULES[found["rule"]], float(found["length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            expected=f"a trained extension in {folder}",
            got=f"{type(error).__name__}: {error}",
            consequence="Nothing was attached.",
            remedy="Name the folder `trained` of a finished run, or train one: preread train longlora RECIPE",
        ) from error
    return found


def _manifest(folder: Path, decoder: Decoder) -> dict[str, Any]:
    """What was trained, for this decoder."""
    found = read_manifest(folder)
    base = str(found["base"])
    if base != decoder.fingerprint:
        raise FingerprintMismatch(
            expected=f"an extension of {decoder.name} ({decoder.fingerprint[:12]})",
            got=f"one of the decoder {base[:12]} in {folder}",
            consequence="Nothing was attached.",
            remedy="Open the decoder that it was trained for, or train one for this decoder.",
        )
    return found
