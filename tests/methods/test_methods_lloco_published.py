"""Published layouts, written here with peft and transformers, against the authors' loop in plain transformers calls."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from preread.core.errors import FingerprintMismatch, IntegrityError, UnsupportedModel
from preread.methods.lloco import published
from preread.methods.lloco.compressor import Compressor
from preread.models.loading import load
from preread.nn.lora import Lora

N = 50
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class AutoCompressor(nn.Module):
    """The authors' model: a language model with summary tokens, compressing segment after segment."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head, self.config = model.model, model.lm_head, model.config
        self.embed_summary = nn.Embedding(N, model.config.hidden_size)

    def forward(self, segments):
        """[T] ids each -> [segments * N, D] summary vectors, accumulated."""
        soft = torch.zeros(0, self.config.hidden_size)
        for ids in segments:
            embeds = torch.cat([soft, self.model.embed_tokens(ids), self.embed_summary.weight])[None]
            states = self.model(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2])).last_hidden_state
            soft = torch.cat([soft, states[0, -N:]])
        return soft


@pytest.fixture
def segments():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 390, (length,), generator=generator) for length in (60, 7, 33, 1)]


@pytest.fixture
def merged(tiny_decoder, tmp_path):
    """Layout (a): all weights, with the summary tokens among them."""
    decoder = tiny_decoder("llama", seed=4)
    model = AutoCompressor(decoder.model)
    folder = tmp_path / "merged"
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "embed_summary.weight": model.embed_summary.weight.data},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    theirs = {"architectures": ["LlamaAutoCompressorModel"], "summary_length": N, "accumulate_summary": True}
    (folder / "config.json").write_text(json.dumps(config | theirs))
    return folder, model.eval()


def peft_model(model, rank, beside=None):
    """A PEFT model whose adapter does something."""
    torch.manual_seed(6)
    config = PeftConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, lora_dropout=0.05, modules_to_save=beside)
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name or "embed_summary.modules_to_save" in name:
            nn.init.normal_(parameter, std=0.1)
    return wrapped.eval()


@pytest.fixture
def adapted(tiny_decoder, tmp_path):
    """Layout (b): a PEFT adapter of rank 16 with the summary tokens saved beside it."""
    wrapped = peft_model(AutoCompressor(tiny_decoder("llama", seed=4).model), 16, ["embed_summary"])
    wrapped.save_pretrained(tmp_path / "adapted")
    return tmp_path / "adapted", wrapped.base_model.model


def ours(compressor, segments):
    compressor.attach()
    try:
        with torch.no_grad():
            (made,) = compressor.recursive([segments], ratio=30.0)
    finally:
        compressor.detach()
    assert [len(summary) for summary in made] == [N] * len(segments)
    return torch.cat(made)


def test_a_merged_model_gives_its_authors_summaries(merged, segments):
    folder, model = merged
    compressor = published.read(folder, load(str(folder), device="cpu", dtype="float32"))
    with torch.no_grad():
        theirs = model(segments)
    assert (ours(compressor, segments) - theirs).abs().max() < 1e-5
    assert not list(compressor.lora.parameters())


def test_an_adapter_gives_its_authors_summaries(adapted, segments, tiny_decoder):
    folder, model = adapted
    decoder = tiny_decoder("llama", seed=4)
    compressor = published.read(folder, decoder)
    with torch.no_grad():
        theirs = model(segments)
        bare = Compressor(decoder, compressor.config)
        bare.summary_tokens.data.copy_(compressor.summary_tokens)
    assert (ours(compressor, segments) - theirs).abs().max() < 1e-5
    assert (ours(bare, segments) - theirs).abs().max() > 1e-2, "the adapter takes part"


def test_a_batch_of_ragged_documents_is_each_alone(merged, segments):
    folder, model = merged
    compressor = published.read(folder, load(str(folder), device="cpu", dtype="float32"))
    rows = [segments, segments[1:3], segments[:1]]
    compressor.attach()
    with torch.no_grad():
        together = compressor.recursive(rows, 30.0)
        for row, made in zip(rows, together, strict=True):
            assert (torch.cat(made) - model(row)).abs().max() < 1e-5


