"""Cross-attention: two ways and the equations themselves agree."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preread.methods.cepe.crossing import CrossAttention, CrossShape
from preread.methods.cepe.kept import kept, restored
from preread.methods.cepe.kernels import absorbed, expanded
from preread.nn.beside import Context
from preread.training.peak import Peak

HEADS = ((8, 8), (9, 3), (4, 1))


def _module(heads, kv_heads, dtype=torch.float64):
    torch.manual_seed(heads)
    module = CrossAttention(CrossShape(32, heads, kv_heads, 8, 24, 1e-6)).to(dtype)
    torch.nn.init.normal_(module.o)
    torch.nn.init.normal_(module.norm)
    return module


def _given(rows, length, count, dtype=torch.float64):
    draw = torch.Generator().manual_seed(count)
    x, states = (torch.randn(shape, generator=draw, dtype=dtype) for shape in ((rows, length, 32), (rows, count, 24)))
    return x, states, torch.rand(rows, count, generator=draw) > 0.3


def _equations(module, x, states, valid):
    """One query, one head and one state at a time."""
    shape = module.shape
    each = shape.heads // shape.kv_heads
    out = torch.zeros_like(x)
    for row in range(len(x)):
        seen = states[row][valid[row]]
        if not len(seen):
            continue
        for place in range(x.shape[1]):
            h = x[row, place]
            h = h / torch.sqrt((h**2).mean() + shape.eps) * module.norm
            heads = []
            for head in range(shape.heads):
                mine = slice(head * 8, head * 8 + 8)
                theirs = slice(head // each * 8, head // each * 8 + 8)
                scores = torch.stack([(module.q[mine] @ h) @ (module.k[theirs] @ state) for state in seen]) / 8**0.5
                heads.append(scores.softmax(0) @ torch.stack([module.v[theirs] @ state for state in seen]))
            out[row, place] = module.o @ torch.cat(heads)
    return out


@pytest.mark.parametrize("way", ["expanded", "absorbed"])
@pytest.mark.parametrize("heads", HEADS)
def test_each_way_is_the_equations(heads, way):
    module, (x, states, valid) = _module(*heads), _given(2, 3, 6)
    expected = _equations(module, x, states, valid)
    torch.testing.assert_close(module(x, Context(states, valid), way), expected, atol=1e-10, rtol=0)


@given(
    heads=st.sampled_from(HEADS),
    rows=st.integers(1, 3),
    length=st.integers(1, 9),
    count=st.integers(0, 40),
    masked=st.booleans(),
)
def test_both_ways_agree(heads, rows, length, count, masked):
    module, (x, states, valid) = _module(*heads), _given(rows, length, count)
    context = Context(states, valid if masked else None)
    parameters = list(module.parameters())
    found = []
    for way in ("expanded", "absorbed"):
        out = module(x, context, way)
        gradients = torch.autograd.grad(out.square().sum(), parameters, allow_unused=True) if count else ()
        found.append([out, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("way", ["expanded", "absorbed"])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("count", [1, 7, 300])
def test_each_way_is_the_equations_in_the_dtypes_of_use(heads, count, way, dtype, tolerance):
    """Off by no more than a share of the largest number; the reference has the same rounded numbers."""
    module = _module(*heads, torch.float32).to(dtype)
    torch.nn.init.normal_(module.norm, 1.0, 0.1)
    x, states, valid = _given(2, 3, count, dtype)
    found = module(x, Context(states, valid), way).detach().double()
    expected = _equations(module.double(), x.double(), states.double(), valid).detach()
    assert (found - expected).norm() <= tolerance * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("way", ["expanded", "absorbed"])
def test_the_gradients_are_those_of_the_equations(way):
    module, (x, states, valid) = _module(9, 3), _given(2, 3, 7)
    given = [*module.parameters(), x.requires_grad_(True), states.requires_grad_(True)]
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    outs = module(x, Context(states, valid), way), _equations(module, x, states, valid)
    found, expected = (torch.autograd.grad((out * weight).sum(), given) for out in outs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("way", "dtype", "tolerance"), [(expanded, torch.float64, 1e-12), (absorbed, torch.bfloat16, 1e-2)]
)
def test_in_pieces_it_is_the_same_with_less_at_once(way, dtype, tolerance):
    """Keys and values of one head at a time, or scores of one row (those of other dtypes a kernel never writes)."""
    draw = torch.Generator().manual_seed(0)
    query, states = (torch.randn(shape, generator=draw).to(dtype) for shape in ((2, 8, 5, 8), (2, 300, 24)))
    key, value = (torch.randn(2, 64, 24, generator=draw) / 5).to(dtype)
    with Peak() as at_once:
        expected = way(query, states, key, value, None)
    with Peak() as piece_by_piece:
        found = way(query, states, key, value, None, most=1)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert piece_by_piece.highest < 0.5 * at_once.highest


def test_rows_that_share_their_states_are_as_each_with_its_own():
    module, (x, states, valid) = _module(9, 3), _given(3, 4, 20)
    for way in ("expanded", "absorbed"):
        shared = module(x, Context(states[:1], valid[:1]), way)
        own = module(x, Context(states[:1].expand(3, -1, -1), valid[:1].expand(3, -1)), way)
        torch.testing.assert_close(shared, own, atol=1e-12, rtol=0)


@given(scale=st.floats(-3, 3), count=st.integers(0, 9))
def test_states_as_int8_are_off_by_half_a_step(scale, count):
    _, states, _ = _given(1, 1, count, torch.float32)
    states = states[0] * 10**scale
    found, steps = restored(kept(states, "int8"), torch.float32), states.abs().amax(dim=-1, keepdim=True) / 127
    assert ((found - states).abs() <= steps * 0.5001).all()


def test_what_is_seen_of_int8_states_is_off_as_their_error_allows():
    """With uniform attention the mean of values errs by at most the values of half a step: o V e, e at most a half."""
    module, (x, states, _) = _module(9, 3), _given(1, 2, 40)
    torch.nn.init.zeros_(module.q)
    rough = restored(kept(states[0], "int8"), torch.float64)[None]
    half = (states.abs().amax(dim=-1) / 127 * 0.5001).mean()
    each = module.v.abs().sum(1) * half
    most = module.o.abs() @ each.view(3, 1, 8).expand(-1, 3, -1).flatten()
    error = (module(x, Context(rough)) - module(x, Context(states))).abs()
    assert (error > 0).any()
    assert (error <= most).all()


def test_nothing_to_attend_to_adds_nothing():
    module, (x, states, _) = _module(4, 1), _given(2, 3, 6)
    valid = torch.tensor([[False] * 6, [True] * 6])
    for way in ("expanded", "absorbed"):
        out = module(x, Context(states, valid), way)
        assert out[0].abs().max() == 0
        assert out[1].abs().min() > 0
        out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    assert module(x, Context(states[:, :0])).abs().max() == 0


def test_a_row_is_as_alone_and_order_is_nothing():
    module, (x, states, valid) = _module(9, 3), _given(3, 4, 20)
    together = module(x, Context(states, valid))
    for row in range(3):
        alone = module(x[row : row + 1], Context(states[row][valid[row]][None]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-10, rtol=0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x, Context(states[:, order], valid[:, order])), together, atol=1e-10, rtol=0)


def test_the_ways_part_where_the_paper_sizes_say():
    """LLaMA-2-7B with an encoder of 1,024: up to 146 queries the absorbed way takes fewer multiplications."""
    assert CrossShape(4096, 32, 32, 128, 1024, 1e-6).break_even(127_000) == pytest.approx(146, abs=0.5)
