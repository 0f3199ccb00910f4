"""What a training step gains by shifted sparse attention, beside the most that it could gain.

Attention is a part of a step only. With A the FLOPs of causal attention forward and L those of the linear layers, both
over all layers, a step that trains an extension over frozen weights and computes every layer twice costs 4.5 A + 3 L:
attention 1 + 1 + 2.5 (backwards with scores computed again), linear layers 1 + 1 + 1 (gradients of inputs alone). S2
keeps a share s of the pairs, so no step can gain more than (4.5 A + 3 L) / (4.5 s A + 3 L).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from preread.bench.figures import Figure
from preread.bench.s2_times import Times
from preread.core.errors import UsageError
from preread.core.progress import Advance
from preread.core.types import TextBatch
from preread.methods.longlora.attention import Backend
from preread.methods.longlora.method import Attention, LongLora
from preread.methods.longlora.segments import Grouping, Segments
from preread.nn.activations import Levers
from preread.nn.hf import Decoder
from preread.training.optimizers import optimizer

SHAPES = {
    "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "vocab_size": 32000, "max_position_embeddings": 4096},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "vocab_size": 300, "max_position_embeddings": 128},
}  # fmt: skip


def limit(config: LlamaConfig, length: int, segments: Segments) -> float:
    """The most that a step of one row can gain: see the top.

    Args:
        config: of a decoder whose query and key-value heads are as many.
        length: T.
        segments: of the row.
    """
    halves = segments.plain, segments.moved
    share = sum(size * (size + 1) for sizes in halves for size in sizes) / (2 * length * (length + 1))
    width, hidden, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    attention = layers * 2 * width * length * (length + 1)  # two products, 2 FLOPs a number, of half of the pairs
    linear = layers * 2 * length * (4 * width**2 + 3 * width * hidden)
    most: float = (4.5 * attention + 3 * linear) / (4.5 * share * attention + 3 * linear)
    return most


def random_decoder(shape: str, seed: int) -> Decoder:
    """A Llama of this shape without training: bfloat16 on a GPU, float32 on a CPU."""
    cuda = torch.cuda.is_available()
    with torch.random.fork_rng(), torch.device("cuda" if cuda else "cpu"):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**SHAPES[shape]), dtype=torch.bfloat16 if cuda else torch.float32
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    return Decoder(model, tokenizer, shape, fingerprint=shape, note="random weights")


def step_times(decoder: Decoder, length: int, repeats: int, backend: Backend, seed: int, advance: Advance) -> Times:
    """Seconds of a step on one row by full and by sparse attention, by turns: forward, back and AdamW.

    Both use the same kernel. The extension is the method's own (LoRA, norms, embeddings), every layer is checkpointed.
    """
    ids = torch.randint(decoder.model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(seed))
    times = Times()
    kinds: tuple[tuple[Literal["full", "s2"], list[float]], ...] = (("full", times.full), ("s2", times.shifted))
    for repeat in range(repeats + 1):
        for kind, taken in kinds:
            seconds = _step(decoder, TextBatch(ids, seed), Attention(kind, backend=backend))
            if repeat:  # the first is for warmth
                taken.append(seconds)
            advance(1, f"{kind} {seconds:.1f} s")
    return times


def _step(decoder: Decoder, batch: TextBatch, attention: Attention) -> float:
    method = LongLora(length=batch.ids.shape[1], attention=attention, levers=Levers("full"))
    with method.attach(decoder) as handle:
        objective = handle.objective("extend")
        adamw = optimizer("adamw", objective.parameters(), 1e-5, (0.9, 0.95), 0.0)
        _wait()
        start = time.perf_counter()
        objective(batch)["lm"].backward()
        adamw.step()
        _wait()
        return time.perf_counter() - start


def _wait() -> None:
    """Until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def step_figures(
    shape: str, lengths: Sequence[int], backend: str, repeats: int, seed: int, advance: Advance
) -> list[Figure]:
    """The measured gain of a step over its limit, a figure a length.

    Args:
        shape: of the decoder.
        lengths: T, each beyond the shape's window.
        backend: of both attentions.
        repeats: timed steps of each kind.
        seed: of weights and tokens.
        advance: told of each step, `2 * (repeats + 1)` a length.

    Raises:
        UsageError: an unknown shape or backend, or a length within the shape's window.
    """
    window = _window(shape, lengths)
    if backend not in get_args(Backend):
        raise _refused(f"a backend out of {', '.join(get_args(Backend))}", backend)
    decoder, figures = random_decoder(shape, seed), []
    for length in lengths:
        times = step_times(decoder, length, repeats, cast("Backend", backend), seed, advance)
        group = max(length // 4, window) // 2 * 2
        most = limit(decoder.model.config, length, Grouping(group, True, full_below=window).segments([length]))
        full, shifted = (sorted(each)[len(each) // 2] for each in (times.full, times.shifted))
        of = f"{length // 1000}k" if shape == "llama-2-7b" else f"{shape}_{length}"
        figures.append(
            Figure.of(
                f"longlora.step_over_limit_{of}",
                [ratio / most for ratio in times.ratio],
                "share",
                f"{shape}, random weights, {decoder.dtype}, one row of {length}, groups of {group}, LoRA with norms "
                f"and embeddings, all layers checkpointed, backend={backend} repeats={repeats} seed={seed}",
                f"preread bench s2-step --shape {shape} --length {length} --backend {backend} --repeats {repeats} "
                f"--seed {seed}",
                f"a step takes {full:.2f} s with full attention and {shifted:.2f} s with S2 by the same kernel: "
                f"{full / shifted:.2f}x of at most {most:.2f}x by FLOPs of the layers; torch {torch.__version__}",
            )
        )
    return figures


def _window(shape: str, lengths: Sequence[int]) -> int:
    if shape not in SHAPES:
        raise _refused(f"a shape out of {', '.join(SHAPES)}", shape)
    window = int(SHAPES[shape]["max_position_embeddings"])
    if within := [length for length in lengths if length <= window]:
        raise _refused(f"lengths beyond the shape's window of {window}", ", ".join(map(str, within)))
    return window


def _refused(expected: str, got: str) -> UsageError:
    return UsageError(expected, got, "Nothing was measured.", "See preread bench s2-step --help.")
