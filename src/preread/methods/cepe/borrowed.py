"""Any encoder from Hugging Face as context encoder: it reads a chunk's text by its own tokenizer.

So a chunk has as many states as the encoder has tokens for it, which cross-attention does not mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from preread.core.errors import UsageError
from preread.methods.cepe.encoder import Encoder
from preread.models.encoders import load_encoder
from preread.nn.hf import Decoder

LONGEST = 512
"""Tokens of the encoder's that it reads at once, where its config does not say."""


@dataclass(frozen=True)
class BorrowedConfig:
    """Which encoder.

    Args:
        name: a folder, or a hub id.
        chunk: most tokens of a chunk, as the decoder counts them.
        together: chunks that are encoded at the same time.
    """

    name: str
    chunk: int = 256
    together: int = 16


class BorrowedEncoder(Encoder):
    """Reads the text of chunks; what it was goes on training with the reader.

    Args:
        decoder: whose tokens chunks are, and whose dtype states have.
        config: which encoder.
        kept: folder that `keep` wrote, in the place of the one that the config names; its weights are random.

    Raises:
        UnknownModel, UnsupportedModel: as `load_encoder`.
    """

    def __init__(self, decoder: Decoder, config: BorrowedConfig, kept: Path | None = None) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        model, self.tokenizer = load_encoder(str(kept or config.name), weights=kept is None)
        self.model = model.to(decoder.device)
        shape = model.config.get_text_config()
        self.chunk, self.together, self.width = config.chunk, config.together, int(shape.hidden_size)
        # RoBERTa's table has two positions more than it may use; `model_max_length` knows, where it was told.
        told = (self.tokenizer.model_max_length, getattr(shape, "max_position_embeddings", None) or LONGEST)
        self.longest = min(told)

    def keep(self, folder: Path) -> None:
        """Write what is needed beside the weights to make it again."""
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def attach(self) -> None:
        """Nothing of it sits on the decoder."""

    def detach(self) -> None:
        """Nothing of it sits on the decoder."""

    def embed(self, ids: Tensor, blank: Tensor | None = None) -> NoReturn:  # noqa: ARG002
        """It cannot: it reads text, not the decoder's tokens.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            expected="an encoder that reads the decoder's tokens, to learn by blanked ones",
            got=self.config.name,
            consequence="Nothing was trained.",
            remedy="Leave the stage mlm out: this encoder was pre-trained already.",
        )

    def logits(self, states: Tensor) -> NoReturn:
        """As `embed`."""
        self.embed(states)

    def _together(self, chunks: Sequence[Tensor], blank: Tensor | None) -> list[Tensor]:
        if blank is not None:
            self.embed(chunks[0], blank)
        texts = [self.decoder.tokenizer.decode(chunk, skip_special_tokens=True) for chunk in chunks]
        # A text of more tokens than the encoder may read at once is read in pieces, one behind the other.
        read = self.tokenizer(
            texts,
            truncation=True,
            max_length=self.longest,
            return_overflowing_tokens=True,
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        of = read.pop("overflow_to_sample_mapping")
        mask: Tensor = read["attention_mask"]
        states: Tensor = self.model(**read).last_hidden_state.to(self.decoder.dtype)
        pieces: list[list[Tensor]] = [[] for _ in chunks]
        for chunk, row, valid in zip(of.tolist(), states, mask.bool(), strict=True):
            pieces[chunk].append(row[valid])
        return [torch.cat(some) for some in pieces]
