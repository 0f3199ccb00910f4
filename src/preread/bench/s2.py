"""Shifted sparse attention against its definition: which tokens it leaks, how far it is off, and what it saves.

The definition is a mask of every head, written out token by token, and shares no code with what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, product
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from preread.bench.figures import Figure
from preread.bench.s2_times import TIMED_HEADS, TIMED_KV_HEADS, TIMED_WIDTH, Times, attention_times
from preread.core.progress import Advance
from preread.methods.longlora.attaching import attach, detach
from preread.methods.longlora.attention import Backend, shifted_attention
from preread.methods.longlora.segments import Grouping
from preread.nn.activations import Levers, frugal

ShiftedAttention = Callable[..., Tensor]
"""As `shifted_attention`."""
Outputs = Callable[[Tensor], Tensor]
"""[N, D] embeddings -> [N, V] outputs of the N tokens of a batch, rows one behind the other."""

HEADS = ((8, 8), (9, 3), (8, 2), (3, 1), (5, 5))
"""Query and key-value heads of the cases; halves that cut a group of heads in two are among them."""
DOCUMENTS = ((64,), (61,), (50,), (7,), (20, 31, 10), (1, 2, 61), (16, 16, 29))
"""Lengths of the documents of a row: whole groups, ragged tails, packed, shorter than a group."""
GROUPS = (8, 16)
ODD_WINDOW = 24
"""Up to which documents are attended to in full in half of the cases; no multiple of a group."""
LENGTHS = (2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Case:
    """Documents of one batch and how they are grouped.

    Args:
        heads: H.
        kv_heads: K.
        documents: lengths, in order, over all rows.
        group: G.
        full_below: longest document that is not divided.
        shifted: whether half of the heads have moved groups.
    """

    heads: int
    kv_heads: int
    documents: tuple[int, ...]
    group: int
    full_below: int = 0
    shifted: bool = True

    @property
    def length(self) -> int:
        """N, tokens of all documents."""
        return sum(self.documents)

    def visible(self) -> Tensor:
        """[H, N, N] bool: which token a query of each head sees, as the paper defines it for one document alone."""
        seen = torch.zeros(self.heads, self.length, self.length, dtype=torch.bool)
        ends = [*accumulate(self.documents)]
        for start, end in zip([0, *ends], ends, strict=False):
            place = torch.arange(end - start)
            causal = place[:, None] >= place[None, :]
            for head in range(self.heads):
                moved = self.group // 2 if self.shifted and head >= self.heads // 2 else 0
                group = (place + moved) // self.group
                near = group[:, None] == group[None, :]
                seen[head, start:end, start:end] = causal if end - start <= self.full_below else causal & near
        return seen


def cases() -> Iterator[Case]:
    """Every combination of heads, documents and groups that figures are taken over."""
    for (heads, kv_heads), documents, group, full_below in product(HEADS, DOCUMENTS, GROUPS, (0, ODD_WINDOW)):
        yield Case(heads, kv_heads, documents, group, full_below)


def dense_error(
    attention: ShiftedAttention,
    case: Case,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> float:
    """Largest absolute difference from the definition in float64, of the output and of all three gradients.

    Args:
        attention: what is measured.
        case: documents of one row.
        seed: of queries, keys and values.
        dtype: in which it computes; the definition is given the same rounded numbers.
        device: on which it computes.
    """
    draw, width = torch.Generator().manual_seed(seed), 16
    shapes = [(1, heads, case.length, width) for heads in (case.heads, case.kv_heads, case.kv_heads)]
    given = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]
    weight = torch.randn(1, case.length, case.heads, width, generator=draw, dtype=torch.float64).to(dtype)
    segments = Grouping(case.group, case.shifted, case.full_below).segments(case.documents)

    def defined(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=case.visible()).transpose(1, 2)

    ours, theirs = [x.to(device).requires_grad_(True) for x in given], [x.double().requires_grad_(True) for x in given]
    found, expected = (
        [out.detach(), *torch.autograd.grad(out, inputs, weight.to(out))]
        for out, inputs in ((attention(*ours, segments), ours), (defined(*theirs), theirs))
    )
    return max(float((one.cpu() - other).abs().max()) for one, other in zip(found, expected, strict=True))


def leaking_pairs(
    outputs: Outputs, embeddings: Tensor, documents: Sequence[int], idle: frozenset[int] = frozenset()
) -> int:
    """How many pairs of tokens there are of which the one reaches the output of the other and must not.

    A token may reach itself and what follows it in its document. Each is changed by turns, and an output that differs
    in a single bit was reached; then what has a gradient by the pair, in case the backward pass attends elsewhere.

    Args:
        outputs: of the tokens of a batch.
        embeddings: [N, D] of those tokens.
        documents: their documents' lengths, in order.
        idle: documents that are padding: nobody reads their outputs, which may show anything.
    """
    of = torch.repeat_interleave(torch.arange(len(documents)), torch.tensor(documents))
    place = torch.arange(len(of))
    may_reach = (of[:, None] == of[None, :]) & (place[None, :] >= place[:, None])  # [from, to]
    with torch.no_grad():
        before = outputs(embeddings)
        reached = torch.zeros_like(may_reach)
        for token in range(len(of)):
            changed = embeddings.clone()
            changed[token] = -changed[token]
            reached[token] = (outputs(changed) != before).any(dim=-1)
    given = embeddings.clone().requires_grad_(True)
    for token in range(len(of)):  # computed anew each time: what is recomputed backwards is part of what is measured
        [gradient] = torch.autograd.grad(outputs(given)[token].sum(), given)
        reached[:, token] |= (gradient != 0).any(dim=-1).cpu()
    read = torch.tensor([document not in idle for document in of.tolist()])
    return int((reached & ~may_reach & read).sum())


@dataclass(frozen=True, slots=True)
class Layout:
    """How a batch holds its documents.

    Args:
        rows: B.
        documents: lengths over all rows, padding counted as a document of its own.
        inputs: what the model is told of them.
        idle: which of the documents are padding.
    """

    rows: int
    documents: tuple[int, ...]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    idle: frozenset[int] = frozenset()


def layouts() -> Mapping[str, Layout]:
    """One ragged row, a packed one, and two of which one is padded left and the other right."""
    lengths = (20, 31, 10)
    padding = torch.ones(2, 40, dtype=torch.int64)
    padding[0, :7], padding[1, 35:] = 0, 0
    positions = (padding.cumsum(1) - 1).clamp_min(0)
    packed = torch.cat([torch.arange(length) for length in lengths])[None]
    return {
        "ragged": Layout(1, (61,)),
        "packed": Layout(1, lengths, {"position_ids": packed}),
        "padded": Layout(
            2, (7, 33, 35, 5), {"attention_mask": padding, "position_ids": positions}, idle=frozenset({0, 3})
        ),
    }


@contextmanager
def training(model: PreTrainedModel, group: int, backend: Backend) -> Iterator[None]:
    """The model in training mode, attending sparsely, with every layer computed again in the backward pass."""
    attach(model, group=group, full_below=0, backend=backend)
    try:
        with frugal(model.train(), Levers(checkpoint="full")):
            yield
    finally:
        detach(model.eval())


def model_leaks(model: PreTrainedModel, layout: Layout, group: int, backend: Backend = "sdpa", seed: int = 0) -> int:
    """`leaking_pairs` of a whole decoder in training, layers checkpointed."""
    tokens = sum(layout.documents)
    width = model.config.get_text_config().hidden_size
    embeddings = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)).to(model.device, model.dtype)
    inputs = {name: given.to(model.device) for name, given in layout.inputs.items()}

    def outputs(x: Tensor) -> Tensor:
        rows = x.reshape(layout.rows, -1, width)
        logits: Tensor = model(inputs_embeds=rows, use_cache=False, **inputs).logits
        return logits.flatten(0, 1)

    with training(model, group, backend):
        return leaking_pairs(outputs, embeddings, layout.documents, layout.idle)


def small_llama(heads: int, kv_heads: int, seed: int = 0) -> PreTrainedModel:
    """Two random layers of 16 numbers a head."""
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16 * heads,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        initializer_range=0.1,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


STEPS = len(HEADS) + len(LENGTHS)
"""What `s2_figures` reports to `progress`."""


def s2_figures(seed: int = 0, repeats: int = 5, progress: Advance | None = None) -> list[Figure]:
    """Leaks, distance from the definition, and the ratio of times; some minutes. `progress` is told of `STEPS`."""
    advance = progress or (lambda *_, **__: None)
    command = f"preread bench s2 --seed {seed} --repeats {repeats}"
    errors = [dense_error(shifted_attention, case, seed) for case in cases()]
    leaks = []
    for heads in HEADS:
        model = small_llama(*heads, seed)
        leaks += [model_leaks(model, layout, group, seed=seed) for layout in layouts().values() for group in GROUPS]
        advance(1)
    times = {}
    for length in LENGTHS:
        times[length] = attention_times(length, repeats, seed)
        advance(1)
    shape = f"heads/kv heads {', '.join(f'{h}/{k}' for h, k in HEADS)}; groups {', '.join(map(str, GROUPS))}"
    pairs = sum(sum(layout.documents) ** 2 for layout in layouts().values()) * len(HEADS) * len(GROUPS)
    return [
        Figure(
            id="longlora.leaking_pairs",
            value=sum(leaks),
            low=min(leaks),
            high=max(leaks),
            unit="pairs",
            n=len(leaks),
            recipe=f"{shape}; rows: {', '.join(layouts())}; seed {seed}",
            command=command,
            note=f"of {pairs} pairs; SDPA on the CPU; two-layer Llama in training mode with checkpointing, by changing "
            "each token and by gradients; tokens of other documents count as leaks too; low and high: of one batch",
        ),
        Figure(
            id="longlora.dense_mask_error",
            value=max(errors),
            low=min(errors),
            high=max(errors),
            unit="abs",
            n=len(errors),
            recipe=f"{shape}; documents {', '.join(map(str, DOCUMENTS))}; seed {seed}",
            command=command,
            note="SDPA, float64; outputs and gradients of queries, keys and values; the largest of all cases",
        ),
        Figure.of(
            "longlora.cpu_attention_ratio_8k",
            times[LENGTHS[-1]].ratio,
            "x",
            f"lengths {LENGTHS}, groups of a quarter, heads {TIMED_HEADS}/{TIMED_KV_HEADS} of {TIMED_WIDTH}, "
            f"repeats={repeats} seed={seed}",
            command,
            _growth(times),
        ),
    ]


def _growth(times: Mapping[int, Times]) -> str:
    """What each length gains, and how the costs grow."""
    first, last = LENGTHS[0], LENGTHS[-1]
    grown = {
        name: median(getattr(times[last], name)) / median(getattr(times[first], name)) for name in ("full", "shifted")
    }
    gains = ", ".join(f"{length}: {median(each.ratio):.2f}x" for length, each in times.items())
    return (
        f"attention of one layer forward and back, float32, {torch.get_num_threads()} threads, same kernel; {gains}; "
        f"from {first} to {last} tokens full attention costs {grown['full']:.1f}x and S2 {grown['shifted']:.1f}x; "
        f"S2 keeps 0.234 of the pairs, so the limit is 4.3x; torch {torch.__version__}"
    )
