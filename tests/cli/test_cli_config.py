"""Configuration as the commands feel it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from unittest.mock import ANY

import pytest
import typer

from preread import cli
from preread.core.defaults import Defaults, user_file
from preread.library import Library

CLICK = typer.main.get_command(cli.app)


def test_the_options_have_the_defaults_that_config_shows():
    """`config show` must not say one thing and a command do another."""
    known = {key: value for key, value in asdict(Defaults()).items() if value is not None}
    commands = [command for command in CLICK.commands.values() if not hasattr(command, "commands")]
    options = [(command.name, option) for command in commands for option in command.params if option.name in known]
    assert {option.name for _, option in options} == set(known)
    assert [(name, option.name) for name, option in options if option.default != known[option.name]] == []


@pytest.fixture
def asked(call, monkeypatch):
    """What `ask` passes on: the collection's name and the arguments."""
    seen = {}

    class Stub:
        def __init__(self, path=None, *_):
            seen["library"] = path

        def collection(self, name, *_):
            seen["collection"] = name
            return self

        def __getattr__(self, _):
            def took(*args, **kwargs):
                seen["passed"] = [*args, *kwargs.values()]
                raise typer.Exit

            return took

    monkeypatch.setattr("preread.library.Library", Stub)

    def go(*arguments):
        code, _, err = call("ask", "Who?", *arguments)
        assert code == 0, err
        return seen

    return go


def test_flag_over_variable_over_project_over_user_over_default(asked, monkeypatch):
    assert asked() == {"library": None, "passed": ANY}  # `ask` finds its collection by itself
    user_file().parent.mkdir(parents=True)
    user_file().write_text('collection = "of-user"\nmax_tokens = 7\nlibrary = "/of/user"')
    seen = asked()
    assert (seen["collection"], seen["library"]) == ("of-user", Path("/of/user"))
    assert any(getattr(value, "max_tokens", None) == 7 for value in seen["passed"])
    Path("preread.toml").write_text('collection = "of-project"')
    assert asked()["collection"] == "of-project"
    monkeypatch.setenv("PREREAD_COLLECTION", "of-variable")
    assert asked()["collection"] == "of-variable"
    assert asked("--collection", "of-flag")["collection"] == "of-flag"


def test_configured_settings_are_for_new_collections_only(run, log, tmp_path):
    Path("preread.toml").write_text('model = "tiny"\nratio = 4')
    assert run("add", str(log))[0] == 0
    made = Library(tmp_path / "library").collection("default").settings
    assert (made.model, made.options) == ("tiny", {"ratio": 4.0})
    Path("preread.toml").write_text('model = "tiny"\nratio = 8')
    assert run("add", str(log), "--json")[0] == 0
    code, _, err = run("add", str(log), "--ratio", "8")
    assert code == 2
    assert "the settings that default was made with" in err


def test_every_setting_of_a_method_can_be_said_where_a_collection_begins(run, log, tmp_path):
    says = ("add", str(log), "--method", "cepe", "--model", "tiny")
    code, _, err = run(*says, "--set", "movd=0")
    assert (code, "Did you mean moved?" in err) == (2, True)
    code, _, err = run(*says, "--set", "kept=int9")
    assert (code, "int8" in err) == (2, True)
    assert run(*says, "--set", "moved=0", "--set", "kept=int8")[0] == 0
    assert Library(tmp_path / "library").collection("default").settings.options == {"moved": 0, "kept": "int8"}
    assert run("add", str(log))[0] == 0
    code, _, err = run("add", str(log), "--method", "cepe", "--set", "moved=3")
    assert (code, "was made with" in err) == (2, True)


def test_a_configured_option_is_for_the_methods_that_have_it(run, log, tmp_path):
    Path("preread.toml").write_text('model = "tiny"\nratio = 4')
    assert run("add", str(log), "--method", "text", "--collection", "plain")[0] == 0
    made = Library(tmp_path / "library").collection("plain").settings
    assert (made.method, made.options) == ("text", {})
    code, _, err = run("add", str(log), "--method", "text", "--ratio", "8", "--collection", "other")
    assert (code, "ratio" in err) == (2, True)
    code, _, err = run("add", str(log), "--method", "lloco", "--collection", "plain")
    assert (code, "was made with" in err) == (2, True)


def test_list_shows_every_collection_whatever_is_configured(run, log):
    assert run("add", str(log), "--model", "tiny", "--collection", "other")[0] == 0
    Path("preread.toml").write_text('collection = "mine"')
    assert len(json.loads(run("list", "--json")[1])) == 1


def test_config_show_says_value_and_origin(call, monkeypatch):
    monkeypatch.setenv("PREREAD_RATIO", "16")
    shown = json.loads(call("config", "show", "--origin", "--json")[1])
    assert shown["ratio"] == {"value": 16.0, "origin": "PREREAD_RATIO"}
    assert shown["seed"] == {"value": None, "origin": "default"}
    assert json.loads(call("config", "show", "--json")[1])["ratio"] == 16.0
    assert "PREREAD_RATIO" in call("config", "show", "--origin")[1]
    assert "PREREAD_RATIO" not in call("config", "show")[1]


def test_set_and_unset_are_what_show_shows(call):
    assert call("config", "set", "max_tokens", "64")[0] == 0
    assert call("config", "set", "max_tokens", "32", "--project")[0] == 0
    paths = json.loads(call("config", "path", "--json")[1])
    assert Path(paths["user"]).is_file()
    assert Path(paths["project"]) == Path.cwd() / "preread.toml"
    assert json.loads(call("config", "show", "--json")[1])["max_tokens"] == 32
    assert call("config", "unset", "max_tokens", "--project")[0] == 0
    assert json.loads(call("config", "show", "--json")[1])["max_tokens"] == 64
    code, _, err = call("config", "set", "max_token", "64")
    assert (code, "Did you mean max_tokens?" in err) == (2, True)


@pytest.mark.parametrize("command", [["list"], ["ask", "Who?"], ["config", "show"]])
def test_a_broken_file_is_one_message_and_exit_code_2(call, command):
    Path("preread.toml").write_text("collection = [")
    code, out, err = call(*command)
    assert (code, out) == (2, "")
    assert "preread.toml" in err
    assert err.count("\n") == 1
    assert call("config", "path")[0] == 0
