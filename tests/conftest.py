"""Decoders for tests: tiny random ones of three families, and the packaged default (slow)."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from preread.collection.settings import Settings
from preread.core.types import Sampling
from preread.library import Library
from preread.models.fingerprint import fingerprint
from preread.nn.hf import Decoder

Family = Literal["llama", "qwen2", "gemma"]
MakeDecoder = Callable[..., Decoder]

CORPUS = (
    "The keeper of the lighthouse wrote down every ship that passed, and the weather of the day.",
    "Who kept the lighthouse? What did the keeper write? When did the storm reach the island?",
    "In winter the storm reached the island at night; the lamp burned and nobody slept.",
    "A decoder reads tokens, one after the other; a memory stands for the tokens it has read.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens: every text round-trips, and a rare character is several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )


def _config(family: Family, vocabulary: int) -> PreTrainedConfig:
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 48,
        "intermediate_size": 96,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,  # wide enough that what is attended to shows in the logits
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "llama":
        return LlamaConfig(num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, **common)
    if family == "qwen2":
        return Qwen2Config(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, **common)
    return Gemma2Config(
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=2048,
        **common,
    )


@pytest.fixture(scope="session")
def tiny_decoder(tiny_tokenizer: PreTrainedTokenizerFast) -> MakeDecoder:
    """`tiny_decoder(family="llama", seed=0)` makes a fresh random float32 decoder."""

    def make(family: Family = "llama", seed: int = 0) -> Decoder:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(_config(family, len(tiny_tokenizer)), dtype=torch.float32)
        return Decoder(model, tiny_tokenizer, f"tiny-{family}", fingerprint(model, tiny_tokenizer))

    return make


@pytest.fixture(scope="session")
def default_decoder() -> Decoder:
    """The packaged default, fetched on first use; every test that asks for it is slow."""
    from preread.models.loading import load

    return load("default")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts in turn: not here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers whatever ran before, and in whichever process."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """One thread for tiny models, which two would only keep waiting for each other; all for the default one."""
    torch.set_num_threads(os.cpu_count() or 1 if "default_decoder" in request.fixturenames else 1)


SHORT = Sampling(max_tokens=4)
SETTINGS = Settings(model="tiny", options={"ratio": 4.0}, passage_tokens=80)


class WordCounts:
    """An embedder in one line of mathematics: hashed word counts, normalised."""

    name, fingerprint = "word-counts", "word-counts"

    def embed(self, texts, role="passage", advance=None):
        rows = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[int(hashlib.sha256(word.strip(".,?!“”").encode()).hexdigest(), 16) % 64] += 1
            row += 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def decoders(tiny_decoder):
    return {"tiny": tiny_decoder("llama")}


@pytest.fixture
def open_library(tmp_path, monkeypatch, decoders):
    monkeypatch.setattr("preread.library.load", lambda name: decoders[name])
    monkeypatch.setattr("preread.library.Embedder", WordCounts)
    return lambda: Library(tmp_path / "library")


@pytest.fixture
def collection(open_library):
    return open_library().collection("sea", SETTINGS)


def story(name: str, sentences: int = 12) -> str:
    days = (
        f"On day {i} the {name} met the storm number {i * 7} and the keeper wrote it down." for i in range(sentences)
    )
    return "\n\n".join(["# The log", *days]) + "\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.md"
    path.write_text(story("schooner"), encoding="utf-8")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where figures that tests measure are published."""
    parser.addoption("--publish", metavar="FILE", help="publish measured figures into this file of JSON lines")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark what needs the default decoder, by fixture or by parameter."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "default_decoder" in getattr(item, "fixturenames", ()) or parameters.get("decoder") == "default":
            item.add_marker(pytest.mark.slow)
