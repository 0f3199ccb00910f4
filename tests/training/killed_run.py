"""A run that is killed again and again, and the same run left alone; a script, so that the deaths are real.

`killed_run.py DECODER OBJECTIVE ROOT SEED` trains in ROOT/whole and in ROOT/killed and prints how its children died.
It imports everything once and forks a child for each attempt.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from preread.core.errors import ResourceError
from preread.core.types import Lesson, Prompt, TextBatch
from preread.methods.lloco.method import Lloco
from preread.methods.lloco.shape import CompressorConfig
from preread.models.loading import load
from preread.nn.answering import AnswerObjective
from preread.nn.lora import Lora, LoraConfig
from preread.training import checkpoint
from preread.training.loop import TrainingConfig, train

CONFIG = TrainingConfig(steps=16, learning_rate=0.01, accumulation=2, save_every=2)
FULL_DISK = 3


def compress(decoder):
    """The compressor's objective, with dropout, so that random states take part."""
    shape = CompressorConfig(16, LoraConfig(rank=2, dropout=0.2))
    objective = (
        Lloco(fresh=True, shape=shape)
        .attach(decoder)
        .objective("compress", segments="mixed", segment_tokens=(8, 14), ratios=(2.0, 6.0))
    )

    def batches(step):
        ids = torch.randint(3, 390, (2, 40), generator=torch.Generator().manual_seed(step))
        return TextBatch(ids, step)

    return objective, batches


def adapter(decoder):
    """The adapter's objective over prompts of text, with a teacher."""
    torch.manual_seed(0)
    decoder.adapters.add("taught", Lora(LoraConfig(rank=2, dropout=0.2), decoder.projections))

    def batches(step):
        generator = torch.Generator().manual_seed(step)
        draw = lambda n: torch.randint(3, 390, (n,), generator=generator)  # noqa: E731
        lessons = []
        for length in (12, 17):
            question, answer, text = draw(length), draw(5), draw(30)
            lessons.append(Lesson(Prompt(question), answer, Prompt(torch.cat([text, question]))))
        return lessons

    return AnswerObjective(decoder, "taught"), batches


def attempt(objective, batches, folder, before=lambda: None):
    """The exit status of a child that trains; negative is the signal that killed it."""
    child = os.fork()
    if child == 0:
        before()
        try:
            train(objective, batches, CONFIG, folder)
        except ResourceError as error:
            sys.stderr.write(f"{error}\n")
            os._exit(FULL_DISK)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return child


def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_while_writing():
    """Half of the checkpoint's bytes are on the disk."""
    write = checkpoint.save_file

    def half(tensors, path, metadata):
        write(tensors, path, metadata)
        Path(path).write_bytes(Path(path).read_bytes()[: Path(path).stat().st_size // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = half


def die_before_it_counts():
    """The checkpoint is whole, under its other name."""
    write = checkpoint.save_file

    def whole(tensors, path, metadata):
        write(tensors, path, metadata)
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = whole


def fill_the_disk():
    """No file may grow past a few bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write = checkpoint.save_file

    def full(tensors, path, metadata):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        write(tensors, path, metadata)

    checkpoint.save_file = full


def main(decoder_folder, kind, root, seed):
    decoder = load(decoder_folder, device="cpu", dtype="float32")
    objective, batches = {"compress": compress, "adapter": adapter}[kind](decoder)
    start = time.perf_counter()
    deaths = {"whole": [status(attempt(objective, batches, root / "whole"))]}
    duration = time.perf_counter() - start
    killed = root / "killed"
    deaths["planned"] = []
    for how in (die_while_writing, die_before_it_counts, fill_the_disk):
        # Not before there is a checkpoint that can stand.
        child = attempt(objective, batches, killed)
        while not (killed / checkpoint.NAME).exists():
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        status(child)
        stands = (killed / checkpoint.NAME).read_bytes()
        deaths["planned"].append(status(attempt(objective, batches, killed, how)))
        assert (killed / checkpoint.NAME).read_bytes() == stands, how.__name__
    draw, deaths["random"] = random.Random(seed), []
    for _ in range(4):
        child = attempt(objective, batches, killed)
        time.sleep(draw.uniform(0.0, duration / 4))
        os.kill(child, signal.SIGKILL)
        deaths["random"].append(status(child))
    deaths["last"] = [status(attempt(objective, batches, killed))]
    sys.stdout.write(json.dumps(deaths))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
