"""The parsing process: kept from file to file, ended when it exceeds a limit, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from preread.core.errors import Interrupted, ResourceError, UnreadableDocument
from preread.data import bounded, ingest
from preread.data.ingest import read


@pytest.fixture(autouse=True)
def _fresh():
    bounded._close_all()
    yield
    bounded._close_all()
    assert not parsers(), "a parsing process is left"


def parsers() -> list[psutil.Process]:
    """Our parsing processes, those that ended and nobody waited for among them."""
    ours = psutil.Process().children()
    return [
        process for process in ours if process.status() == psutil.STATUS_ZOMBIE or "serve" in str(process.cmdline())
    ]


@pytest.fixture
def slow(write):
    """A small file that takes its parser minutes: openings of pictures in a heading, each looking for its end."""
    return write("slow.md", "# " + "![" * 200_000)


def test_one_process_reads_file_after_file_and_has_no_model_library(write):
    for name in ("a.txt", "b.md", "c.html"):
        read(write(name, "<p>text"))
    (process,) = parsers()
    loaded = [region.path for region in process.memory_maps()]
    assert not [path for path in loaded if "torch" in path]
    (child,) = bounded._idle
    assert child.process.pid == process.pid


def test_a_process_is_kept_however_large_its_starter_is(write):
    """A system may count what the starter held as the new process's own peak."""
    model = b"x" * (bounded.MEMORY_MOST * 6 // 10)
    path = write("a.txt", "text")
    read(path)
    (first,) = parsers()
    read(path)
    assert [process.pid for process in parsers()] == [first.pid]
    assert model


def test_threads_have_a_process_each_and_every_answer_is_its_own(write):
    paths = [write(f"{number}.txt", f"text {number}") for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert [document.text for document in pool.map(read, paths)] == [f"text {number}" for number in range(40)]
    assert 1 <= len(parsers()) <= (os.cpu_count() or 1)


def killing(number: signal.Signals, after: float = 0.3) -> threading.Thread:
    """Sends a signal to the parsing process in a while."""

    def send():
        time.sleep(after)
        for process in parsers():
            process.send_signal(number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_a_parser_that_dies_costs_one_file(write, slow, number):
    good = write("good.txt", "text")
    read(good)
    sender = killing(number)
    with pytest.raises(UnreadableDocument, match=rf"its parser was ended \(by {number.name}\)") as caught:
        read(slow)
    sender.join()
    assert "\n" not in str(caught.value)
    assert read(good).text == "text"


def test_a_parser_that_died_waiting_costs_nothing(write):
    path = write("a.txt", "text")
    read(path)
    os.kill(bounded._idle[0].process.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert read(path).text == "text"


def test_a_file_that_takes_too_long_is_refused(write, slow, monkeypatch):
    monkeypatch.setattr(ingest, "time_for", lambda size: 0.5)
    start = time.monotonic()
    with pytest.raises(UnreadableDocument, match="takes longer"):
        read(slow)
    assert time.monotonic() - start < 5
    monkeypatch.undo()
    assert read(write("a.txt", "text")).text == "text"


def test_time_grows_with_the_file():
    assert bounded.time_for(0) == 15
    assert bounded.time_for(1_250_000) == 20
    assert bounded.time_for(10_000_000) == 55


def test_another_thread_can_stop_a_call(write, slow):
    stop = threading.Event()
    threading.Timer(0.4, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Interrupted):
        read(slow, cancelled=stop.is_set)
    assert time.monotonic() - start < 5


@pytest.fixture
def swollen(write):
    """A page of 12 MB whose tree takes far more than it."""
    return write("swollen.html", "<p>" * 4_000_000)


def test_a_file_that_takes_too_much_memory_is_refused(write, swollen):
    start = time.monotonic()
    with pytest.raises(UnreadableDocument, match=r"1,000 MB of memory .*; got one that takes more"):
        read(swollen)
    assert time.monotonic() - start < 20
    assert read(write("a.txt", "text")).text == "text"


def test_memory_is_watched_where_the_system_keeps_no_limit(write, swollen, monkeypatch):
    path = write("a.txt", "text")
    read(path)
    bounded._idle[0].limited = False
    with monkeypatch.context() as patch:
        patch.setattr(bounded, "MEMORY_MOST", 200_000_000)
        with pytest.raises(UnreadableDocument, match=r"200 MB of memory .*; got one that takes more"):
            read(swollen)
    assert read(path).text == "text"


def test_ctrl_c_goes_through_and_ends_the_parser(write, slow, tmp_path):
    program = (
        "import sys, os\nfrom preread.data.ingest import read\nfrom preread.data import bounded\n"
        "try:\n    read(sys.argv[1])\nexcept KeyboardInterrupt:\n"
        "    import psutil\n    print('interrupted', len(psutil.Process().children()))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(slow)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parser too
    assert process.communicate(timeout=20)[0] == "interrupted 0\n"


def test_a_parser_does_not_outlive_who_started_it(write, slow):
    program = (
        "import sys, os, threading, time\nfrom preread.data import bounded\nfrom preread.data.ingest import read\n"
        "read(sys.argv[1])\nprint(bounded._idle[0].process.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    started = subprocess.run(
        [sys.executable, "-c", program, str(write("a.txt", "x"))], stdout=subprocess.PIPE, text=True, check=False
    )
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(started.stdout)) and psutil.Process(int(started.stdout)).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_process_to_start_is_one_message(write, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ResourceError, match="a process to parse files in"):
        read(write("a.txt", "text"))
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(ResourceError, match="ended at once"):
        read(write("a.txt", "text"))


def test_a_forked_process_starts_parsers_of_its_own(write):
    path = write("a.txt", "text")
    read(path)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if not bounded._idle and read(path).text == "text" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert read(path).text == "text"


def test_work_that_takes_long_is_shown(write, slow, capsys, monkeypatch):
    monkeypatch.setattr(ingest, "time_for", lambda size: 3.0)
    with pytest.raises(UnreadableDocument):
        read(slow)
    assert f"reading {slow}" in capsys.readouterr().err
