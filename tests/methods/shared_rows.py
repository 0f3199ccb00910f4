"""One of the processes that hold rows together: `shared_rows.py RANK PROCESSES FOLDER` writes losses and gradients."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from preread.core.types import PackedBatch, TextBatch
from preread.methods.longlora.extension import ExtensionConfig
from preread.methods.longlora.method import Attention, LongLora
from preread.nn.activations import Levers
from preread.nn.hf import Decoder
from preread.nn.lora import LoraConfig
from preread.nn.sharing import Sharing

CHECKPOINTED = Levers("full")
WINDOW, LENGTH = 16, 101  # no part of the length is as long as the other
HEADS = {"4/2": (4, 2), "3/1": (3, 1), "6/2": (6, 2)}
DOCUMENTS = (40, 1, 9, 51)  # the part's end is inside the last one
ATTENTION = {"s2": Attention(group=16), "full": Attention("full")}


def decoder(heads: int, kv_heads: int, dtype: torch.dtype) -> Decoder:
    """Random; in float64 sums in another order show nothing."""
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=8 * heads,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        initializer_range=0.2,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    return Decoder(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), "tiny", "tiny")


def batches() -> dict[str, TextBatch | PackedBatch]:
    """Two rows; packed documents; and answers that all are in one part of the row."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 60, (2, LENGTH), generator=draw)
    judged = torch.ones(LENGTH, dtype=torch.bool)
    judged[torch.tensor([0, *DOCUMENTS[:-1]]).cumsum(0)] = False
    late = torch.arange(LENGTH) >= 80
    return {
        "rows": TextBatch(ids, 0),
        "packed": PackedBatch(ids[0], DOCUMENTS, judged),
        "late": PackedBatch(ids[0], DOCUMENTS, late),
    }


READ = Decoder.hidden


def _from_zero(decoder: Decoder, x: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """As a process reads that counts positions from its own first token."""
    return READ(decoder, x, mask, positions - positions.min())


def step(
    heads: tuple[int, int],
    attention: Attention,
    batch: TextBatch | PackedBatch,
    sharing: Sharing | None,
    levers: Levers = CHECKPOINTED,
    misplaced: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, torch.Tensor]:
    """Loss and gradients of one step, averaged over the processes as a distributed wrapper does it."""
    extension = ExtensionConfig(LoraConfig(rank=2, dropout=0.0))
    method = LongLora(length=128, rule="yarn", extension=extension, attention=attention, levers=levers)
    with method.attach(decoder(*heads, dtype)) as handle:
        torch.manual_seed(2)
        objective = handle.objective("extend")
        for name, parameter in objective.trainable().items():
            if ".b." in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if sharing:
            objective.share(sharing)
        with patch.object(Decoder, "hidden", _from_zero) if misplaced else nullcontext():
            loss = objective(batch)["lm"]
        loss.backward()
        found = {"loss": loss.detach()}
        for name, parameter in objective.trainable().items():
            if sharing:
                dist.all_reduce(parameter.grad)
                parameter.grad /= sharing.size
            found[name] = parameter.grad
        objective.eval()
        with torch.no_grad():
            found["read in full"] = objective(batch)["lm"]
    return found


def main(rank: int, processes: int, folder: Path) -> None:
    """Every case, into a file of this process."""
    torch.set_num_threads(1)
    sharing = None
    if processes > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'meeting'}",
            rank=rank,
            world_size=processes,
            timeout=timedelta(seconds=60),
        )
        sharing = Sharing(dist.group.WORLD)
    run = partial(step, sharing=sharing)
    given = batches()
    found = {
        f"{heads} {kind} {batch}": run(HEADS[heads], ATTENTION[kind], given[batch])
        for heads, kind, batch in product(HEADS, ATTENTION, given)
    }
    run_half = partial(run, dtype=torch.bfloat16)
    found["half, late"] = run_half(HEADS["3/1"], ATTENTION["s2"], given["late"])
    found["kept"] = run(HEADS["3/1"], ATTENTION["s2"], given["packed"], levers=Levers("none"))
    found["misplaced"] = run(HEADS["3/1"], ATTENTION["s2"], given["rows"], misplaced=True)
    torch.save(found, folder / f"{rank}-of-{processes}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
