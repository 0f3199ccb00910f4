"""Every backend of shifted sparse attention computes the same, as far as a CPU can tell, or is refused in words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.attention import varlen as kernels
from torch.nn.attention.flex_attention import create_block_mask

from preread.bench.s2 import Case, cases, dense_error
from preread.core.errors import UsageError
from preread.methods.longlora import attach, attention, detach, flex, sdpa, varlen
from preread.methods.longlora.attention import shifted_attention
from preread.methods.longlora.scoring import Scoring
from preread.methods.longlora.segments import Grouping

CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.one_of(st.integers(1, 400), st.sampled_from([127, 128, 129, 256])), min_size=1, max_size=6))
def test_blocks_are_those_of_the_mask_itself(sizes):
    """PyTorch's own search for them looks at every pair of tokens."""
    stretch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    total = len(stretch)

    def sees(_row, _head, query, key):
        return (query >= key) & (stretch[query] == stretch[key])

    found, expected = (
        flex.block_mask(tuple(sizes), CPU),
        create_block_mask(sees, None, None, total, total, device="cpu"),
    )
    assert found.shape == expected.shape
    for ours, theirs in (
        (found.kv_num_blocks, expected.kv_num_blocks),
        (found.full_kv_num_blocks, expected.full_kv_num_blocks),
        (found.q_num_blocks, expected.q_num_blocks),
        (found.full_q_num_blocks, expected.full_q_num_blocks),
        (found.to_dense(), expected.to_dense()),
    ):
        assert torch.equal(ours, theirs)
    for listed, count, theirs in (
        (found.kv_indices, found.kv_num_blocks, expected.kv_indices),
        (found.full_kv_indices, found.full_kv_num_blocks, expected.full_kv_indices),
    ):
        counted = torch.arange(listed.shape[-1]) < count[..., None]  # what stands behind them is never read
        assert torch.equal(listed[counted], theirs[counted])


def _drawn(heads, kv_heads, length, dtype=torch.float64, width=16):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, h, length, width, generator=draw, dtype=dtype) for h in (heads, kv_heads, kv_heads)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("scoring", [Scoring(), Scoring(scale=0.3), Scoring(softcap=0.7)], ids=str)
@pytest.mark.parametrize("case", [Case(9, 3, (61,), 16), Case(8, 2, (20, 31, 10), 8), Case(3, 1, (7, 50), 16, 24)])
def test_flex_computes_as_sdpa(case, scoring):
    """Forward only: its gradients need a GPU (tests/gpu)."""
    segments = Grouping(case.group, case.shifted, case.full_below).segments(case.documents)
    drawn = _drawn(case.heads, case.kv_heads, case.length)
    found, expected = (shifted_attention(*drawn, segments, scoring, backend=name) for name in ("flex", "sdpa"))
    # The formula of bounded scores takes its weights in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if scoring.softcap is None else 1e-6)


