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
from preread.models.encoders import load_encoder, most_tokens
from preread.nn.hf import Decoder


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
        UsageError: chunks of no token, or none at a time.
    """

    def __init__(self, decoder: Decoder, config: BorrowedConfig, kept: Path | None = None) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        if config.chunk < 1 or config.together < 1:
            raise UsageError(
                expected="chunks of at least 1 token, at least 1 at a time",
                got=f"chunk: {config.chunk}, together: {config.together}",
                consequence="No encoder was made.",
                remedy="Correct `borrowed`.",
            )
        model, self.tokenizer = load_encoder(str(kept or config.name), weights=kept is None)
        self.model, self.longest = model.to(decoder.device), most_tokens(model, self.tokenizer)
        self.chunk, self.together = config.chunk, config.together
        self.width = int(model.config.get_text_config().hidden_size)

    def keep(self, folder: Path) -> None:
        """Write what is needed beside the weights to make it again."""
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

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
        # A chunk of special tokens alone has no text, and then perhaps no token of the encoder's.
        told = read["attention_mask"].any(dim=1)
        ids, mask, of = (read[name][told] for name in ("input_ids", "attention_mask", "overflow_to_sample_mapping"))
        pieces = [[torch.zeros(0, self.width, dtype=self.decoder.dtype, device=ids.device)] for _ in chunks]
        if len(of):
            states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.to(self.decoder.dtype)
            for chunk, row, valid in zip(of.tolist(), states, mask.bool(), strict=True):
                pieces[chunk].append(row[valid])
        return [torch.cat(some) for some in pieces]
