"""The table of cross-attention's speed, and the limits that it is held against."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from preread.bench.cepe import ROWS, SETTINGS, TRIAL, Taken, bench, take
from preread.bench.cepe_figures import RATIOS, error_figure, speed_figures, subject
from preread.bench.cepe_limits import Sizes, crossing_flops, limits, sizes
from preread.core.errors import ResourceError, UsageError
from preread.methods.cepe.method import Cepe
from preread.methods.cepe.reader import Reader, ReaderConfig
from preread.nn import cache
from preread.nn.beside import Context


@pytest.fixture(scope="module")
def tiny():
    return subject("tiny", Cepe(), seed=0)


PAPER = Sizes(
    layers=32, linear=32 * (4 * 4096**2 + 3 * 4096 * 11008), head=32000 * 4096, heads=32, queries=4096, keys=4096,
    width=4096, state=1024, crossings=32, crossing=32 * (2 * 4096**2 + 2 * 4096 * 1024), encoder=24 * 16 * 1024**2,
    encoder_layers=24, encoder_queries=1024, chunk=256, itemsize=2,
)  # fmt: skip


def test_the_limits_of_the_papers_shape():
    found = limits(PAPER, SETTINGS["128k"])
    assert found["forward"] == pytest.approx(12.2, rel=0.01)
    assert found["stored"] == pytest.approx(15.3, rel=0.01)
    assert found["decode"] == pytest.approx(3.1, abs=0.05)
    assert 60 < found["question"] < 75


def test_sizes_are_of_the_modules_themselves(tiny):
    decoder, method = tiny
    with method.attach(decoder) as handle:
        found = sizes(decoder, handle.reader)
    assert (found.layers, found.heads, found.queries, found.keys, found.width, found.state) == (2, 4, 64, 64, 64, 32)
    assert found.crossing == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 64)
    assert found.chunk == 16


@pytest.mark.parametrize(("tokens", "way"), [(1, "absorbed"), (8, "absorbed"), (60, "expanded")])
def test_the_flops_of_cross_attention_are_those_that_torch_counts(tiny, tokens, way):
    """And the way that takes fewer is the one that is taken; written out in products, of which torch counts all."""
    decoder, method = tiny
    with method.attach(decoder) as handle:
        of, found = sizes(decoder, handle.reader), {}
        module = handle.reader.crossings.modules_by_layer["0"]
        x, context = torch.zeros(1, tokens, 64), Context(torch.zeros(1, 64, 32))
        for each in ("expanded", "absorbed", "auto"):
            with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                module(x, context, each)
            found[each] = counter.get_total_flops()
    assert 2 * found["auto"] == 2 * found[way] == crossing_flops(of, tokens, 64)
    assert found[way] == min(found.values())


def test_every_row_is_taken_once_and_kept(tiny, tmp_path):
    decoder, method = tiny
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    found = bench(decoder, method, "tiny", ["trial"], list(ROWS), tmp_path, repeats=1, seed=0)
    assert list(found) == [f"trial, {row}" for row in ROWS]
    for key, row in found.items():
        assert min(row.ours) > 0
        assert bool(row.full) == (key != "trial, train")
    record = json.loads((tmp_path / "cepe.json").read_text())
    record["rows"]["trial, stored"]["ours"] = [7.0]
    (tmp_path / "cepe.json").write_text(json.dumps(record))
    again = bench(decoder, method, "tiny", ["trial"], ["stored"], tmp_path, repeats=1, seed=0)
    assert again["trial, stored"].ours == [7.0]
    after = decoder.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(UsageError, match="another --work"):
        bench(decoder, method, "tiny", ["trial"], ["stored"], tmp_path, repeats=1, seed=1)


def test_both_read_what_the_row_is_named_for(tiny, monkeypatch):
    """Positions that pass the decoder's layers, and states that its cross-attention is given."""
    decoder, method = tiny
    seen = []
    hidden = type(decoder).hidden

    def listen(self, embeds, *args, **kwargs):
        contexts = list(self.beside.contexts.values())
        seen.append((embeds.shape[1], contexts[0].states.shape[1] if contexts else 0))
        return hidden(self, embeds, *args, **kwargs)

    monkeypatch.setattr(type(decoder), "hidden", listen)
    far = TRIAL.chunks * 16
    for row, near in (("forward", TRIAL.near), ("stored", TRIAL.near), ("question", TRIAL.question)):
        seen.clear()
        take(decoder, method, TRIAL, row, repeats=1, seed=0)
        assert seen[-2:] == [(near, far), (far + near, 0)]
    seen.clear()
    take(decoder, method, TRIAL, "decode", repeats=1, seed=0)
    assert set(seen) == {(1, far), (1, 0)}
    assert seen.count((1, far)) == seen.count((1, 0))


