"""Whether a question is like those that an adapter was studied with: an adapter derails what it was not taught.

The score of a question is its mean cosine to the nearest of the studied questions (Sun et al., arXiv 2204.06507, take
the distance to the k-th). The threshold is split conformal (Angelopoulos and Bates, arXiv 2107.07511, section 1): of n
questions that are no neighbours themselves, the floor(alpha (n + 1))-th lowest score. A question drawn as they were
falls below it with probability alpha at most, whatever the embedder and however the questions are spread.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preread.core.errors import FingerprintMismatch, IntegrityError, first_line
from preread.core.types import sha256

NEAREST = 10
"""Studied questions that a question is compared with; fewer where there are fewer."""
ALPHA = 0.05
"""Share of the questions like the studied ones that may be refused."""
ENOUGH = 100
"""Questions that set the threshold, where there are as many: the share refused is then known to some 2 %."""
MOST = 2000
"""Studied questions that are kept, evenly over them all: more tell no more, and each is 1.5 kB and read for a gate."""
FORMAT = "preread-gate-1"
MANIFEST, VECTORS = "gate.json", "gate.safetensors"
QUOTATION = re.compile(r"“(.{25,})”", re.DOTALL)
"""Of a line rather than of a title or a word."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a gate says of a question.

    Args:
        accepted: whether it is like the studied ones.
        score: mean cosine to the nearest of them.
        threshold: the lowest score that is accepted; None accepts any.
    """

    accepted: bool
    score: float
    threshold: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """The studied questions of one adapter and the score that a question must reach.

    Args:
        studied: [n, d] float32 unit vectors, n > 0.
        threshold: the lowest score that is accepted; None, where fewer than 1 / alpha - 1 questions could set it:
            no score is then known to be too low, and every question is accepted.
        calibrated: how many questions set it.
        embedder: fingerprint of what made the vectors.
    """

    studied: np.ndarray
    threshold: float | None
    calibrated: int
    embedder: str

    @staticmethod
    def fit(taught: np.ndarray, held_out: np.ndarray, embedder: str, alpha: float = ALPHA) -> Gate:
        """Set the threshold.

        A question that sets it must be no neighbour, but may well have been taught: its cosines know nothing of the
        adapter. So where fewer than `ENOUGH` were held out, up to a quarter of the taught ones set it with them.

        Args:
            taught: [n, d] unit vectors of questions, n > 0, each once.
            held_out: [m, d] of further ones.
            embedder: fingerprint of what made them.
            alpha: share of the questions like these that may be refused.
        """
        assert len(taught), "an adapter was taught something"
        wanted = min(max(0, ENOUGH - len(held_out)), len(taught) // 4)
        spared = np.zeros(len(taught), dtype=bool)
        spared[_evenly(len(taught), wanted)] = True
        neighbours = taught[~spared]
        gate = Gate(neighbours[_evenly(len(neighbours), min(len(neighbours), MOST))], None, 0, embedder)
        scores = sorted(map(gate.score, [*held_out, *taught[spared]]))
        rank = int(alpha * (len(scores) + 1))
        return Gate(gate.studied, scores[rank - 1] if rank else None, len(scores), embedder)

    def score(self, question: np.ndarray) -> float:
        """Mean cosine of a [d] unit vector to the nearest studied questions."""
        cosines = self.studied @ question.astype(np.float32)
        return float(np.sort(cosines)[-NEAREST:].mean())

    def decide(self, wordings: np.ndarray) -> Decision:
        """Whether the adapter is for a question.

        Args:
            wordings: [w, d] unit vectors of the question, alone and with what came before it; their scores are
                averaged, as in the search.
        """
        score = float(np.mean([self.score(one) for one in wordings]))
        return Decision(self.threshold is None or score >= self.threshold, score, self.threshold)

    def save(self, folder: Path) -> str:
        """Write the gate into an adapter's folder; the hash to load it by."""
        from safetensors.numpy import save

        vectors = save({"studied": np.ascontiguousarray(self.studied)})
        manifest = {
            "format": FORMAT,
            "embedder": self.embedder,
            "threshold": self.threshold,
            "calibrated": self.calibrated,
            "vectors": sha256(vectors),
        }
        raw = json.dumps(manifest, indent=2) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VECTORS).write_bytes(vectors)
        (folder / MANIFEST).write_text(raw, encoding="utf-8")
        return sha256(raw)

    @staticmethod
    def load(folder: Path, digest: str, embedder: str) -> Gate:
        """Read a gate back, bit for bit.

        Raises:
            IntegrityError: a file is missing, or not as it was written.
            FingerprintMismatch: it is of another embedder's vectors.
        """
        from safetensors.numpy import load

        try:
            manifest = json.loads(_verified(folder / MANIFEST, digest))
            studied = load(_verified(folder / VECTORS, manifest["vectors"]))["studied"]
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']!r}")
        except (OSError, ValueError, KeyError) as error:
            raise IntegrityError(
                expected=f"the gate of an adapter in {folder} as it was fitted",
                got=first_line(error),
                consequence="Whether the adapter is for this question cannot be told; nothing was answered.",
                remedy="Study again: preread study; or ask with --adapter never (or always).",
            ) from error
        if manifest["embedder"] != embedder:
            raise FingerprintMismatch(
                expected=f"a gate fitted with the embedder {embedder[:12]}",
                got=f"one of {manifest['embedder'][:12]}",
                consequence="The adapter is not used, because their vectors cannot be compared.",
                remedy="Study again, or ask with --adapter always.",
            )
        return Gate(studied, manifest["threshold"], manifest["calibrated"], embedder)


def subject(question: str) -> str:
    """What a question is about: what it quotes, or else its words.

    A template's question quotes the source. Its frame is the same in all of them, draws them together, and would set a
    threshold that few questions in a reader's own words reach (docs/gate.md).
    """
    quoted = QUOTATION.search(question)
    return quoted[1] if quoted else question


def _evenly(count: int, wanted: int) -> np.ndarray:
    """[wanted] int64 numbers below `count`, spread evenly over them."""
    return np.arange(wanted) * count // max(wanted, 1)


def _verified(path: Path, digest: str) -> bytes:
    raw = path.read_bytes()
    if sha256(raw) != digest:
        raise ValueError(f"other bytes in {path.name}")
    return raw
