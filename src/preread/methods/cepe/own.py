"""An encoder of its own, as in the paper: Llama's blocks looking both ways, over the decoder's tokens (section 3).

It has weights of its own, which are kept with the reader; the decoder's bottom layers (`encoder`) need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from preread.core.errors import UsageError
from preread.core.types import MEMORY
from preread.methods.cepe.encoder import Encoder
from preread.nn.hf import Decoder


@dataclass(frozen=True)
class OwnEncoderConfig:
    """Shape of an encoder of its own; the defaults are the paper's, 435 M parameters.

    Args:
        vocabulary: rows of its table; the decoder's tokens are among them.
        width: S.
        layers: how many.
        heads: of its attention.
        kv_heads: that keys and values have.
        inner: width of the feed-forward.
        eps: of its norms.
        base: of RoPE.
        chunk: most tokens of a chunk.
        together: chunks that are encoded at the same time.
    """

    vocabulary: int = 32_000
    width: int = 1024
    layers: int = 24
    heads: int = 16
    kv_heads: int = 16
    inner: int = 4096
    eps: float = 1e-6
    base: float = 10_000.0
    chunk: int = 256
    together: int = 16


class OwnEncoder(Encoder):
    """Reads chunks as `ContextEncoder` does, by weights of its own, which begin random.

    Args:
        decoder: whose tokens it reads and whose dtype its states have.
        config: its shape.

    Raises:
        UsageError: its table has fewer rows than the decoder's, or the shape is none.
    """

    def __init__(self, decoder: Decoder, config: OwnEncoderConfig) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        self.chunk, self.together, self.width = config.chunk, config.together, config.width
        rows = int(decoder.model.get_input_embeddings().num_embeddings)
        sizes = [config.layers, config.heads, config.kv_heads, config.inner, config.chunk, config.together]
        if config.vocabulary < rows or min(sizes) < 1 or config.width % config.heads or config.heads % config.kv_heads:
            raise UsageError(
                expected=f"an encoder for all {rows} tokens of {decoder.name}, its width divisible by its heads",
                got=str(config),
                consequence="No encoder was made.",
                remedy="Correct `own`.",
            )
        shape = LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.inner,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.base},
            max_position_embeddings=config.chunk,
            attn_implementation="sdpa",  # takes the mask below as it is
        )
        with decoder.device:
            self.model = LlamaModel(shape)

    def embed(self, ids: Tensor, blank: Tensor | None = None) -> Tensor:
        """As `Encoder.embed`."""
        holes = ids == MEMORY
        out: Tensor = self.model.embed_tokens(ids.masked_fill(holes, 0))
        return out if blank is None else torch.where(holes[..., None], blank.to(out), out)

    def logits(self, states: Tensor) -> Tensor:
        """As `Encoder.logits`: the table of the tokens once more."""
        return F.linear(states, self.model.embed_tokens.weight.to(states.dtype))

    def _together(self, chunks: Sequence[Tensor], blank: Tensor | None) -> list[Tensor]:
        device = self.model.device
        ids = nn.utils.rnn.pad_sequence(list(chunks), batch_first=True).to(device)
        lengths = torch.tensor([len(chunk) for chunk in chunks], device=device)
        valid = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        mask = valid[:, None, None].expand(-1, 1, ids.shape[1], -1)  # both ways, and never to what only fills rows up
        read = self.model(inputs_embeds=self.embed(ids, blank), attention_mask=mask, use_cache=False)
        states = read.last_hidden_state.to(self.decoder.dtype)
        return [row[: len(chunk)] for row, chunk in zip(states, chunks, strict=True)]
