"""The gain of a step, and the limit that it is held against."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from preread.bench.s2_step import SHAPES, limit, random_decoder, step_figures, step_times
from preread.core.errors import UsageError
from preread.core.types import TextBatch
from preread.methods.longlora.method import Attention, LongLora
from preread.methods.longlora.segments import Grouping, Segments
from preread.nn.activations import Levers


@pytest.mark.parametrize(("length", "expected"), [(8192, 1.18), (16384, 1.34), (32768, 1.61), (65000, 2.03)])
def test_the_limit_is_the_papers_shape_worked_out(length, expected):
    segments = Grouping(length // 4 // 2 * 2, True, full_below=0).segments([length])
    assert limit(LlamaConfig(**SHAPES["llama-2-7b"]), length, segments) == pytest.approx(expected, abs=0.01)


def test_the_flops_are_those_that_torch_counts():
    """Attention written out, as `eager`, is batched products, of which torch counts the future too."""
    decoder, length = random_decoder("tiny", 0), 256
    decoder.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.hidden(decoder.embed(torch.zeros(1, length, dtype=torch.int64)))
    found = counter.get_flop_counts()["Global"]
    attention = found[torch.ops.aten.bmm] * (length + 1) / (2 * length)
    linear = found[torch.ops.aten.mm]
    for stretches, share in (((length,), 1.0), ((1,) * length, 2 / (length + 1))):
        most = (4.5 * attention + 3 * linear) / (4.5 * share * attention + 3 * linear)
        assert limit(decoder.model.config, length, Segments(stretches, stretches)) == pytest.approx(most, rel=0.005)


def test_a_step_is_one_of_training_and_leaves_nothing_behind():
    decoder = random_decoder("tiny", 0)
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    times = step_times(decoder, 512, repeats=2, backend="auto", seed=0, advance=lambda *_, **__: None)
    assert len(times.full) == len(times.shifted) == 2
    assert min(times.full + times.shifted) > 0
    after = decoder.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not decoder.model.training


def test_both_kinds_compute_what_they_are_named_for():
    decoder, losses = random_decoder("tiny", 0), {}
    batch = TextBatch(torch.randint(300, (1, 512), generator=torch.Generator().manual_seed(0)), 0)
    for kind, shifted in (("full", True), ("s2", True), ("s2", False)):
        with LongLora(length=512, attention=Attention(kind, shifted=shifted), levers=Levers("full")).attach(
            decoder
        ) as h:
            losses[kind, shifted] = float(h.objective("extend")(batch)["lm"].detach())
    assert len(set(losses.values())) == 3


def test_the_figure_names_what_was_measured():
    [figure] = step_figures("tiny", [512], "sdpa", repeats=2, seed=0, advance=lambda *_, **__: None)
    assert figure.id == "longlora.step_over_limit_tiny_512"  # never the scoreboard's own, which are of another shape
    assert 0 < figure.low <= figure.value <= figure.high
    assert "groups of 128" in figure.recipe
    assert "--shape tiny --length 512 --backend sdpa" in figure.command


@pytest.mark.parametrize(
    ("shape", "length", "backend"), [("enormous", 512, "sdpa"), ("tiny", 128, "sdpa"), ("tiny", 512, "turbo")]
)
def test_what_cannot_be_measured_is_refused(shape, length, backend):
    with pytest.raises(UsageError, match="Nothing was measured"):
        step_figures(shape, [length], backend, repeats=1, seed=0, advance=lambda *_, **__: None)
