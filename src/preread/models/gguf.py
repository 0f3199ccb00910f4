"""Decoders in GGUF files: read by transformers, repaired where it reads less than the file says, kept as safetensors.

transformers takes weights, shape and vocabulary from the file. What else decides numbers or tokens is checked or
repaired here: how text is split before the merges (`tokenizer.ggml.pre`), scaled rotary positions, weights that are
missing, and files in several parts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from preread.core.errors import IntegrityError, PrereadError, UnsupportedModel, first_line
from preread.core.progress import progress
from preread.models.cache import file_sha256, kept
from preread.models.quiet import quiet

ORIGIN = "origin.json"
PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Splitting:
    """What a byte-level tokenizer does with text before its merges.

    Args:
        pattern: a regular expression of the pieces; None is GPT-2's own.
        digits: whether each digit is first cut off alone.
        whole_words: whether a piece that is a token is taken as it is, without merges.
        composed: whether text is brought into Unicode's composed form (NFC) first.
    """

    pattern: str | None = None
    digits: bool = False
    whole_words: bool = False
    composed: bool = False

    def apply(self, tokenizer: Tokenizer) -> None:
        """Give a fast tokenizer these rules."""
        backend = tokenizer.backend_tokenizer
        parts: list[pre_tokenizers.PreTokenizer] = []
        if self.digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        if self.pattern is not None:
            parts.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
        backend.model.ignore_merges = self.whole_words
        if self.composed:
            backend.normalizer = normalizers.NFC()


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")

_GPT2 = Splitting()
_DIGITS = Splitting(digits=True)
_LLAMA3 = Splitting(_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST, whole_words=True)
_QWEN2 = Splitting(_CONTRACTIONS + _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST, composed=True)
_TEKKEN = Splitting("|".join(_CASED) + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _REST, whole_words=True)
_GPT4O = Splitting(
    "|".join(f"{case}{_CONTRACTIONS}?" for case in _CASED) + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _REST
)

SPLITTINGS = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}
"""By the name in `tokenizer.ggml.pre`; the patterns are those of the models' own tokenizer.json."""


def folder(path: Path) -> tuple[Path, str]:
    """The cache's folder with the decoder of a GGUF file, converted if need be, and a note on its weights.

    A `tokenizer.json` beside the file is taken for the tokenizer instead of the file's own.

    Raises:
        IntegrityError: the file is damaged or incomplete.
        UnsupportedModel: its architecture, tokenizer or layout is not read here.
        ResourceError: the disk is full or not writable.
    """
    with progress(f"Checking {path.name}", None):
        key = file_sha256(path)[:16]
    if (beside := path.with_name("tokenizer.json")).is_file():
        key += f"-{file_sha256(beside)[:8]}"
    target = kept(f"gguf-{key}", path.name, 4 * path.stat().st_size, partial(_make, path))
    return target, str(json.loads((target / ORIGIN).read_text(encoding="utf-8"))["note"])


def _make(path: Path, part: Path) -> None:
    """Fill `part/model` with the decoder of the file."""
    with progress(f"Converting {path.name} (once)", None):
        try:
            header = GGUFReader(path)
        except Exception as error:  # the reader meets damage in as many ways as there are bytes
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        _require_readable(path, header)
        note = convert(path, part / "model", header)
    origin = {"file": path.name, "note": note}
    (part / "model" / ORIGIN).write_text(json.dumps(origin) + "\n", encoding="utf-8")


def convert(path: Path, target: Path, header: GGUFReader | None = None) -> str:
    """Write the decoder of a GGUF file as safetensors, de-quantised, with its tokenizer.

    Returns:
        A note that says from which precision the weights come; empty where nothing was quantised.

    Raises:
        IntegrityError: weights are damaged or missing.
        UnsupportedModel: its architecture or tokenizer is not read here.
    """
    header = header or GGUFReader(path)
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    ((precision, _),) = sizes.most_common(1)
    source: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        with quiet():
            tokenizer = _tokenizer(path, header, source)
            model, report = AutoModelForCausalLM.from_pretrained(
                **source,
                dtype=PLAIN_TYPES.get(precision, torch.bfloat16),
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
    except PrereadError:
        raise
    except (ImportError, KeyError, ValueError) as error:
        raise _unsupported(path, "a decoder of an architecture that transformers reads", first_line(error)) from error
    except (RuntimeError, TypeError, IndexError) as error:
        raise _damaged(path, f"{type(error).__name__}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise _damaged(path, f"a file without {len(missing)} of its weights, such as {missing[0]}")
    tokenizer.model_max_length = model.config.max_position_embeddings
    with quiet():
        model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return "" if precision in PLAIN_TYPES else f"weights de-quantised from {precision}"


def _tokenizer(path: Path, header: GGUFReader, source: dict[str, Any]) -> Tokenizer:
    """The file's tokenizer with its own way of splitting text, or the one beside the file."""
    tokenizer: Tokenizer
    if path.with_name("tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(path.parent)
        return tokenizer
    fields = header.fields
    kind, pre = (
        fields[key].contents() if (key := f"tokenizer.ggml.{name}") in fields else "none" for name in ("model", "pre")
    )
    if kind == "gpt2" and pre not in SPLITTINGS:
        raise _unsupported(
            path, f"a tokenizer that splits text in a known way ({', '.join(SPLITTINGS)})", f"tokenizer.ggml.pre {pre}"
        )
    tokenizer = AutoTokenizer.from_pretrained(**source)
    if kind == "gpt2":
        SPLITTINGS[pre].apply(tokenizer)
    return tokenizer


def _require_readable(path: Path, header: GGUFReader) -> None:
    """Refuse what transformers would read as something else than it is."""
    fields = header.fields
    parts = fields["split.count"].contents() if "split.count" in fields else 1
    if int(parts) > 1:
        raise _unsupported(path, "one file with all weights", f"one of {parts} parts; join them with llama-gguf-split")
    names = {tensor.name for tensor in header.tensors}
    scaled = sorted(name for name in names if name.startswith("rope_f"))
    scaled += [key for key in fields if key.endswith(".rope.scaling.type") and fields[key].contents() != "none"]
    if scaled:
        raise _unsupported(path, "rotary positions without scaling, which transformers does not read", scaled[0])


def _damaged(path: Path, got: str) -> IntegrityError:
    return IntegrityError(
        expected=f"a whole GGUF file at {path}",
        got=got,
        consequence="No model was loaded; nothing was kept.",
        remedy="Fetch the file again and compare its size or hash with the source's.",
    )


def _unsupported(path: Path, expected: str, got: str) -> UnsupportedModel:
    return UnsupportedModel(
        expected=f"in {path.name} {expected}",
        got=got,
        consequence="It was not loaded, because its numbers or tokens would not be the model's.",
        remedy="Load the model from its folder or hub repository; for a tokenizer its tokenizer.json beside the file "
        "is enough.",
    )