def test_what_has_no_room_in_full_is_measured_alone(tiny, monkeypatch):
    decoder, method = tiny
    allocate = cache._allocate

    def small(shape, slots):
        if shape[2] > 2 * TRIAL.near:
            raise ResourceError("room", "none", "Nothing.", "Less.")
        return allocate(shape, slots)

    monkeypatch.setattr(cache, "_allocate", small)
    row = take(decoder, method, TRIAL, "decode", repeats=2, seed=0)
    assert len(row.ours) == 2
    assert not row.full


def test_a_figure_is_a_ratio_only_where_both_were_measured(tiny):
    decoder, method = tiny
    for (shape, key), name in RATIOS.items():
        both = Taken("decode", [1.0, 2.0, 1.0], [3.0, 8.0, 2.0], limit=4.0)
        [figure] = [f for f in speed_figures(shape, decoder, method, {key: both}, "c") if f.unit == "x"]
        assert (figure.id, figure.value, figure.low, figure.high) == (name, 3.0, 2.0, 4.0)
        alone = Taken("decode", [1.0])
        assert not [f for f in speed_figures(shape, decoder, method, {key: alone}, "c") if f.unit == "x"]
        assert not speed_figures("tiny", decoder, method, {key: both}, "c")


def test_the_two_ways_are_as_near_as_is_said():
    figure = error_figure(0, "c")
    assert 0 < figure.value <= 1e-5
    assert figure.n == 48


@pytest.mark.parametrize(("names", "rows"), [(["enormous"], ["forward"]), (["trial"], ["sideways"])])
def test_what_cannot_be_measured_is_refused(tiny, tmp_path, names, rows):
    with pytest.raises(UsageError, match="Nothing was measured"):
        bench(*tiny, "tiny", names, rows, tmp_path, repeats=1, seed=0)


@pytest.mark.parametrize(("shape", "method"), [("enormous", Cepe()), ("tiny", Cepe(moved=1))])
def test_an_unknown_shape_and_another_reader_for_random_weights_are_refused(shape, method):
    with pytest.raises(UsageError, match="Nothing was measured"):
        subject(shape, method, seed=0)


def test_an_encoder_whose_costs_nobody_counted_is_refused(tiny_decoder):
    decoder = tiny_decoder()
    reader = Reader(decoder, ReaderConfig())
    reader.encoder = torch.nn.Identity()
    with pytest.raises(UsageError, match="Nothing was measured"):
        sizes(decoder, reader)


def test_the_shape_that_is_told_is_that_of_the_weights(tiny_decoder, tmp_path):
    decoder = tiny_decoder()
    made = Reader(decoder, ReaderConfig(layers=(1,)))
    made.settle()
    made.save(tmp_path / "reader", {})
    method, row = Cepe(weights=tmp_path / "reader"), Taken("decode", [1.0], [2.0])
    [figure] = speed_figures("default", decoder, method, {"8k stored, decode": row}, "c")
    assert "cross-attention in layers 1;" in figure.recipe
    found = bench(decoder, method, "default", ["trial"], ["stored"], tmp_path / "work", repeats=1, seed=0)
    record = json.loads((tmp_path / "work" / "cepe.json").read_text())
    assert (record["about"]["reader"]["layers"], list(found)) == ([1], ["trial, stored"])
