"""Checkpoints in the layout that CEPE's authors publish, small and random."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from preread.models.fingerprint import fingerprint
from preread.nn.hf import Decoder

LAYERS, WIDTH, HEADS, EPS = 3, 48, 4, 1e-2
ENCODER = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "rms_norm_eps": 1e-3,
    "rope_theta": 100.0,
    "hidden_act": "silu",
    "rope_scaling": None,
    "is_decoder": False,
}


def _decoder(tokenizer, kv_heads, seed=1):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        rms_norm_eps=EPS,
        initializer_range=0.1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            wide = parameter + 0.2 * torch.randn_like(parameter) if parameter.ndim == 1 else parameter
            parameter.data.copy_(wide.bfloat16())
    return Decoder(model, tokenizer, "tiny-llama-2", fingerprint(model, tokenizer))


@pytest.fixture(scope="session")
def tiny_llama_2(tiny_tokenizer):
    """`tiny_llama_2(kv_heads, seed)` makes a fresh decoder of Llama 2's kind, its numbers as bfloat16 has them."""
    return lambda kv_heads=HEADS, seed=1: _decoder(tiny_tokenizer, kv_heads, seed)


@pytest.fixture(scope="session")
def publish_cepe():
    """`publish_cepe(decoder, folder, crossed, layout)` writes a random checkpoint as CEPE's authors do."""
    return _published


def _random(decoder, crossed):
    """Tensors as the authors' class names them: the frozen decoder, cross-attention in its last layers, an encoder."""
    kv = decoder.kv_shape[1] * decoder.kv_shape[2]
    d, s, inner, rows = WIDTH, ENCODER["hidden_size"], ENCODER["intermediate_size"], ENCODER["vocab_size"]
    shapes = {"encoder.embed_tokens": (rows, s), "encoder.norm": (s,)}
    for layer in range(ENCODER["num_hidden_layers"]):
        at = f"encoder.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj": (s, s) for name in "qkvo"}
        shapes |= {
            f"{at}.mlp.gate_proj": (inner, s),
            f"{at}.mlp.up_proj": (inner, s),
            f"{at}.mlp.down_proj": (s, inner),
        }
        shapes |= {f"{at}.input_layernorm": (s,), f"{at}.post_attention_layernorm": (s,)}
    for layer in range(LAYERS - crossed, LAYERS):
        at = f"model.layers.{layer}.cross_attn"
        shapes |= {f"{at}.q_proj": (d, d), f"{at}.k_proj": (kv, s), f"{at}.v_proj": (kv, s), f"{at}.o_proj": (d, d)}
        shapes |= {f"{at}.layernorm": (d,)}
    draw = torch.Generator().manual_seed(4)
    added = {
        f"{name}.weight": torch.randn(shape, generator=draw) * shape[-1] ** -0.5 + (len(shape) == 1)
        for name, shape in shapes.items()
    }
    held = {name: weight.detach() for name, weight in decoder.model.named_parameters()}
    return {name: tensor.bfloat16() for name, tensor in {**held, **added}.items()}


def _published(decoder, folder, crossed=LAYERS, layout="safetensors"):
    """In files of `layout`, safetensors or pickles; `crossed` of the last layers have cross-attention."""
    folder.mkdir(exist_ok=True)
    tensors = _random(decoder, crossed)
    if layout == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    else:
        names = sorted(tensors)
        for number in (1, 2):  # of two files
            part = {name: tensors[name].clone() for name in names[number - 1 :: 2]}
            if number == 1:  # as older versions of the library kept it
                part["encoder.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
            torch.save(part, folder / f"pytorch_model-0000{number}-of-00002.bin")
    said = {
        **decoder.model.config.to_dict(),
        "architectures": ["LlamaForCausalContextLM"],
        "do_cross_attention": True,
        "num_cross_attn_layers": crossed,
        "num_cross_attn_hidden_states": 1,
        "encoder_is_model": False,
        "encoder_config": ENCODER,
    }
    (folder / "config.json").write_text(json.dumps(said))
