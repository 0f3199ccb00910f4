"""A decoder with its extension merged into the weights: an ordinary folder that any program loads."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.folders import replaced
from preread.core.progress import progress
from preread.methods.longlora.extension import Extension
from preread.methods.longlora.objective import MANIFEST
from preread.models.loading import QUANTISED, load
from preread.models.names import divided
from preread.models.quiet import quiet
from preread.nn.hf import Decoder
from preread.nn.rope import RULES, Rule, stretched

KIND = "extended-decoder"
"""What the manifest of such a folder says that it is."""


def export(
    decoder: Decoder, extension: Extension, rule: Rule, folder: Path, training: Mapping[str, Any] | None = None
) -> Path:
    """Write the merged decoder with its new window, its tokenizer and its generation settings.

    The weights are added up in float32 and written in the decoder's dtype; its config says how positions are stretched,
    so that `AutoModelForCausalLM.from_pretrained` and other programs compute what the attached extension does.

    Args:
        decoder: in bfloat16 or float32, its positions not stretched; it is not changed.
        extension: of a decoder of this shape, attached or not.
        rule: how positions are stretched to the new window.
        folder: made whole or not at all; one that this function wrote is replaced.
        training: how it was trained, for the manifest.

    Returns:
        The folder.

    Raises:
        UsageError: the folder holds something else, or the decoder is quantised.
        UnsupportedModel: the decoder's RoPE cannot be stretched.
        ResourceError: the disk is full or not writable.
    """
    if any(hasattr(weight, "__tensor_flatten__") for weight in decoder.model.parameters()):
        raise UsageError(
            expected="a decoder in bfloat16 or float32, to merge what was trained into its weights",
            got=f"{decoder.name}, whose weights are quantised",
            consequence="Nothing was written.",
            remedy="Load the same decoder without a dtype behind its name, and export the extension onto that.",
        )
    expect_free(folder)
    window = rule.window(decoder.window)
    record = {
        "kind": KIND,
        "base": decoder.fingerprint,
        "base_name": decoder.name,
        "base_note": decoder.note,
        "extension": extension.hash,
        "rule": rule.name,
        "length": window,
        "training": dict(training or {}),
    }
    with progress(f"Writing {folder.name}", None):
        replaced(folder, lambda part: _write(part, decoder, extension, rule, record))
    return folder


def export_trained(weights: Path, folder: Path, model: str | None = None) -> Path:
    """`export` for the folder `trained` of a finished run.

    Args:
        weights: the extension and its manifest.
        folder: as for `export`.
        model: the decoder it was trained for; by default the recipe's. One that was quantised for the training is
            loaded in bfloat16.

    Raises:
        IntegrityError: the weights are damaged, or of another decoder.
        UsageError, UnsupportedModel, ResourceError, UnknownModel: as `export` and `load`.
    """
    expect_free(folder)
    try:
        made = json.loads((weights / MANIFEST).read_text(encoding="utf-8"))
        base, rule, length = made["base"], RULES[made["rule"]], float(made["length"])
        name, dtype = divided(model or made["training"]["recipe"]["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            expected=f"a trained extension in {weights}",
            got=f"{type(error).__name__}: {error}",
            consequence="Nothing was written.",
            remedy="Name the folder `trained` of a finished run of `preread train longlora`.",
        ) from error
    decoder = load(name, dtype=None if dtype in QUANTISED else dtype, device="cpu")
    if dtype not in QUANTISED and decoder.fingerprint != base:
        raise FingerprintMismatch(
            expected=f"the decoder that it was trained for ({base[:12]})",
            got=f"{decoder.name} ({decoder.fingerprint[:12]})",
            consequence="Nothing was written.",
            remedy="Name the decoder that it was trained for.",
        )
    extension = Extension.load(weights, decoder)
    return export(decoder, extension, rule(max(1.0, length / decoder.window)), folder, made["training"])


def _write(part: Path, decoder: Decoder, extension: Extension, rule: Rule, record: Mapping[str, Any]) -> None:
    tokenizer = copy.deepcopy(decoder.tokenizer)
    tokenizer.model_max_length = record["length"]
    with stretched(decoder, rule) as view, quiet():
        view.model.save_pretrained(part, state_dict={**view.model.state_dict(), **extension.merged()})
    tokenizer.save_pretrained(part)
    (part / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (part / "README.md").write_text(_card(record), encoding="utf-8")


def _card(record: Mapping[str, Any]) -> str:
    note = f" ({record['base_note']})" if record["base_note"] else ""
    return f"""# {record["base_name"]}, {record["length"]} positions

{record["base_name"]}{note} with its window extended to {record["length"]} positions by LongLoRA (arXiv 2309.12307).
What was trained is merged into the weights, and `config.json` says how positions are stretched (`{record["rule"]}`), so
it loads as any other decoder. How it was trained is in `{MANIFEST}`.
"""


def expect_free(folder: Path) -> None:
    """Refuse a place for an export that holds something else than nothing or an earlier one.

    Raises:
        UsageError: it does.
    """
    try:
        ours = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["kind"] == KIND
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            expected="a folder that is new, empty, or an earlier export",
            got=f"something else at {folder}",
            consequence="Nothing was written, and what is there is untouched.",
            remedy="Choose another folder.",
        )
