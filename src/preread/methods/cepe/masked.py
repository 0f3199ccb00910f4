"""The `mlm` stage: an encoder learns to tell the tokens that are blanked out of a chunk (BERT, arXiv 1810.04805).

As CEPE's authors pre-train theirs (section 3.2): three tokens in ten, and a blank in the place of each, never another
token. A decoder's tokenizer has no blank, so it is a vector that trains; nobody needs it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from preread.core.types import MEMORY, TextBatch
from preread.methods.cepe.objective import ReaderObjective, senseless
from preread.methods.cepe.reader import Reader
from preread.nn.losses import answer_losses

BLANKED = 0.3


class MaskedObjective(ReaderObjective):
    """Loss term `mlm`: the tokens that were blanked out, by the states in their places; the decoder has no part.

    Args:
        reader: whose encoder trains.
        finish: as `ReaderObjective`'s.
        blanked: share of each chunk's tokens; of a chunk one at least.

    Raises:
        UsageError: the share is none.
    """

    def __init__(self, reader: Reader, finish: Callable[[], object], blanked: float = BLANKED) -> None:
        super().__init__(reader, finish, ("encoder",))
        if not 0 < blanked < 1:
            raise senseless("`blanked` between 0 and 1", str(blanked))
        self.blanked = blanked
        with torch.no_grad():  # the middle of all tokens, so that it is none of them
            table = torch.arange(reader.decoder.model.get_input_embeddings().num_embeddings)
            self.blank = nn.Parameter(reader.encoder.embed(table.to(reader.decoder.device)).float().mean(0))

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """Loss terms by name."""
        encoder, draw = self.reader.encoder, torch.Generator().manual_seed(batch.seed)
        chunks = [chunk.cpu() for row in batch.ids for chunk in torch.split(row, encoder.chunk)]
        holes = [self._holes(len(chunk), draw) for chunk in chunks]
        blanked = [chunk.masked_fill(hole, MEMORY) for chunk, hole in zip(chunks, holes, strict=True)]
        states = torch.cat(encoder(blanked, self.blank))
        where, whole = (torch.cat(parts).to(states.device) for parts in (holes, chunks))
        return {"mlm": answer_losses(encoder.logits, states[where], whole[where])[0]}

    def attended(self, window: int) -> int:  # noqa: ARG002
        """None: the decoder has no part."""
        return 0

    def _holes(self, length: int, draw: torch.Generator) -> Tensor:
        """[T] bool: which tokens of a chunk are blanked out."""
        chosen = torch.randperm(length, generator=draw)[: max(1, round(self.blanked * length))]
        return torch.zeros(length, dtype=torch.bool).index_fill(0, chosen, True)
