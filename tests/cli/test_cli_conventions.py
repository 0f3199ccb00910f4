"""What every command keeps to: exit codes, JSON, no questions, pipes, letters, colours, completion, a quick start."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from preread import cli
from preread.cli import completion
from preread.collection.settings import Settings
from preread.core import errors
from preread.core.defaults import KEYS
from preread.methods import METHODS

CLICK = typer.main.get_command(cli.app)
LEAVES = {
    f"{name} {inner}".strip(): leaf
    for name, command in CLICK.commands.items()
    for inner, leaf in getattr(command, "commands", {"": command}).items()
}
WITHOUT_REPORT = {"config set", "config unset"}


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A line in a real shell, with a real `preread`."""
    program = cwd / "bin" / "preread"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{sys.executable}\nfrom preread.cli import main\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    bare |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")} | environment
    bare["PATH"] = f"{program.parent}:{bare['PATH']}"
    return subprocess.run(["bash", "-c", line], capture_output=True, cwd=cwd, env=bare, check=False)


@pytest.fixture
def library(open_library, collection, log):
    """A folder with a library in which a name is not ASCII."""
    collection.add(log)
    wide = log.with_name("Straße.md")
    wide.write_text(log.read_text(), encoding="utf-8")
    open_library().collection("Bücher", Settings("tiny", method="text", passage_tokens=80)).add(wide)
    return collection.library.path


@pytest.mark.parametrize("command", LEAVES)
def test_a_mistake_in_any_command_is_2_and_with_json_one_object(call, command):
    code, out, err = call(*command.split(), "--no-such-option")
    assert (code, out) == (2, "")
    assert "--no-such-option" in err
    code, out, err = call(*command.split(), "--no-such-option", "--json")
    assert (code, out) == (2, "")
    told = json.loads(err)
    assert (told["error"], told["exit_code"]) == ("UsageError", 2)


@pytest.mark.parametrize("command", LEAVES)
def test_every_help_text_has_an_example(call, command):
    code, out, _ = call(*command.split(), "--help")
    assert code == 0
    assert f"Example: preread {command}" in " ".join(out.split())


def test_every_command_that_reports_has_json():
    without = {name for name, leaf in LEAVES.items() if not any("--json" in p.opts for p in leaf.params)}
    assert without == WITHOUT_REPORT


def test_every_option_says_what_it_is():
    assert [(name, p.name) for name, leaf in LEAVES.items() for p in leaf.params if not getattr(p, "help", "")] == []


FOUR = ("the expected", "the got", "The consequence.", "The remedy.")
KINDS = [
    (errors.PrereadError(*FOUR), 1),
    (errors.UsageError(*FOUR), 2),
    (errors.ResourceError(*FOUR), 4),
    (errors.IntegrityError(*FOUR), 5),
    (errors.FingerprintMismatch(*FOUR), 5),
    (errors.Interrupted(*FOUR), 130),
    (KeyboardInterrupt(), 130),
    (MemoryError("too much"), 4),
    (OSError(errno.ENOSPC, "full"), 4),
    (OSError(errno.EACCES, "locked"), 1),
    (ValueError("the sky fell"), 1),
]


@pytest.mark.parametrize(("error", "code"), KINDS, ids=lambda value: getattr(type(value), "__name__", value))
@pytest.mark.parametrize("command", [["config", "show"], ["config", "path"]], ids=" ".join)
def test_every_kind_of_error_has_its_exit_code_and_one_line(call, monkeypatch, command, error, code):
    def fails(*_):
        raise error

    monkeypatch.setattr("preread.cli.setup.resolve", fails)
    monkeypatch.setattr("preread.cli.setup.project_file", fails)
    got, out, err = call(*command)
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert "Traceback" not in err
    got, out, err = call(*command, "--json")
    told = json.loads(err)
    assert (got, out, told["exit_code"]) == (code, "", code)
    if isinstance(error, errors.PrereadError) and code != 130:
        assert [told[part] for part in ("expected", "got", "consequence", "remedy")] == list(FOUR)


