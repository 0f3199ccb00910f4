"""`train footprint`: a table before anything is loaded."""

from __future__ import annotations

import json

import pytest
import yaml
from transformers import LlamaConfig
from typer.testing import CliRunner

from preread.cli.app import app
from preread.cli.entry import main  # noqa: F401 declares every command


@pytest.fixture
def recipe(tmp_path):
    LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ).save_pretrained(tmp_path)
    path = tmp_path / "recipe.yaml"
    settings = {"length": 256, "levers": {"checkpoint": "none"}}
    path.write_text(
        yaml.safe_dump(
            {
                "method": "longlora",
                "stage": "extend",
                "model": str(tmp_path),
                "settings": settings,
                "data": ["none.jsonl"],
                "window": 256,
            }
        )
    )
    return path


def test_the_kinds_add_up_and_less_room_means_other_levers(recipe):
    def kinds(*options):
        result = CliRunner().invoke(app, ["train", "footprint", str(recipe), "--json", *options])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.splitlines()[-1]), result.stderr

    plain, _ = kinds()
    total = sum(value for kind, value in plain.items() if kind != "host")
    fitting, said = kinds("--memory", str((total - 1) / 1e9 / 0.94))
    assert fitting["kept"] < plain["kept"]
    assert '"checkpoint": "selective"' in said