def _documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size, enable_gqa=False):
    """What PyTorch's documentation says that its kernel does, a sequence at a time."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert window_size == (-1, 0)  # causal
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert int(cu_seq_k[-1]) == len(key)
    out = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        piece = [x[start:end].transpose(0, 1)[None] for x in (query, key, value)]
        attended = F.scaled_dot_product_attention(*piece, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        out.append(attended[0].transpose(0, 1))
    return torch.cat(out)


@pytest.fixture
def documented_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "varlen_attn", _documented)
    monkeypatch.setattr(varlen, "possible", lambda *_: True)


@pytest.mark.usefixtures("documented_kernel")
@pytest.mark.parametrize("case", list(cases())[::3], ids=str)
def test_varlen_hands_its_kernel_what_the_definition_is_made_of(case):
    def ours(*given):
        return shifted_attention(*given, backend="varlen")

    assert dense_error(ours, case) < 1e-12


@pytest.mark.usefixtures("documented_kernel")
def test_a_model_attends_by_the_backend_that_it_was_attached_with(tiny_decoder, monkeypatch):
    model, asked = tiny_decoder("llama").model, []
    ids = torch.randint(3, 300, (1, 61), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(kernels, "varlen_attn", lambda *x, **how: asked.append(1) or _documented(*x, **how))
    logits = []
    for backend in ("sdpa", "varlen"):
        attach(model, group=16, full_below=0, backend=backend)
        with torch.no_grad():
            logits.append(model.train()(ids, use_cache=False).logits)
        detach(model.eval())
    assert len(asked) == 2 * model.config.num_hidden_layers
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_sparse_reading_by_flex(tiny_decoder):
    model = tiny_decoder("llama").model.eval()
    ids, logits = torch.randint(3, 300, (2, 61), generator=torch.Generator().manual_seed(0)), []
    for backend in ("sdpa", "flex"):
        attach(model, group=16, full_below=0, inference=True, backend=backend)
        with torch.no_grad():
            logits.append(model(ids, use_cache=False).logits)
        detach(model)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "scoring", "match"),
    [
        ("varlen", Scoring(), "float16 or bfloat16"),
        ("flex", Scoring(), "CUDA GPU"),
        ("flex", Scoring(dropout=0.1), "no attention dropout"),
    ],
)
def test_what_a_backend_cannot_compute_is_refused(backend, scoring, match):
    drawn = [x.requires_grad_(True) for x in _drawn(2, 2, 32)]
    segments = Grouping(8, True, 0).segments([32])
    with pytest.raises(UsageError, match=match) as refused:
        shifted_attention(*drawn, segments, scoring, backend=backend)
    assert "torch.float64 on cpu" in str(refused.value)


def test_an_unknown_backend_is_refused_before_anything_is_attached(tiny_decoder):
    model = tiny_decoder("llama").model
    before = model.config._attn_implementation
    with pytest.raises(UsageError, match="sdpa, flex, varlen"):
        attach(model, group=16, backend="turbo")
    assert model.config._attn_implementation == before


class Queries:
    """Queries on a device that this machine may not have: what a choice reads of them."""

    def __init__(self, device: str, dtype: torch.dtype, width: int = 128) -> None:
        self.device, self.dtype, self.shape = torch.device(device), dtype, (2, 32, width)
        self.is_cuda = device == "cuda"


@pytest.mark.parametrize(
    ("queries", "scoring", "capability", "expected"),
    [
        (Queries("cpu", torch.bfloat16), Scoring(), (9, 0), sdpa),
        (Queries("cuda", torch.float32), Scoring(), (9, 0), sdpa),
        (Queries("cuda", torch.bfloat16), Scoring(), (9, 0), varlen),
        (Queries("cuda", torch.float16), Scoring(), (8, 0), varlen),
        (Queries("cuda", torch.float16), Scoring(), (7, 5), sdpa),
        (Queries("cuda", torch.bfloat16, width=512), Scoring(), (9, 0), sdpa),
        (Queries("cuda", torch.bfloat16), Scoring(dropout=0.1), (9, 0), sdpa),
        (Queries("cuda", torch.bfloat16), Scoring(softcap=50.0), (9, 0), flex),
        (Queries("cuda", torch.bfloat16), Scoring(softcap=50.0, dropout=0.1), (9, 0), sdpa),
    ],
)
def test_auto_takes_the_quickest_that_is_possible(queries, scoring, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(flex, "find_spec", lambda _: object())  # triton
    assert attention._chosen("auto", queries, scoring) is expected


def test_under_autocast_every_kernel_gets_its_type(monkeypatch):
    """Turned queries are float32 beside values of 16 bits, which no kernel but SDPA turns into one type itself."""
    query, key, value = _drawn(4, 2, 40, torch.float32)
    given = []
    monkeypatch.setattr(sdpa, "within", lambda *x, real=sdpa.within: given.extend(y.dtype for y in x[:3]) or real(*x))
    segments = Grouping(8, True, 0).segments([40])
    with torch.autocast("cpu", torch.bfloat16):
        found = shifted_attention(query, key, value.bfloat16(), segments)
    assert set(given) == {torch.bfloat16}
    expected = shifted_attention(query, key, value, segments)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)
