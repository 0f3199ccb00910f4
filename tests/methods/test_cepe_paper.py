"""The method, from a checkpoint in CEPE's published layout, against the paper's equations in plain torch."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from preread.core.types import Passage, Sampling
from preread.engines.local import LocalEngine
from preread.methods.cepe import published
from preread.methods.cepe.method import Cepe
from preread.nn.reading import read

LENGTHS = (40, 1, 17, 32)


class Paper:
    """The paper's equations, one head at a time, in float64; section 3.1 and Llama's blocks."""

    def __init__(self, folder):
        files = [load_file(file) for file in folder.glob("*.safetensors")]
        files += [torch.load(file, weights_only=True) for file in folder.glob("*.bin")]
        self.tensors = {name: tensor.double() for file in files for name, tensor in file.items()}
        self.decoder = json.loads((folder / "config.json").read_text())
        self.encoder = self.decoder["encoder_config"]

    def encode(self, ids):
        """[T, S] of a chunk: blocks that see both ways, at positions 0 to T - 1."""
        x, config = self.tensors["encoder.embed_tokens.weight"][ids], self.encoder
        for layer in range(config["num_hidden_layers"]):
            at = f"encoder.layers.{layer}"
            x = x + self._self_attention(at, x, config, config["rope_theta"], causal=False)
            x = x + self._feed_forward(at, x, config)
        return self._norm("encoder.norm", x, config)

    def logits(self, ids, chunks):
        """[T, V] of a text beside chunks: in a layer first itself, then all chunks' states, then the feed-forward."""
        states = torch.cat([self.encode(chunk) for chunk in chunks]) if chunks else None
        x, config = self.tensors["model.embed_tokens.weight"][ids], self.decoder
        for layer in range(config["num_hidden_layers"]):
            at = f"model.layers.{layer}"
            x = x + self._self_attention(at, x, config, 1e4, causal=True)
            if states is not None and f"{at}.cross_attn.q_proj.weight" in self.tensors:
                x = x + self._cross_attention(f"{at}.cross_attn", x, states)
            x = x + self._feed_forward(at, x, config)
        return self._norm("model.norm", x, config) @ self.tensors["lm_head.weight"].T

    def _norm(self, name, x, config):
        return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * self.tensors[f"{name}.weight"]

    def _product(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T

    def _self_attention(self, at, x, config, base, causal):
        x = self._norm(f"{at}.input_layernorm", x, config)
        q, k, v = (self._product(f"{at}.self_attn.{name}_proj", x) for name in "qkv")
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        q, k = _turned(q, heads, base), _turned(k, kv_heads, base)
        seen = torch.ones(len(x), len(x), dtype=torch.bool)
        out = _attended(q, k, v, heads, kv_heads, seen.tril() if causal else seen)
        return self._product(f"{at}.self_attn.o_proj", out)

    def _cross_attention(self, at, x, states):
        q = self._product(f"{at}.q_proj", self._norm(f"{at}.layernorm", x, self.decoder))
        k, v = (self._product(f"{at}.{name}_proj", states) for name in "kv")
        seen = torch.ones(len(x), len(states), dtype=torch.bool)
        heads, kv_heads = self.decoder["num_attention_heads"], self.decoder["num_key_value_heads"]
        return self._product(f"{at}.o_proj", _attended(q, k, v, heads, kv_heads, seen))

    def _feed_forward(self, at, x, config):
        x = self._norm(f"{at}.post_attention_layernorm", x, config)
        gate = self._product(f"{at}.mlp.gate_proj", x)
        return self._product(f"{at}.mlp.down_proj", gate * gate.sigmoid() * self._product(f"{at}.mlp.up_proj", x))


def _turned(x, heads, base):
    """Components i and i + E / 2 of a head, as one complex number, turned by the position times base^(-2i / E)."""
    x = x.view(len(x), heads, 2, -1)
    half = x.shape[-1]
    angles = torch.arange(len(x))[:, None].double() * base ** (-torch.arange(half).double() / half)
    turned = torch.complex(x[:, :, 0], x[:, :, 1]) * torch.exp(1j * angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1).flatten(1)


def _attended(q, k, v, heads, kv_heads, seen):
    out, width = [], q.shape[1] // heads
    for head in range(heads):
        theirs = head * kv_heads // heads
        mine, keys, values = (t[:, n * width : (n + 1) * width] for t, n in ((q, head), (k, theirs), (v, theirs)))
        scores = (mine @ keys.T / math.sqrt(width)).masked_fill(~seen, -math.inf)
        out.append(scores.softmax(-1) @ values)
    return torch.cat(out, dim=1)


def _chunks():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(3, 390, (length,), generator=draw) for length in LENGTHS]


