"""What models and trained compressors are on this machine, without loading any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preread.core.paths import cache_home, compressors_home, readers_home

Kind = Literal["packaged", "converted", "hub", "compressor", "reader"]
TRAINED: tuple[tuple[Kind, str, Callable[[], Path]], ...] = (
    ("compressor", "lloco", compressors_home),
    ("reader", "cepe", readers_home),
)
"""Kinds of trained weights: whose they are and where the user's own stand."""


@dataclass(frozen=True, slots=True)
class Held:
    """A model or compressor.

    Args:
        name: as `--model` takes it; of a compressor, the decoder that it was trained for.
        kind: a packaged decoder, a GGUF file's converted weights, a repository in the hub's cache, or a compressor
            of `lloco` or a reader of `cepe`.
        bytes: its size on disk; 0 where it is not here yet.
        path: where it is, or None.
        note: what a user should know of it.
    """

    name: str
    kind: Kind
    bytes: int
    path: Path | None
    note: str = ""


def inventory() -> list[Held]:
    """Every model and compressor that commands find here, and the packaged ones that they could fetch."""
    return [*_packaged(), *_converted(), *_hub(), *_trained()]


def weights_folder(package_name: str) -> Path | None:
    """The cache's folder of a packaged decoder, if it was fetched."""
    return next((folder for folder in _cached() if folder.name.startswith(f"{package_name}-")), None)


def _cached() -> list[Path]:
    folders = (cache_home() / "models").glob("*")
    return sorted(folder for folder in folders if folder.is_dir() and folder.suffix != ".part")


def _packaged() -> Iterator[Held]:
    from preread.models.packaged import PACKAGED

    for name, package in PACKAGED.items():
        if name != package.name:  # the alias, which is what users type
            folder = weights_folder(package.name)
            note = f"{package.name}, {package.note}" + ("" if folder else "; not fetched yet")
            yield Held(name, "packaged", _size(folder), folder, note)


def _converted() -> Iterator[Held]:
    for folder in _cached():
        origin = folder / "origin.json"
        if origin.is_file():
            about = json.loads(origin.read_text(encoding="utf-8"))
            yield Held(about["file"], "converted", _size(folder), folder, about["note"])


def _hub() -> Iterator[Held]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        for revision in repository.revisions:
            if repository.repo_type == "model" and any(f.file_name == "config.json" for f in revision.files):
                name = f"{repository.repo_id}@{revision.commit_hash}"
                whole = any(file.file_name.endswith(".safetensors") for file in revision.files)
                note = ", ".join(sorted(revision.refs)) if whole else "without weights: incomplete"
                yield Held(name, "hub", revision.size_on_disk, revision.snapshot_path, note)


def _trained() -> Iterator[Held]:
    """Those of the package and the user's own."""
    for kind, method, home in TRAINED:
        shipped = (Path(__file__).parent / "methods" / method / "weights").glob("*/manifest.json")
        for manifest in sorted([*shipped, *home().glob("*/manifest.json")]):
            about = json.loads(manifest.read_text(encoding="utf-8"))
            note = str(about.get("trained", {}).get("note", ""))
            yield Held(str(about["base_name"]), kind, _size(manifest.parent), manifest.parent, note)


def _size(folder: Path | None) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder else 0
