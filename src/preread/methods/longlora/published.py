"""LongLoRA's published checkpoints as extensions (arXiv 2309.12307, the authors' repository).

Their layout is a PEFT folder with the LoRA alone, `adapter_model.bin` or `.safetensors`, and beside it
`trainable_params.bin`: the embedding table and the norms, whole, by the names that the base model has for them. How
positions are stretched is in neither: linearly, by the new window over the old one rounded up. `.bin` files are
pickles, which the method never reads; once, and by the user's own command, tensors alone are taken out of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from preread.core.errors import IntegrityError, PrereadError, UsageError, first_line
from preread.core.folders import replaced
from preread.methods.longlora.extension import Extension, ExtensionConfig
from preread.methods.longlora.objective import MANIFEST
from preread.methods.longlora.parts import norms, table_path
from preread.models.pickles import tensors
from preread.nn import lora as peft
from preread.nn.hf import Decoder
from preread.nn.rope import Linear

WHOLE = "trainable_params.bin"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted.

    Args:
        folder: an extension in our layout, with its manifest.
        base: name of the decoder that it is for.
        length: positions of its window.
        dropped: rows of its embedding table that the decoder has not, such as an added padding token's.
    """

    folder: Path
    base: str
    length: int
    dropped: int


def convert(source: Path, target: Path, decoder: Decoder, length: int) -> Converted:
    """Write a published checkpoint as an extension, which the method `longlora` reads.

    Args:
        source: the published folder.
        target: new or empty.
        decoder: the base model that it was trained from.
        length: positions it was trained for, which its files do not say; its name does (`-32k` is 32768).

    Raises:
        UsageError: the target holds something, or the length is no longer than the decoder's window.
        IntegrityError: the files are missing or damaged, hold other things than tensors, or are not for this decoder.
        ResourceError: the disk is full or not writable; nothing is left there.
    """
    factor = math.ceil(length / decoder.window)
    if factor < 2:
        raise UsageError(
            expected=f"a length above the {decoder.window} positions of {decoder.name}",
            got=str(length),
            consequence="Nothing was converted.",
            remedy="Give the length that the checkpoint was trained for; 32k is 32768.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("a new or empty folder to write", f"{target}", "Nothing was converted.", "Choose another one.")
    try:
        extension, dropped = _read(source, decoder)
    except PrereadError:
        raise
    except Exception as error:  # whatever damaged files may lead to
        raise _damaged(source, f"{type(error).__name__}: {first_line(error)}") from error
    rule = Linear(factor)
    record = {
        "kind": "extension",
        "base": decoder.fingerprint,
        "rule": rule.name,
        "length": factor * decoder.window,
        "trained_on": [],
        "training": {"converted": source.name, "recipe": {"model": decoder.name}},
    }

    def write(part: Path) -> None:
        extension.save(part)
        (part / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    replaced(target, write)
    return Converted(target, decoder.name, factor * decoder.window, dropped)


def base_of(source: Path) -> str:
    """What a published folder calls the model that it was trained from.

    Raises:
        IntegrityError: it does not say.
    """
    try:
        return str(json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(source, f"{type(error).__name__}: {first_line(error)}") from error


def _read(source: Path, decoder: Decoder) -> tuple[Extension, int]:
    """The extension, and how many rows of its table the decoder has not."""
    raw = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    whole = {name.removeprefix(peft.PEFT_PREFIX): tensor for name, tensor in tensors(source / WHOLE).items()}
    adapter = next((source / name for name in ADAPTERS if (source / name).is_file()), source / ADAPTERS[0])
    matrices = load_file(adapter) if adapter.suffix == ".safetensors" else tensors(adapter)
    table = f"{table_path(decoder.model)}.weight"
    config = ExtensionConfig(
        peft.shape({**raw, "modules_to_save": None}),
        norms=not norms(decoder.model).isdisjoint(whole),
        embeddings="full" if table in whole else "frozen",
    )
    extension, dropped = Extension(config, decoder), 0
    assert extension.lora is not None, "the shape above says so"
    extension.lora.take(matrices)
    masters = {key.replace("/", "."): master for key, master in extension.masters.copies.items()}
    if table in whole:
        dropped = max(0, len(whole[table]) - len(masters[table]))
        whole[table] = whole[table][: len(masters[table])]
    for name, master in masters.items():
        peft.fill(master, name, whole)
    peft.expect_none({**matrices, **whole})
    return extension, dropped


def _damaged(folder: Path, got: str) -> IntegrityError:
    return IntegrityError(
        expected=f"a published LongLoRA checkpoint for this decoder in {folder}",
        got=got,
        consequence="Nothing was converted, and no code was run.",
        remedy="Fetch the folder again from its authors, and name the base model that it was trained from.",
    )
