"""A mapped payload is what was stored, is nobody else's, costs no memory of its own, and outlasts its removal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preread.core.errors import IntegrityError
from preread.store.payloads import Payloads

KEY = "ab" * 32
MEASURE = """
import hashlib, sys
from pathlib import Path
from preread.store.payloads import Payloads

import torch

def private():
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Private_Dirty", "Swap:")))

payloads, keys = Payloads(Path(sys.argv[1])), sys.argv[3:]
read = getattr(payloads, sys.argv[2])
read(keys[0])
before = private()
held = [read(key) for key in keys[1:]]
print(private() - before)
"""


def test_it_is_what_was_stored_and_a_write_stays_with_the_writer(tmp_path):
    payloads = Payloads(tmp_path)
    payloads.put({KEY: b"states" * 1000})
    one, other = payloads.mapped(KEY), payloads.mapped(KEY)
    assert one.tobytes() == b"states" * 1000 == payloads.get(KEY)
    one[:] = 0
    assert other.tobytes() == payloads.get(KEY) == b"states" * 1000


def test_it_outlasts_its_removal_and_keeps_no_file_open(tmp_path):
    payloads = Payloads(tmp_path)
    payloads.put({KEY: b"x" * 10_000})
    before = len(list(Path("/dev/fd").iterdir()))
    held = [payloads.mapped(KEY) for _ in range(20)]
    assert len(list(Path("/dev/fd").iterdir())) == before
    payloads.remove({KEY})
    assert all(one.tobytes() == b"x" * 10_000 for one in held)


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_damage_and_absence_are_told(tmp_path, damage):
    payloads = Payloads(tmp_path)
    payloads.put({KEY: b"whole" * 50})
    file = next(tmp_path.glob("*/*"))
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage or b"")
    with pytest.raises(IntegrityError):
        payloads.mapped(KEY)
    payloads.put({KEY: b"whole" * 50})
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(IntegrityError, match="differ"):
        payloads.mapped(KEY)


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
def test_it_takes_no_memory_of_its_own(tmp_path):
    keys = [f"{i:064x}" for i in range(9)]
    Payloads(tmp_path).put({key: np.random.default_rng(i).bytes(4 * 2**20) for i, key in enumerate(keys)})
    took = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", MEASURE, str(tmp_path), how, *keys], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("get", "mapped")
    }
    assert took["get"] > 30 * 1024, "eight of 4 MiB are held"
    assert took["mapped"] < 2 * 1024, "none of them is"
