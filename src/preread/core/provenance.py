"""Where a number comes from: the commit of the code and the device it ran on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit that this code stands at, `+` behind it where files were changed since; empty outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # no input
    except (OSError, subprocess.CalledProcessError):
        return ""


def device() -> str:
    """The GPU's name, or the processor's and how many threads a product uses."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.processor()}, {threads} {'thread' if threads == 1 else 'threads'}"
