"""`text`: passages as plain tokens, the honest baseline that every other method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from preread.core.method import Method, Objective
from preread.core.types import Scope
from preread.nn.answering import adapter_objective
from preread.nn.hf import Decoder
from preread.nn.plain import PlainHandle


@dataclass(frozen=True)
class Text(Method):
    """Plain tokens; nothing to set."""

    name: ClassVar[str] = "text"

    def attach(self, decoder: Decoder) -> TextHandle:
        """Bind to a decoder; nothing is attached to it."""
        return TextHandle(decoder)


class TextHandle(PlainHandle):
    """The best passages as they are."""

    name: ClassVar[str] = "text"
    reads: ClassVar[Scope] = "passage"

    def objective(self, stage: str, **settings: Any) -> Objective:
        """Stage `adapter`: a LoRA that answers from the text, the baseline of every tuned method."""
        return adapter_objective(self.decoder, stage, settings)

    def detach(self) -> None:
        """Nothing was attached."""
