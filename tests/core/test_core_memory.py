"""A memory out of bytes: what safetensors reads, without a copy; and of any bytes a memory or an error of ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from preread.core.errors import IntegrityError
from preread.core.memory import DTYPES, Memory, Producer

TENSORS = {name.lower(): (torch.arange(6).reshape(2, 3) % 2).to(dtype) for name, dtype in DTYPES.items()} | {
    "none": torch.zeros(0, 4),
    "one": torch.tensor(2.5),
}
MEMORY = Memory(Producer("cepe", "base", "weights", "{}", "float32"), "passage", "source", 3, TENSORS)
RAW = MEMORY.to_bytes()


def test_every_dtype_comes_back_as_safetensors_reads_it():
    read, expected = Memory.from_bytes(RAW), load(RAW)
    assert read.producer == MEMORY.producer
    assert read.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.tensors[name], tensor)


def test_tensors_are_views_of_an_array():
    raw = np.frombuffer(bytearray(RAW), np.uint8)
    first, last = raw.ctypes.data, raw.ctypes.data + len(raw)
    tensors = Memory.from_bytes(raw).tensors
    assert all(first <= tensor.data_ptr() < last for tensor in tensors.values() if tensor.numel())


@given(st.integers(0, len(RAW) - 1), st.integers(0, 255), st.integers(0, len(RAW)))
def test_damaged_bytes_are_a_memory_or_an_error_of_ours(place, value, length):
    raw = bytearray(RAW)
    raw[place] = value
    for bad in (bytes(raw), RAW[:length]):
        try:
            Memory.from_bytes(bad)
        except IntegrityError:
            continue
        assert len(bad) == len(RAW), "nothing that is cut is whole"


@pytest.mark.parametrize("entry", ["[0,99999999]", "[-8,0]", "[9,1]", '["a",2]', "[0]"])
def test_a_tensor_outside_the_file_is_refused(entry):
    header = (
        f'{{"__metadata__":{{"format":"preread-memory-1"}},"x":{{"dtype":"U8","shape":[2],"data_offsets":{entry}}}}}'
    )
    raw = len(header).to_bytes(8, "little") + header.encode() + b"12"
    with pytest.raises(IntegrityError):
        Memory.from_bytes(raw)