def test_warnings_are_lines_and_with_json_objects(call, monkeypatch):
    def warns(*_):
        warnings.warn("the light is low", errors.PartlyRead, stacklevel=1)
        warnings.warn("a library's own matter", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr("preread.cli.setup.project_file", warns)
    assert call("config", "path")[2] == "warning: the light is low\n"
    assert json.loads(call("config", "path", "--json")[2]) == {"warning": "PartlyRead", "message": "the light is low"}


def test_doubt_with_strict_is_3(run, log):
    assert run("add", str(log), "--model", "tiny")[0] == 0
    code, out, _ = run("ask", "zebra quantum mortgage?", "--strict", "--json")
    assert (code, json.loads(out)["finish"]) == (3, "withheld")


def test_a_closed_pipe_is_quiet(library):
    for line in ("preread list --library library | head -0", "preread list --library library --json | true"):
        ended = shell(line, library.parent)
        assert ended.stderr == b""
    read = shell("preread list --library library | head -1", library.parent)
    assert (len(read.stdout.splitlines()), read.stderr) == (1, b"")


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}]
)
def test_letters_that_a_terminal_lacks_stop_nothing(library, environment):
    shown = shell("preread list --library library", library.parent, **environment)
    assert (shown.returncode, shown.stderr) == (0, b"")
    as_json = shell("preread list --library library --json", library.parent, **environment)
    rows = json.loads(as_json.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8")))
    assert "Bücher" in json.dumps(rows, ensure_ascii=False)
    failed = shell("preread config set 鍵 1", library.parent, **environment)
    assert failed.returncode == 2
    assert b"Traceback" not in failed.stderr


def test_no_color_leaves_no_colour(tmp_path):
    coloured = rb"\x1b\[[0-9;]*3[0-7]"
    assert re.search(coloured, shell("preread --help", tmp_path, FORCE_COLOR="1").stdout)
    assert not re.search(coloured, shell("preread --help", tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout)
    failed = shell("preread nope", tmp_path, FORCE_COLOR="1", NO_COLOR="1")
    assert not re.search(coloured, failed.stderr)


def test_help_takes_under_half_a_second_of_processor(tmp_path):
    shell("preread --help", tmp_path)  # files come into memory
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shell("preread --help", tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def complete(words: str, cwd: Path) -> list[str]:
    """What the shell would offer for the last word."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_PREREAD_COMPLETE": "complete_bash"}
    told = shell("preread", cwd, **asked)
    assert told.stderr == b""
    return told.stdout.decode().split()


def test_the_shell_completes_collections_methods_and_keys(library):
    here = library.parent
    assert complete("preread ask --library library --collection ", here) == ["Bücher", "sea"]
    assert sorted(complete("preread ask --method ", here)) == sorted(METHODS)
    assert sorted(complete("preread config set m", here)) == sorted(key for key in KEYS if key.startswith("m"))


def test_completion_knows_what_is_there(library, monkeypatch):
    there, anywhere = SimpleNamespace(params={"library": library}), SimpleNamespace(params={})
    assert completion.collections(there, "") == ["Bücher", "sea"]
    assert completion.collections(there, "s") == ["sea"]
    monkeypatch.setenv("PREREAD_LIBRARY", str(library))
    assert completion.collections(anywhere, "B") == ["Bücher"]
    monkeypatch.setenv("PREREAD_RATIO", "much")  # a broken configuration is no matter of a key press
    assert completion.collections(anywhere, "B") == []
    assert completion.methods("") == sorted(METHODS)
    assert completion.keys("max") == ["max_tokens"]


def test_completion_imports_nothing_heavy():
    script = (
        "import sys, preread.cli.completion as c\n"
        "class Context: params = {}\n"
        "c.collections(Context(), ''); c.methods(''); c.keys('')\n"
        "print([m for m in ('torch', 'transformers', 'lancedb', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_reference_is_what_the_commands_say():
    from preread.cli.reference import reference

    written = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == reference(), "python -m preread.cli.reference > docs/commands.md"
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert [name for name in LEAVES if f"preread {name}" not in readme] == []
