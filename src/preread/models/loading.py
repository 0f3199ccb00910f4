"""`load`: a decoder by packaged name, folder, GGUF file or hub id. No pickle is read and no code from a repository."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from preread.core.errors import (
    IntegrityError,
    PrereadError,
    ResourceError,
    UnknownModel,
    UnsupportedModel,
    UsageError,
    first_line,
)
from preread.models import gguf
from preread.models.cache import require_space
from preread.models.fingerprint import fingerprint
from preread.models.names import DTYPES, divided
from preread.models.packaged import PACKAGED, folder
from preread.models.quantised import quantise
from preread.models.quiet import quiet
from preread.nn.hf import Decoder

QUANTISED = frozenset({"int8", "int4"})
WANTED = ["*.safetensors", "*.json", "*.jinja"]
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load(
    name: str = "default",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Decoder:
    """A frozen decoder with its tokenizer.

    Args:
        name: `default` (SmolLM2-135M-Instruct, from a package index), a folder, a GGUF file, or a hub id such as
            `owner/model` or `owner/model@commit`; with `:int8` or another dtype behind it, it is loaded so.
        revision: branch, tag or commit of a hub repository; a commit pins it.
        device: such as `cuda:0` or `cpu`; by default the GPU if there is one.
        dtype: `bfloat16` (default), `float32`, or the linear layers in `int8` or `int4` (extra `quant`).

    Raises:
        UnknownModel: the name leads nowhere: no folder, no network, no repository, no weights.
        UnsupportedModel: found, but of an architecture or in a format that is not read here.
        IntegrityError: the weights are damaged or incomplete.
        ResourceError: the disk or the device has no room.
        UsageError: an unknown device or dtype, or a revision of something that has none.
    """
    place, (name, kind) = _device(device), _dtype(name, dtype)
    return _read(fetch(name, revision), place, kind)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A decoder's files on this machine.

    Args:
        folder: with config.json, tokenizer and safetensors weights.
        name: how results name it.
        note: what every result must say of the weights.
        revision: commit of a hub repository, or empty.
    """

    folder: Path
    name: str
    note: str = ""
    revision: str = ""


def fetch(name: str = "default", revision: str | None = None) -> Fetched:
    """The files that `load` reads, fetched and converted where need be; an interrupted download goes on.

    Raises:
        UnknownModel, UnsupportedModel, IntegrityError, ResourceError, UsageError: as `load`.
    """
    found = _find(_dtype(name, None)[0], revision)
    _check_files(found.folder, found.name)
    return found


def _find(name: str, revision: str | None) -> Fetched:
    if name in PACKAGED:
        _no_revision(name, revision)
        package = PACKAGED[name]
        return Fetched(folder(package), package.name, package.note)
    path = Path(name).expanduser()
    if (file := _gguf(path)) is not None:
        _no_revision(name, revision)
        converted, note = gguf.folder(file)
        return Fetched(converted, name, note)
    if path.is_dir():
        _no_revision(name, revision)
        return Fetched(path, name)
    if path.exists() or name.startswith((".", "~", os.sep)):
        raise UnknownModel(
            expected=f"a folder with a model, or a GGUF file, at {path}",
            got="another file" if path.exists() else "nothing there",
            consequence="No model was loaded.",
            remedy="Check the path; a folder must hold config.json, tokenizer.json and safetensors weights.",
        )
    repository, _, pinned = name.partition("@")
    snapshot = _from_hub(repository, revision or pinned or None)
    return Fetched(snapshot, name, revision=snapshot.name)


