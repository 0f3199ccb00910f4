"""States in force on a decoder: joined once for the same rows, whoever lets go of them meanwhile."""

import sys
import threading

import pytest
import torch

from preread.core.errors import UsageError
from preread.core.types import Prompt
from preread.nn.beside import Beside

CPU = torch.device("cpu")


def beside() -> Beside:
    made = Beside(threading.RLock())
    made.readers.add("cepe/x")
    return made


def prompts() -> list[Prompt]:
    return [Prompt(torch.tensor([1, 2]), states=torch.randn(n, 4), reader="cepe/x") for n in (3, 2)]


def test_rows_that_inference_joined_can_be_trained_on_afterwards() -> None:
    held, rows = beside(), prompts()
    weight = torch.ones(4, requires_grad=True)
    with torch.inference_mode(), held.reading(rows, CPU):
        pass
    with held.reading(rows, CPU):
        (held.contexts["cepe/x"].states * weight).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, sum(row.states.sum(0) for row in rows if row.states is not None))


def test_the_same_rows_are_joined_once() -> None:
    held, rows = beside(), prompts()
    with held.reading(rows, CPU):
        first = held.contexts["cepe/x"]
    with held.reading(rows, CPU):
        assert held.contexts["cepe/x"] is first
    held.release()
    with held.reading(rows, CPU):
        assert held.contexts["cepe/x"] is not first


def test_rows_may_be_let_go_of_at_any_moment() -> None:
    held, rows, over = beside(), prompts(), threading.Event()

    def let_go() -> None:
        while not over.is_set():
            held.release()

    before, other = sys.getswitchinterval(), threading.Thread(target=let_go)
    sys.setswitchinterval(1e-6)
    other.start()
    try:
        for _ in range(2000):
            with held.reading(rows, CPU):
                assert held.contexts["cepe/x"].states.shape == (2, 3, 4)
    finally:
        over.set()
        other.join()
        sys.setswitchinterval(before)


def test_states_that_nothing_reads_are_refused_and_leave_nothing_in_force() -> None:
    held = beside()
    held.readers.clear()
    with pytest.raises(UsageError, match="none is"), held.reading(prompts(), CPU):
        pass
    assert not held.contexts
