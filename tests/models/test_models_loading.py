"""`load` from folders, the hub and the package index: what comes out, and each way it can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file

from preread.core.errors import IntegrityError, ResourceError, UnknownModel, UnsupportedModel, UsageError
from preread.models import loading, packaged
from preread.models.loading import load


@pytest.fixture(scope="module")
def saved(tiny_decoder, tmp_path_factory) -> Path:
    """A tiny decoder as save_pretrained leaves it."""
    folder = tmp_path_factory.mktemp("saved")
    decoder = tiny_decoder()
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_folder_loads_frozen_and_gives_the_same_numbers(tiny_decoder, saved):
    original, decoder = tiny_decoder(), load(str(saved), device="cpu", dtype="float32")
    assert decoder.fingerprint == original.fingerprint
    ids = original.tokens("Who kept the lighthouse?")[None]
    assert torch.equal(decoder.model(ids).logits, original.model(ids).logits)
    assert not decoder.model.training
    assert not any(weight.requires_grad for weight in decoder.model.parameters())


def test_bfloat16_is_the_default_and_another_fingerprint(tiny_decoder, saved):
    decoder = load(str(saved))
    assert decoder.dtype == torch.bfloat16
    assert decoder.fingerprint != tiny_decoder().fingerprint


@pytest.mark.parametrize("asked", [{"dtype": "int3"}, {"device": "toaster"}, {"revision": "main"}])
def test_what_a_folder_cannot_give_is_a_usage_error(saved, asked):
    with pytest.raises(UsageError, match=next(iter(asked.values()))):
        load(str(saved), **asked)


def test_no_folder_and_a_file_instead_of_a_folder(tmp_path):
    with pytest.raises(UnknownModel, match="nothing there"):
        load(str(tmp_path / "none"))
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(UnknownModel, match="another file"):
        load(str(tmp_path / "weights.onnx"))


def test_a_folder_without_config(copy):
    (copy / "config.json").unlink()
    with pytest.raises(UnknownModel, match=r"config\.json"):
        load(str(copy))


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match="got none"):
        load(str(copy))


def test_pickled_weights_are_not_even_opened(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"only pytorch_model\.bin, a pickle"):
        load(str(copy))


def test_a_folder_without_tokenizer(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UnsupportedModel):
        load(str(copy))


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_weights(copy, size):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(IntegrityError, match="weights"):
        load(str(copy))


def test_no_weight_is_ever_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.layers.1.self_attn.k_proj.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"1 missing, such as model\.layers\.1\.self_attn\.k_proj\.weight"):
        load(str(copy))


def test_weights_of_another_shape(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 80}))
    with pytest.raises(IntegrityError):
        load(str(copy))


def test_remote_code_is_refused_and_not_run(copy):
    config = json.loads((copy / "config.json").read_text())
    remote = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "homemade", "auto_map": remote}))
    (copy / "code.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\n")
    with pytest.raises(UnsupportedModel, match="remote code is never run"):
        load(str(copy))
    assert not (copy / "ran").exists()


@pytest.mark.parametrize("model_type", ["homemade", "t5"])
def test_what_is_no_known_decoder_is_refused(copy, model_type):
    (copy / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UnsupportedModel, match="decoder that transformers reads"):
        load(str(copy))


# The hub, with its one call replaced.


def hub(monkeypatch, tmp_path, answer):
    """Let the hub's one call give `answer`, or raise it; returns what it was asked."""
    asked = []

    def snapshot_download(dry_run=False, **wanted):
        asked.append(wanted)
        if isinstance(answer, Exception):
            raise answer
        return [] if dry_run else str(answer)

    monkeypatch.setattr(loading, "snapshot_download", snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    return asked


@pytest.mark.parametrize("asked_as", [("owner/model", "v1"), ("owner/model@v1", None)])
def test_a_hub_decoder_carries_its_commit(monkeypatch, tmp_path, saved, asked_as):
    snapshot = Path(shutil.copytree(saved, tmp_path / "0123abcd"))
    asked = hub(monkeypatch, tmp_path, snapshot)
    name, revision = asked_as
    decoder = load(name, revision=revision)
    assert (decoder.name, decoder.revision) == (name, "0123abcd")
    assert decoder.fingerprint == load(str(saved)).fingerprint
    assert {wanted["revision"] for wanted in asked} == {"v1"}
    assert not any("bin" in pattern for wanted in asked for pattern in wanted["allow_patterns"])


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (LocalEntryNotFoundError("Name or service not known"), UnknownModel, "Name or service not known"),
        (OfflineModeIsEnabled("offline"), UnknownModel, "HF_HUB_OFFLINE"),
        (OSError(28, "No space left on device"), ResourceError, "a full disk"),
    ],
)
def test_what_the_hub_may_answer(monkeypatch, tmp_path, answer, error, says):
    hub(monkeypatch, tmp_path, answer)
    with pytest.raises(error, match=says):
        load("owner/model")


def test_a_name_that_can_be_no_repository():
    with pytest.raises(UnknownModel, match="no such repository"):
        load("one/two/three")


def test_a_repository_larger_than_the_disk_is_not_begun(monkeypatch, tmp_path):
    class File:
        file_size, will_download = 10**18, True

    def snapshot_download(dry_run=False, **wanted):
        assert dry_run, "the download began"
        return [File()]

    hub(monkeypatch, tmp_path, None)
    monkeypatch.setattr(loading, "snapshot_download", snapshot_download)
    with pytest.raises(ResourceError, match="MB needed"):
        load("owner/model")


def test_offline_the_hub_is_asked_only_for_its_cache(monkeypatch, tmp_path, saved):
    def snapshot_download(dry_run=False, **wanted):
        assert not dry_run, "a dry run needs the network"
        return str(saved)

    hub(monkeypatch, tmp_path, None)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    monkeypatch.setattr(loading, "snapshot_download", snapshot_download)
    assert load("owner/model").name == "owner/model"


def test_a_packaged_decoder_has_no_revision():
    with pytest.raises(UsageError, match="revision 'main'"):
        load("default", revision="main")


@pytest.mark.parametrize("alias", sorted(packaged.PACKAGED))
def test_packaged_names_come_from_the_package(monkeypatch, saved, alias):
    monkeypatch.setattr(loading, "folder", lambda package: saved)
    decoder = load(alias)
    assert (decoder.name, decoder.note) == ("smollm2-135m-instruct", "weights de-quantised from Q4_1")
