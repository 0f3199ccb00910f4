"""A small Llama with a short window, made from nothing on a CPU: what an extension of the window is tried on.

Small enough that every arm of a grid trains in minutes, and trained for this alone, so that no long window was in it
before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from preread.core.method import Objective
from preread.data.corpora import Corpus, records
from preread.models.loading import load
from preread.nn.hf import Decoder
from preread.nn.losses import answer_losses
from preread.training.loop import TrainingConfig, train

END = "<|endoftext|>"
MADE = "decoder"
"""The finished decoder's folder."""


@dataclass(frozen=True)
class SmallConfig:
    """Shape and training of the decoder; as it is, 2.8 million parameters.

    Args:
        vocabulary: tokens, byte-level BPE, learned from the training text.
        tokenizer_characters: of the training text that the tokens are learned from.
        window: positions.
        width: D.
        layers: L.
        heads: H.
        kv_heads: K.
        hidden: width of the feed-forward layers.
        rows: windows a step.
        training: the loop's settings.
    """

    vocabulary: int = 2048
    tokenizer_characters: int = 4_000_000
    window: int = 256
    width: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    hidden: int = 512
    rows: int = 16
    training: TrainingConfig = TrainingConfig(
        steps=2000, learning_rate=3e-3, warmup=0.04, weight_decay=0.1, betas=(0.9, 0.95), save_every=100
    )


class Pretraining(Objective):
    """Mean cross-entropy of each next token; all weights train."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder, self.model = decoder, decoder.model.requires_grad_(True)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Loss term `lm` of [B, T] tokens."""
        states = self.decoder.hidden(self.decoder.embed(batch[:, :-1]))
        return {"lm": answer_losses(self.decoder.logits, states.flatten(0, 1), batch[:, 1:].flatten())[0]}

    def settle(self) -> None:
        """Freeze the decoder."""
        self.model.requires_grad_(False).eval()

    def save(self, folder: Path, training: Mapping[str, Any]) -> None:
        """Write the decoder as a plain folder, with `training.json` in it."""
        part = folder.with_name(folder.name + ".part")
        self.model.save_pretrained(part)
        self.decoder.tokenizer.save_pretrained(part)
        (part / "training.json").write_text(json.dumps(dict(training), indent=2) + "\n", encoding="utf-8")
        part.rename(folder)

    def load(self, folder: Path) -> None:
        """As `Objective.load`."""
        self.model.load_state_dict(load(f"{folder}:float32").model.state_dict())


def small_decoder(config: SmallConfig, texts: Path, folder: Path) -> Path | None:
    """The folder of the decoder, trained on the way there; the same call goes on where an earlier one was stopped.

    Args:
        config: shape and training.
        texts: JSON lines with a `text` each, to train on.
        folder: what is made, and the run's checkpoint.

    Returns:
        None while `config.training.minutes` did not suffice.
    """
    made = folder / MADE
    if made.exists():
        return made
    fresh = folder / "fresh"
    if not fresh.exists():
        _fresh(config, texts, fresh)
    decoder = load(f"{fresh}:float32")
    corpus = Corpus.read([texts], decoder.tokenizer, kept=folder / "corpora", tokenizer_key=decoder.fingerprint)
    objective = Pretraining(decoder)
    batches = partial(_batch, corpus, config)
    if not train(objective, batches, config.training, folder / "run", "pre-training", repr(config)).finished:
        return None
    objective.save(made, {"config": asdict(config), "texts": texts.name, "tokens": corpus.size})
    return made


def _batch(corpus: Corpus, config: SmallConfig, number: int) -> Tensor:
    return corpus.windows(config.rows, config.window + 1, number)


def _fresh(config: SmallConfig, texts: Path, folder: Path) -> None:
    """A folder with random weights and a tokenizer."""
    tokenizer = _tokenizer(config, texts)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.training.seed)
        model = LlamaForCausalLM(shape)
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


def _tokenizer(config: SmallConfig, texts: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text has tokens and every offset is a character's."""
    pieces, read = [], 0
    for record in records(texts):
        pieces.append(record["text"][: config.tokenizer_characters - read])
        if (read := read + len(pieces[-1])) >= config.tokenizer_characters:
            break
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(pieces, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, model_max_length=config.window
    )
