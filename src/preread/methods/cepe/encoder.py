"""The context encoder: chunks of text, all side by side, each to a state for every token (CEPE, arXiv 2402.16617).

The paper's is a model of its own, pre-trained for this. Ours is by default the decoder's bottom layers, looking both
ways, with low-rank updates that act only here: the same tokens, no second set of weights, and what is trained is small.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from preread.core.errors import UsageError
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, LoraConfig

EPS = 1e-6
"""Of the norm behind the layers, which is the encoder's own."""
BOTTOM = 6
"""Layers where none are told."""
_numbers = count()
"""Several encoders may sit on one decoder, so each is attached under a name of its own."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder.

    Args:
        layers: how many of the decoder's layers, from the bottom; None is 6, or all of a decoder that has fewer.
        attention: whether a chunk's tokens see those behind them, as in the paper; `causal` is what the layers were
            trained for, and the better without long training (docs/cepe-training.md).
        lora: of the updates.
        chunk: most tokens of a chunk; positions beyond were not trained.
        together: chunks that are encoded at the same time.
    """

    layers: int | None = None
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    lora: LoraConfig = LoraConfig(rank=16, alpha=32.0, dropout=0.0)
    chunk: int = 256
    together: int = 16


class Encoder(nn.Module, ABC):
    """What reads chunks, each alone and at positions of its own from 0 on, to states that a decoder can attend to.

    Attributes:
        chunk: most tokens of a chunk.
        together: chunks that are encoded at the same time.
        width: S, of a state.
    """

    chunk: int
    together: int
    width: int

    def forward(self, chunks: Sequence[Tensor], blank: Tensor | None = None) -> list[Tensor]:
        """States of each chunk, which hang on nothing outside of it.

        Args:
            chunks: each [T] int64 token ids, at most `chunk` of them; `MEMORY` where a token is blanked out.
            blank: what the encoder is given in its stead, as wide as an input embedding.

        Returns:
            Each [T, S] in the decoder's dtype.

        Raises:
            UsageError: a chunk is longer.
        """
        if (longest := max(map(len, chunks), default=0)) > self.chunk:
            raise UsageError(
                expected=f"chunks of at most {self.chunk} tokens",
                got=f"one of {longest}",
                consequence="Nothing was encoded.",
                remedy="Cut the text into shorter passages.",
            )
        states: list[Tensor] = []
        for first in range(0, len(chunks), self.together):
            states += self._together(chunks[first : first + self.together], blank)
        return states

    def attach(self) -> None:
        """Put on the decoder what acts on it inside `forward`; an encoder beside it has nothing to put there."""

    def detach(self) -> None:
        """Take it off; a second call does nothing."""

    @abstractmethod
    def embed(self, ids: Tensor, blank: Tensor | None = None) -> Tensor:
        """[..., T] ids -> [..., T, W] input embeddings, `blank` [W] where `MEMORY` stands."""

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """[..., S] states -> [..., V]: which token each stands for."""

    @abstractmethod
    def _together(self, chunks: Sequence[Tensor], blank: Tensor | None) -> list[Tensor]:
        """[T, S] of each of a few chunks."""


class ContextEncoder(Encoder):
    """The bottom of a decoder, looking both ways; its width of states, S, is the decoder's D.

    Args:
        decoder: whose layers are used; nothing is attached until `attach`.
        config: its shape.

    Raises:
        UsageError: the decoder has not as many layers.
    """

    def __init__(self, decoder: Decoder, config: EncoderConfig) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        self.chunk, self.together, self.width = config.chunk, config.together, decoder.width
        self.adapter = f"cepe/encoder/{next(_numbers)}"
        layers = decoder.model.base_model.layers
        self.layers = min(BOTTOM, len(layers)) if config.layers is None else config.layers
        if not 0 < self.layers <= len(layers) or config.chunk < 1 or config.together < 1:
            raise UsageError(
                expected=f"1 to {len(layers)} layers, and chunks of at least 1 token, at least 1 at a time",
                got=f"layers: {self.layers}, chunk: {config.chunk}, together: {config.together}",
                consequence="No encoder was made.",
                remedy="Correct `encoder`.",
            )
        used = {id(module) for layer in layers[: self.layers] for module in layer.modules()}
        self.lora = Lora(config.lora, {n: layer for n, layer in decoder.projections.items() if id(layer) in used})
        self.gain = nn.Parameter(torch.ones(decoder.width, device=decoder.device))

    def attach(self) -> None:
        """Make the updates available to the decoder; they act only inside `forward`."""
        self.decoder.adapters.add(self.adapter, self.lora)

    def detach(self) -> None:
        """Take the updates off the decoder."""
        self.decoder.adapters.remove(self.adapter)

    def embed(self, ids: Tensor, blank: Tensor | None = None) -> Tensor:
        """As `Encoder.embed`, by the decoder's table."""
        return self.decoder.embed(ids, None if blank is None else blank.expand(*ids.shape, -1))

    def logits(self, states: Tensor) -> Tensor:
        """As `Encoder.logits`, by the decoder's head."""
        return self.decoder.logits(states)

    def _together(self, chunks: Sequence[Tensor], blank: Tensor | None) -> list[Tensor]:
        lengths = [len(chunk) for chunk in chunks]
        ids = nn.utils.rnn.pad_sequence(list(chunks), batch_first=True)
        mask = self.decoder.open_mask(lengths) if self.config.attention == "bidirectional" else None
        with self.decoder.adapters.use(self.adapter), _bottom(self.decoder.model, self.layers):
            states = self.decoder.hidden(self.embed(ids, blank), mask)
        gained = F.rms_norm(states, states.shape[-1:], self.gain.to(states.dtype), EPS)
        return [row[:length] for row, length in zip(gained, lengths, strict=True)]


@contextmanager
def _bottom(model: PreTrainedModel, layers: int) -> Iterator[None]:
    """The model as if it ended after some layers, without its last norm."""
    base: Any = model.base_model
    whole, norm = base.layers, base.norm
    base.layers, base.norm = whole[:layers], nn.Identity()
    try:
        yield
    finally:
        base.layers, base.norm = whole, norm
