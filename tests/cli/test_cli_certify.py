"""`certify` as a user meets it: a card, pictures, numbers, exit codes, and a folder whose weights nobody touches."""

from __future__ import annotations

import json
import struct

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from preread.core.types import text_hash
from preread.models.loading import load

from ..certify.conftest import SMALL, data, work  # noqa: F401 fixtures

PICTURES = ("certificate-position.png", "certificate-length.png", "certificate-retrieval.png")


@pytest.fixture
def model(tmp_path, tiny_decoder):
    """A model's folder with a card of its own."""
    decoder, folder = tiny_decoder(), tmp_path / "models" / "long"
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- sea\n---\n\n# Long\n\nRead me.\n")
    return folder


@pytest.fixture
def arguments(model, data, work, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("preread.certify.plan.WHOLE", SMALL)
    monkeypatch.setattr("preread.certify.plan.QUICK", SMALL)
    small = ["--work", str(work), "--length", "600"]
    return ["certify", str(model), "--data", str(data), "--out", str(tmp_path / "out"), *small]


def test_a_card_with_pictures_and_numbers(call, arguments, tmp_path, model):
    weights = (model / "model.safetensors").read_bytes()
    code, out, err = call(*arguments, "--base", str(model))
    assert code == 0, err
    assert "certified to 600 of 2,048 positions" in out
    card = ModelCard((tmp_path / "out" / "README.md").read_text())
    assert (card.data.license, card.data.pipeline_tag, card.data.library_name) == (
        "apache-2.0",
        "text-generation",
        "transformers",
    )
    numbers = json.loads((tmp_path / "out" / "certificate.json").read_text())
    for one in numbers["lengths"]:
        assert f"{one['difference']['value']:+.3f}" in card.text
        assert f"**{one['word']}**" in card.text
    for name in PICTURES:
        assert f"]({name})" in card.text
        raw = (tmp_path / "out" / name).read_bytes()
        assert raw[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(struct.unpack(">II", raw[16:24])) > 300
    assert numbers["command"].startswith("preread certify ")
    assert all(check["passed"] for check in numbers["checks"])
    assert "Read me." in (model / "README.md").read_text(), "nobody asked for the model's own card"
    assert "certificate" not in (model / "README.md").read_text()
    assert (model / "model.safetensors").read_bytes() == weights


def test_into_the_model_its_card_keeps_its_words_and_one_certificate(call, arguments, model):
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.name != "README.md"}
    for _ in range(2):
        code, _, err = call(*arguments, "--into-model")
        assert code == 0, err
    told = (model / "README.md").read_text()
    front = yaml.safe_load(told.split("---")[1])
    assert (front["license"], front["tags"], front["pipeline_tag"]) == ("apache-2.0", ["sea"], "text-generation")
    assert told.count("Read me.") == told.count("## Certificate of the window") == 1
    assert "short text (512 tokens) beside the base: no --base was given" in told
    assert {name: (model / name).read_bytes() for name in files} == files
    assert {path.name for path in model.iterdir()} == {*files, *PICTURES, "README.md", "certificate.json"}


def test_a_card_that_cannot_be_read_is_left_as_it_is(call, arguments, model):
    broken = "---\nlicense: [\n---\n\n# Long\n"
    (model / "README.md").write_text(broken)
    code, _, err = call(*arguments, "--into-model")
    assert code == 1
    assert "a model card" in err
    assert "Traceback" not in err
    assert (model / "README.md").read_text() == broken


def test_exit_codes(call, arguments, tmp_path, model):
    code, out, _ = call(*arguments, "--minutes", "0", "--work", str(tmp_path / "fresh"))
    assert code == 130
    assert "not measured: passkey" in out
    code, out, _ = call(*arguments, "--min-passkey", "1")
    assert code == 3
    assert "failed: passkey" in out
    assert call(*arguments[:-1], "9999")[0] == 2
    assert call("certify", "default", *arguments[2:], "--into-model")[0] in (1, 2)
    (model / "manifest.json").write_text(json.dumps({"training": {"documents": [text_hash(_book(arguments))]}}))
    code, out, _ = call(*arguments)
    assert "not measured: loss by length" in out, "a book of its training"


def test_attention_that_leaks_fails(call, arguments, monkeypatch):
    def ahead(module, query, key, value, mask, **rest):
        return sdpa_attention_forward(module, query, key, value + 1e-3 * torch.roll(value, -1, dims=2), mask, **rest)

    def leaking(name, **rest):
        decoder = load(name, **rest)
        decoder.model.set_attn_implementation("leaking")
        return decoder

    AttentionInterface.register("leaking", ahead)
    AttentionMaskInterface.register("leaking", sdpa_mask)
    monkeypatch.setattr("preread.models.loading.load", leaking)
    try:
        code, out, _ = call(*arguments, "--json")
    finally:
        AttentionInterface._global_mapping.pop("leaking")
        AttentionMaskInterface._global_mapping.pop("leaking")
    found = json.loads(out)
    assert code == 3
    assert [check["passed"] for check in found["checks"]] == [False]
    assert found["checks"][0]["value"] > 0


def test_figures_of_a_part_are_not_published(call, arguments, tmp_path):
    path = tmp_path / "figures.jsonl"
    _, _, err = call(*arguments, "--figures", str(path))
    assert "published: nothing" in err
    assert path.read_text() == ""


def _book(arguments) -> str:
    from pathlib import Path

    path = Path(arguments[3]) / "text" / "books.test.jsonl"
    return json.loads(path.read_text().splitlines()[0])["text"]
