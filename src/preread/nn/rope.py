"""Rules that stretch a decoder's window by slower rotary frequencies, without training.

RoPE (arXiv 2104.09864) turns pair i of a head's components by position * theta**(-2i / E), i from 0 to E / 2 - 1. Each
rule is a small dataclass: the frequencies it makes of those, what queries and keys are multiplied by, and how a model's
config says the same. tests/nn holds all of it against transformers' own functions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from preread.core.errors import UnsupportedModel, UsageError
from preread.core.types import sha256
from preread.nn.hf import Decoder
from preread.nn.views import view

FAST, SLOW = 32.0, 1.0
"""YaRN's beta and alpha: turns within the window from which a pair is left as it is, and up to which it is slowed in
full. The paper's values for Llama, and what models that name none mean."""


@dataclass(frozen=True, slots=True)
class Rope:
    """How a decoder turns its heads as it was trained.

    Args:
        frequencies: [E / 2] float32 radians a position, fastest first.
        theta: base of the frequencies.
        window: positions it was trained for.
    """

    frequencies: Tensor
    theta: float
    window: int


@dataclass(frozen=True)
class Rule(ABC):
    """A way to stretch the window.

    Args:
        factor: new window / old window, 1 or more; at 1 every rule is the decoder as it was.

    Class attributes:
        name: as recipes and tables say it.

    Raises:
        UsageError: a factor below 1, or none that is finite.
    """

    factor: float
    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not 1 <= self.factor < math.inf:
            raise _senseless("a window that is stretched by a factor of at least 1", f"{self.factor}")

    def window(self, before: int) -> int:
        """Positions of a window of `before`, stretched; rounded, for (new / old) * old may fall below new."""
        return round(before * self.factor)

    @abstractmethod
    def frequencies(self, rope: Rope) -> Tensor:
        """[E / 2] float32 radians a position."""

    def scaling(self, rope: Rope) -> float:  # noqa: ARG002 most rules look at the factor alone
        """What rotated queries and keys are multiplied by, each."""
        return 1.0

    @abstractmethod
    def parameters(self, rope: Rope) -> dict[str, Any]:
        """The same as `rope_parameters` of a config, so that a saved model loads with it anywhere."""


class Linear(Rule):
    """Position interpolation (arXiv 2306.15595): every pair turns slower by the factor."""

    name: ClassVar[str] = "linear"

    def frequencies(self, rope: Rope) -> Tensor:
        """As `Rule.frequencies`."""
        return rope.frequencies / self.factor

    def parameters(self, rope: Rope) -> dict[str, Any]:
        """As `Rule.parameters`."""
        return {"rope_type": "linear", "factor": self.factor, "rope_theta": rope.theta}


class Ntk(Rule):
    """NTK-aware scaling with a fixed factor (arXiv 2309.00071, section 3.1).

    A larger base: the slowest pair turns slower by the factor, the fastest as before. It is transformers' `dynamic`
    rule at factor * window positions, held there, so that one prompt is turned alike from its first token to its last.
    """

    name: ClassVar[str] = "ntk"

    def frequencies(self, rope: Rope) -> Tensor:
        """As `Rule.frequencies`."""
        pairs = len(rope.frequencies)
        step = torch.arange(pairs, dtype=torch.float64, device=rope.frequencies.device) / max(1, pairs - 1)
        return (rope.frequencies.double() * self.factor**-step).float()

    def parameters(self, rope: Rope) -> dict[str, Any]:
        """As `Rule.parameters`."""
        pairs = len(rope.frequencies)
        return {"rope_type": "default", "rope_theta": rope.theta * self.factor ** (pairs / max(1, pairs - 1))}


class Yarn(Rule):
    """YaRN (arXiv 2309.00071, section 3.4): fast pairs as they were, slow ones interpolated, sharper attention.

    Between the two the share of interpolation grows with the number of the pair, from the last that makes `FAST` turns
    within the window to the first that makes `SLOW`, as in the authors' code; the paper's formula has it grow with the
    number of turns.
    """

    name: ClassVar[str] = "yarn"

    def frequencies(self, rope: Rope) -> Tensor:
        """As `Rule.frequencies`."""
        slowed = _slowed(rope)
        return (rope.frequencies.double() * (slowed / self.factor + (1 - slowed))).float()

    def scaling(self, rope: Rope) -> float:  # noqa: ARG002
        """The root of the paper's 1 / t, once for queries and once for keys."""
        return 0.1 * math.log(self.factor) + 1.0

    def parameters(self, rope: Rope) -> dict[str, Any]:
        """As `Rule.parameters`."""
        original = {"original_max_position_embeddings": rope.window}
        return {"rope_type": "yarn", "factor": self.factor, "rope_theta": rope.theta, **original}