@pytest.mark.parametrize("layout", ["merged", "adapted"])
def test_in_our_layout_it_is_the_same_compressor(request, layout, segments, tiny_decoder, tmp_path):
    folder, _ = request.getfixturevalue(layout)
    decoder = tiny_decoder("llama", seed=4)
    compressor = published.read(folder, decoder)
    compressor.save(tmp_path / "ours", {"source": layout})
    again = Compressor.load(tmp_path / "ours", tiny_decoder("llama", seed=4)).eval()
    assert again.hash == compressor.hash
    assert torch.equal(ours(again, segments), ours(compressor, segments))


def test_a_lloco_adapter_reads_the_merged_models_summaries(merged, segments, tmp_path):
    """Plain PEFT over the merged model: the logits of the authors' stack, summaries then question."""
    folder, model = merged
    decoder = load(str(folder), device="cpu", dtype="float32")
    soft = ours(published.read(folder, decoder), segments)
    wrapped = peft_model(model, 8)
    wrapped.save_pretrained(tmp_path / "lloco")
    question = decoder.tokens("Who kept the lighthouse?")
    embeds = torch.cat([soft, decoder.embed(question)])[None]
    lora = Lora.load(tmp_path / "lloco", decoder.projections)
    with torch.no_grad():
        theirs = model.lm_head(model.model(inputs_embeds=embeds).last_hidden_state)
        decoder.adapters.add("lloco", lora)
        with decoder.adapters.use("lloco"):
            logits = decoder.logits(decoder.hidden(embeds))
        bare = decoder.logits(decoder.hidden(embeds))
    assert (logits - theirs).abs().max() < 1e-4
    assert (bare - theirs).abs().max() > 1e-2
    assert (lora.config.rank, lora.config.alpha) == (8, 16)


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_are_converted_by_request(merged, segments, tiny_decoder, tmp_path, shards):
    folder, model = merged
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {f"pytorch_model-{i + 1:05}-of-{shards:05}.bin": names[i::shards] for i in range(shards)}
    if shards == 1:
        parts = {"pytorch_model.bin": names}
    else:
        index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for part, held in parts.items():
        torch.save({name: weights[name] for name in held}, folder / part)
    with pytest.raises(UnsupportedModel, match="pickle"):
        load(str(folder))
    with pytest.raises(IntegrityError, match="unpickle"):
        published.read(folder, tiny_decoder("llama", seed=4))
    published.unpickle(folder, tmp_path / "safe")
    decoder = load(str(tmp_path / "safe"), device="cpu", dtype="float32")
    with torch.no_grad():
        assert (ours(published.read(tmp_path / "safe", decoder), segments) - model(segments)).abs().max() < 1e-5


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_a_pickle_that_is_more_than_tensors_is_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "adapter_model.bin").write_bytes(pickle.dumps({"x": Bomb()}))
    with pytest.raises(IntegrityError, match=r"adapter_model\.bin"):
        published.unpickle(tmp_path / "in", tmp_path / "out")
    assert "boom" not in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_another_decoder_is_refused(merged, adapted, tiny_decoder):
    with pytest.raises(FingerprintMismatch, match="another model"):
        published.read(merged[0], tiny_decoder("llama", seed=5))
    with pytest.raises(IntegrityError):
        published.read(adapted[0], tiny_decoder("qwen2"))


def test_what_is_no_autocompressor_is_refused(merged, tiny_decoder):
    folder, _ = merged
    weights = load_file(folder / "model.safetensors")
    weights.pop("embed_summary.weight")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"no embed_summary\.weight"):
        published.read(folder, tiny_decoder("llama", seed=4))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"accumulate_summary": False}))
    with pytest.raises(UnsupportedModel, match="accumulate_summary"):
        published.read(folder, tiny_decoder("llama", seed=4))