def _memories(handle, chunks):
    passages = [Passage("doc", n, tuple(ids.tolist()), n, n + 1, "?", "", 0) for n, ids in enumerate(chunks)]
    return list(handle.encode(passages))


@pytest.mark.parametrize("layout", ["safetensors", "pickles"])
@pytest.mark.parametrize(("kv_heads", "crossed"), [(4, 3), (2, 2)], ids=["7B's", "grouped"])
@torch.no_grad()
def test_the_method_computes_what_the_paper_says(tiny_llama_2, publish_cepe, tmp_path, layout, kv_heads, crossed):
    base, chunks = tiny_llama_2(kv_heads), _chunks()
    publish_cepe(base, tmp_path / "theirs", crossed, layout)
    paper = Paper(tmp_path / "theirs")
    found = published.convert(tmp_path / "theirs", tmp_path / "ours", base)
    assert (found.base, found.layers) == ("tiny-llama-2", crossed)
    parts = ["crossings.safetensors", "encoder.safetensors", "manifest.json"]
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == parts
    with Cepe(weights=tmp_path / "ours").attach(base) as handle:
        memories = _memories(handle, chunks)
        for memory, chunk in zip(memories, chunks, strict=True):
            _equal(memory.tensors["states"], paper.encode(chunk))
        for length in (2, 90):  # few queries and many: both ways of attending
            for some in (memories, memories[:2], []):
                prompt = handle.continuation(torch.arange(5, 5 + length), some)
                expected = paper.logits(prompt.ids, chunks[: len(some)])
                _equal(base.logits(read(base, prompt)), expected)
        backwards = handle.continuation(torch.arange(5, 50), memories[::-1])
        _equal(base.logits(read(base, backwards)), paper.logits(backwards.ids, chunks))


def _equal(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max(), (ours - theirs).abs().max()


@torch.no_grad()
def test_answers_are_those_of_the_equations(tiny_llama_2, publish_cepe, tmp_path):
    base = tiny_llama_2()
    publish_cepe(base, tmp_path / "theirs")
    paper = Paper(tmp_path / "theirs")
    published.convert(tmp_path / "theirs", tmp_path / "ours", base)
    with Cepe(weights=tmp_path / "ours").attach(base) as handle:
        rows = [_chunks(), _chunks()[:1], _chunks()[2:]]
        prompts = [handle.prompt("Who?", _memories(handle, chunks)) for chunks in rows]
        written = [event.text for event in LocalEngine(base).complete(prompts, Sampling(max_tokens=24))]
    expected = [_written(paper, base, prompt.ids, chunks) for prompt, chunks in zip(prompts, rows, strict=True)]
    assert written == expected
    assert len(set(written)) == len(rows), "what was read makes the answer"


def _written(paper, base, ids, chunks):
    """24 tokens, each the likeliest, without the half of a character at the end, which no answer shows."""
    answer = []
    while len(answer) < 24 and not base.end_ids.intersection(answer):
        answer.append(int(paper.logits(torch.cat([ids, torch.tensor(answer, dtype=torch.int64)]), chunks)[-1].argmax()))
    return base.tokenizer.decode(answer, skip_special_tokens=True).rstrip("\ufffd")