@dataclass(frozen=True)
class LongRope(Rule):
    """LongRoPE (arXiv 2402.13753): every pair is slowed by a factor of its own, and attention is sharper.

    The authors search for the factors, model by model; give what a search found. Without, they are a closed form of
    ours and no search's result: 1 for the pairs that YaRN leaves as they were, the whole factor for those that it
    interpolates in full, and between them its power by YaRN's share. Long and short prompts are turned alike, so that
    what was read of a prompt stays true as it grows; the authors turn those within the old window as before.

    Args:
        factors: [E / 2] factors of 1 or more, the fastest pair first; None for the closed form.

    Raises:
        UsageError: a factor below 1, or none that is finite.
    """

    name: ClassVar[str] = "longrope"
    factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factors is not None and not all(1 <= factor < math.inf for factor in self.factors):
            raise _senseless("pairs that are slowed by factors of at least 1", f"one of {min(self.factors)}")

    def frequencies(self, rope: Rope) -> Tensor:
        """As `Rule.frequencies`.

        Raises:
            UsageError: there are not as many factors as pairs.
        """
        return (rope.frequencies.double() / self._factors(rope)).float()

    def scaling(self, rope: Rope) -> float:
        """The paper's, which keeps the attention's entropy as it was."""
        return math.sqrt(1 + math.log(self.factor) / math.log(rope.window))

    def parameters(self, rope: Rope) -> dict[str, Any]:
        """As `Rule.parameters`."""
        factors = self._factors(rope).tolist()
        original = {"original_max_position_embeddings": rope.window}
        lists = {"short_factor": factors, "long_factor": factors}
        return {"rope_type": "longrope", "factor": self.factor, "rope_theta": rope.theta, **lists, **original}

    def _factors(self, rope: Rope) -> Tensor:
        """[E / 2] float64."""
        if self.factors is None:
            return self.factor ** _slowed(rope)
        if len(self.factors) != len(rope.frequencies):
            raise _senseless(f"{len(rope.frequencies)} factors, one for each pair", str(len(self.factors)))
        return torch.tensor(self.factors, dtype=torch.float64, device=rope.frequencies.device)


RULES: Mapping[str, type[Rule]] = {rule.name: rule for rule in (Linear, Ntk, Yarn, LongRope)}
"""Every rule by its name."""


@contextmanager
def stretched(decoder: Decoder, rule: Rule) -> Iterator[Decoder]:
    """A view of the decoder with a rule in force and a window as many times as large, inside the block.

    The view shares the decoder's weights and adapters, and has a fingerprint of its own: what it makes of a text is not
    what the decoder would. Other threads' readers wait; behind the block everything is as it was, bit for bit. A factor
    of 1 gives the decoder itself.

    Raises:
        UnsupportedModel: its RoPE is not the plain one, the same in every layer, or it is narrowed.
    """
    if rule.factor == 1:
        yield decoder
        return
    if decoder.narrowed:
        raise UnsupportedModel(
            expected="a decoder with all of the window that it was trained for, to be stretched",
            got=f"{decoder.name} opened with {decoder.narrowed} positions",
            consequence="Nothing was read.",
            remedy="Open it without a window.",
        )
    rope, rotary, config = rope_of(decoder), _rotary(decoder), decoder.model.config.get_text_config()
    seen = view(decoder, fingerprint=sha256(decoder.fingerprint, repr(rule)))
    with decoder.adapters.use(None):
        before = rotary.inv_freq, rotary.attention_scaling, config.rope_parameters, config.max_position_embeddings
        try:
            rotary.inv_freq, rotary.attention_scaling = rule.frequencies(rope), rule.scaling(rope)
            # What part of a head turns is no rule's to say.
            config.rope_parameters = {**config.rope_parameters, **rule.parameters(rope)}
            config.max_position_embeddings = rule.window(rope.window)
            yield seen
        finally:
            rotary.inv_freq, rotary.attention_scaling = before[:2]
            config.rope_parameters, config.max_position_embeddings = before[2:]


def rope_of(decoder: Decoder) -> Rope:
    """The decoder's RoPE.

    Raises:
        UnsupportedModel: it is not the plain one, the same in every layer.
    """
    frequencies: Tensor = _rotary(decoder).inv_freq
    return Rope(
        frequencies, float(decoder.model.config.get_text_config().rope_parameters["rope_theta"]), decoder.window
    )


def _rotary(decoder: Decoder) -> Any:
    """The one module that makes all angles; `Any`, for what it keeps is not declared."""
    found = [module for module in decoder.model.modules() if hasattr(module, "inv_freq")]
    kind = (decoder.model.config.get_text_config().rope_parameters or {}).get("rope_type", "one for each kind of layer")
    if len(found) != 1 or kind != "default":
        raise UnsupportedModel(
            expected="plain RoPE, the same in every layer",
            got=f"{len(found)} modules of angles, rope_type {kind}, in {decoder.name}",
            consequence="The window was not stretched.",
            remedy="Take a decoder without scaled positions, or stay inside its window.",
        )
    return found[0]


def _slowed(rope: Rope) -> Tensor:
    """[E / 2] float64: YaRN's share of interpolation of each pair, from 0 to 1."""
    pairs = len(rope.frequencies)
    first = max(math.floor(_pair(rope, pairs, FAST)), 0)
    last = min(math.ceil(_pair(rope, pairs, SLOW)), 2 * pairs - 1)
    number = torch.arange(pairs, dtype=torch.float64, device=rope.frequencies.device)
    return ((number - first) / max(last - first, 1e-3)).clamp(0, 1)


def _pair(rope: Rope, pairs: int, turns: float) -> float:
    """Number of the pair that makes so many turns within the window, fractions included."""
    return pairs * math.log(rope.window / (turns * 2 * math.pi)) / math.log(rope.theta)


def _senseless(expected: str, got: str) -> UsageError:
    return UsageError(expected, got, "Nothing was done.", "Choose a factor of 2 to read twice as far.")
