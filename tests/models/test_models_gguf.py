"""GGUF files, written here with the `gguf` package: the same logits and tokens as the model they were made of."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from preread.core.errors import IntegrityError, UnsupportedModel, UsageError
from preread.models import gguf as reading
from preread.models.loading import load

Q = gguf.GGMLQuantizationType
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": lambda v: LlamaConfig(vocab_size=v, **SHAPE),
    "qwen2": lambda v: Qwen2Config(vocab_size=v, tie_word_embeddings=True, **SHAPE),
    "gemma2": lambda v: Gemma2Config(vocab_size=v, head_dim=32, sliding_window=16, **SHAPE),
}
TEXT = "Who kept the lighthouse?\n\n12 ships,  naïve 🗼 and the lamp burned 1,024 nights."


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PREREAD_HOME", str(tmp_path / "home"))


def source(family: str, tokenizer: PreTrainedTokenizerFast):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](len(tokenizer)), dtype=torch.float32)
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("bias"):  # nothing that is all ones or zeros hides a mistake
            weight.data += 0.1 * torch.randn_like(weight)
    return model.eval()


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as llama.cpp's rotary positions want them: neighbours turn together, not the two halves of a head."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def add_vocabulary(writer, tokenizer, pre):
    """A byte-level vocabulary with its merges."""
    backend = tokenizer.backend_tokenizer
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    merges = json.loads(backend.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def write(path: Path, family: str, model, tokenizer, precision=Q.F32, pre="gpt-2", skip="", extra=None) -> Path:
    """A GGUF file of a model, by the rules of the format."""
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if family == "gemma2":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)
    if hasattr(tokenizer, "backend_tokenizer"):
        add_vocabulary(writer, tokenizer, pre)
    else:
        tokenizer(writer)
    for key, value in (extra or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == skip or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        if family == "llama" and "q_proj" in name:
            weight = permuted(weight, config.num_attention_heads)
        if family == "llama" and "k_proj" in name:
            weight = permuted(weight, config.num_key_value_heads)
        if family == "gemma2" and "norm" in name:
            weight = weight + 1
        kind = precision if weight.dim() == 2 else Q.F32
        data = gguf.quants.quantize(weight.numpy().astype(np.float32), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_file_gives_the_logits_and_tokens_of_its_source(tiny_tokenizer, tmp_path, family):
    model = source(family, tiny_tokenizer)
    file = write(tmp_path / "model.gguf", family, model, tiny_tokenizer)
    if family == "gemma2":  # no file of that family has a byte-level vocabulary; its own kind is tested below
        tiny_tokenizer.save_pretrained(tmp_path)
    decoder = load(str(file), device="cpu", dtype="float32")
    ids = tiny_tokenizer(TEXT, return_tensors="pt").input_ids
    assert decoder.tokens(TEXT).tolist() == ids[0].tolist()
    assert decoder.tokenizer.chat_template == tiny_tokenizer.chat_template
    assert decoder.end_ids == {2}
    torch.testing.assert_close(decoder.model(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    assert decoder.note == ""


@pytest.mark.parametrize(("precision", "bits"), [(Q.F16, 11), (Q.Q8_0, 7), (Q.Q4_1, 3)])
def test_quantised_weights_are_the_source_within_quantisation(tiny_tokenizer, tmp_path, precision, bits):
    model = source("llama", tiny_tokenizer)
    decoder = load(str(write(tmp_path / "model.gguf", "llama", model, tiny_tokenizer, precision)), dtype="float32")
    theirs = model.state_dict()
    for name, weight in decoder.model.state_dict().items():
        step = theirs[name].abs().max() * 2.0**-bits + theirs[name].abs().max() * 2.0**-8  # and bfloat16's rounding
        assert (weight - theirs[name]).abs().max() <= step, name
    assert decoder.note == ("" if precision == Q.F16 else f"weights de-quantised from {precision.name}")


def test_a_file_is_converted_once_and_its_folder_means_it(tiny_tokenizer, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    file = write(tmp_path / "models" / "model.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer, Q.Q8_0)
    first = load(str(file))

    def again(*_):
        raise AssertionError("converted a second time")

    monkeypatch.setattr(reading, "convert", again)
    file.rename(file.with_name("other-name.gguf"))
    second = load(str(file.parent))
    assert second.fingerprint == first.fingerprint
    assert second.note == first.note == "weights de-quantised from Q8_0"


def test_two_files_in_a_folder_are_a_question(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"a\.gguf, b\.gguf"):
        load(str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_and_leaves_nothing(tiny_tokenizer, tmp_path, share):
    file = write(tmp_path / "model.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(IntegrityError, match="whole GGUF file"):
        load(str(file))
    assert [left.suffix for left in (tmp_path / "home" / "cache" / "models").iterdir()] == [".lock"]


def test_no_weight_is_ever_made_up(tiny_tokenizer, tmp_path):
    lost = "model.layers.1.self_attn.k_proj.weight"
    file = write(tmp_path / "model.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer, skip=lost)
    with pytest.raises(IntegrityError, match=r"1 of its weights, such as model\.layers\.1\.self_attn\.k_proj"):
        load(str(file))


def test_an_architecture_that_is_not_read(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "homemade")
    writer.add_tokenizer_model("llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match="homemade"):
        load(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("extra", "says"),
    [({"llama.rope.scaling.type": "yarn"}, "rope.scaling"), ({"split.count": 3}, "one of 3 parts")],
)
def test_what_would_be_read_as_something_else_is_refused(tiny_tokenizer, tmp_path, extra, says):
    file = write(tmp_path / "model.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer, extra=extra)
    with pytest.raises(UnsupportedModel, match=says):
        load(str(file))


@pytest.mark.parametrize("pre", ["homemade", ""])
def test_an_unknown_way_to_split_text_is_refused_unless_the_tokenizer_lies_beside(tiny_tokenizer, tmp_path, pre):
    file = write(tmp_path / "model.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer, pre=pre)
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.ggml\.pre"):
        load(str(file))
    tiny_tokenizer.save_pretrained(tmp_path)
    assert load(str(file)).tokens(TEXT).tolist() == tiny_tokenizer(TEXT).input_ids


SPLITS = {
    "gpt-2": ["It", "'s", " 1024", ",", " ok", "\n", "\n", "12"],
    "smollm": ["It", "'s", " ", "1", "0", "2", "4", ",", " ok", "\n\n", "1", "2"],
    "llama-bpe": ["It", "'s", " ", "102", "4", ",", " ok", "\n\n", "12"],
    "qwen2": ["It", "'s", " ", "1", "0", "2", "4", ",", " ok", "\n\n", "1", "2"],
    "tekken": ["It", "'s", " ", "1", "0", "2", "4", ",", " ok", "\n\n", "1", "2"],
    "gpt-4o": ["It's", " ", "102", "4", ",", " ok", "\n\n", "12"],
}


@pytest.mark.parametrize("pre", sorted(SPLITS))
def test_text_is_split_as_the_file_says(tiny_tokenizer, tmp_path, pre):
    """The pieces before any merge, by hand for each named way."""
    file = write(tmp_path / "model.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer, pre=pre)
    text = "It's 1024, ok\n\n12"
    cut = load(str(file)).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cut] == SPLITS[pre]


def test_a_whole_word_is_its_token_where_the_family_says_so(tiny_tokenizer, tmp_path):
    """Llama 3 has tokens that no merges lead to."""
    ids = {}
    for pre in ("gpt-2", "llama-bpe"):
        file = write(tmp_path / f"{pre}.gguf", "llama", source("llama", tiny_tokenizer), tiny_tokenizer, pre=pre)
        backend = load(str(file)).tokenizer.backend_tokenizer
        ids[pre] = backend.model.ignore_merges
    assert ids == {"gpt-2": False, "llama-bpe": True}


def test_a_sentencepiece_vocabulary_keeps_its_spaces_bytes_and_start(tmp_path):
    pieces = ["\u2581", "a", "b", "ab", "\u2581ab"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"](len(vocabulary)), dtype=torch.float32).eval()

    def add(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(vocabulary)
        writer.add_token_scores([0.0] * 259 + [-5.0, -4.0, -3.0, -2.0, -1.0])
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(pieces)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    decoder = load(str(write(tmp_path / "model.gguf", "llama", model, add)))
    assert decoder.start_ids.tolist() == [1]
    ids = decoder.tokens("ab ab7").tolist()
    assert [vocabulary[i] for i in ids] == ["\u2581ab", "\u2581ab", "<0x37>"]
    assert decoder.tokenizer.decode(ids) == "ab ab7"