def _gguf(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a folder that holds no config.json."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "config.json").is_file() else []
    if len(files) > 1:
        raise UsageError(
            expected=f"one GGUF file in {path}",
            got=", ".join(file.name for file in files),
            consequence="No model was loaded.",
            remedy="Name one of them.",
        )
    return files[0] if files else None


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise UsageError(
            expected="a device of this machine, such as cpu or cuda:0",
            got=f"{device!r} ({str(error).splitlines()[0]})",
            consequence="No model was loaded.",
            remedy="Leave the device out to take the GPU if there is one.",
        ) from error


def _dtype(name: str, dtype: str | None) -> tuple[str, str]:
    """The name without a dtype behind it, and the dtype."""
    name, behind = divided(name)
    dtype = dtype or behind
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(
            expected=f"a dtype out of {', '.join(DTYPES)}",
            got=repr(dtype),
            consequence="No model was loaded.",
            remedy="Leave the dtype out for bfloat16.",
        )
    return name, dtype or "bfloat16"


def _no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(
            expected=f"no revision with {name}, which is not a hub repository",
            got=f"revision {revision!r}",
            consequence="No model was loaded.",
            remedy="Leave the revision out.",
        )


def _from_hub(name: str, revision: str | None) -> Path:
    """The snapshot of a hub repository in the hub's own cache; the folder is named by its commit."""
    wanted: dict[str, Any] = {
        "repo_id": name,
        "revision": revision,
        "allow_patterns": WANTED,
        "ignore_patterns": ["*/*", "consolidated*"],
    }
    try:
        with suppress(DryRunError):  # no network: the cache may still have it all
            if not constants.is_offline_mode():
                missing = [file.file_size for file in snapshot_download(**wanted, dry_run=True) if file.will_download]
                cache = Path(constants.HF_HUB_CACHE)
                cache.mkdir(parents=True, exist_ok=True)
                require_space(cache, sum(missing), name)
        return Path(snapshot_download(**wanted))
    except GatedRepoError as error:
        raise _unknown(
            name, "a repository that asks for consent", "Accept its terms there and set HF_TOKEN."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        at = f" at revision {revision}" if revision else ""
        remedy = f"Check the spelling (and HF_TOKEN if it is private); packaged: {', '.join(PACKAGED)}."
        raise _unknown(name, f"no such repository{at}, and no such folder", remedy) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ResourceError(
                expected=f"room to write {name} in {constants.HF_HUB_CACHE}",
                got="a full disk",
                consequence="No model was loaded; what came so far is kept and the next try goes on from it.",
                remedy="Free some space, or set HF_HOME to another disk.",
            ) from error
        remedy = "Check the network and HF_HUB_OFFLINE, or name a folder; `default` comes from a package index."
        raise _unknown(name, f"no answer from the hub ({first_line(error)})", remedy) from error


def _unknown(name: str, got: str, remedy: str) -> UnknownModel:
    return UnknownModel(f"a model on the hub named {name}", got, "No model was loaded.", remedy)


def _read(found: Fetched, device: torch.device, dtype: str) -> Decoder:
    """The decoder in a local folder."""
    path, name, note = found.folder, found.name, found.note
    try:
        with quiet():
            AutoConfig.from_pretrained(path, trust_remote_code=False)
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = _weights(path, getattr(torch, DTYPES[dtype]))
    except PrereadError:
        raise
    except (ImportError, KeyError, OSError, ValueError) as error:
        raise UnsupportedModel(
            expected=f"{name} to be a decoder that transformers reads without code from the repository",
            got=first_line(error),
            consequence="It was not loaded; remote code is never run.",
            remedy="Choose a decoder of the Llama, Qwen, Gemma or Mistral families, with its tokenizer.json.",
        ) from error
    if dtype in QUANTISED:
        name, note = f"{name}:{dtype}", "; ".join(filter(None, (note, quantise(model, dtype))))
    try:
        model = model.to(device)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            expected=f"room on {device} for {name} ({model.get_memory_footprint() / 1e9:.1f} GB)",
            got=first_line(error),
            consequence="No model was loaded.",
            remedy="Free the device, choose another with device=, or a smaller decoder.",
        ) from error
    return Decoder(model, tokenizer, name, fingerprint(model, tokenizer), note, found.revision)


def _check_files(path: Path, name: str) -> None:
    if not (path / "config.json").is_file():
        raise UnknownModel(
            expected=f"config.json of a decoder in {path}",
            got="a folder without one",
            consequence="No model was loaded.",
            remedy="Name the folder that save_pretrained wrote; an adapter's folder alone is not a decoder.",
        )
    if not any(path.glob("*.safetensors")):
        pickles = [file.name for file in path.iterdir() if file.suffix in PICKLES]
        raise UnsupportedModel(
            expected=f"safetensors weights of {name} in {path}",
            got=f"only {pickles[0]}, a pickle" if pickles else "none",
            consequence="It was not loaded; pickles are never fetched nor read, because reading one can run any code.",
            remedy="Convert it once where you trust it, with save_pretrained, or choose another decoder.",
        )


def _weights(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the CPU, with not one weight made up.

    Raises:
        IntegrityError: the file is damaged, or weights are missing or of another shape.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        missing, damage = sorted(report["missing_keys"]), ""
    except (SafetensorError, RuntimeError) as error:
        missing, damage = [], first_line(error)
    if missing or damage:
        raise IntegrityError(
            expected=f"all weights that config.json names, whole, in {path}",
            got=damage or f"{len(missing)} missing, such as {missing[0]}",
            consequence="No model was loaded.",
            remedy=f"Delete {path} and load again, or restore it from where it came.",
        )
    return model
