#!/usr/bin/env python3
"""Writes a model of Seed-Coder-8B's shape with random weights in bf16: what it answers is nonsense, the time it takes is not.

    random_8b.py FOLDER TOKENIZER [LAYERS]

TOKENIZER is Stable-DiffCoder's tokenizer.json, which may be packed by xz. Needs PyTorch with CUDA, and safetensors.
"""
import json
import lzma
import pathlib
import sys

import torch
from safetensors.torch import save_file

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCAB, SHARDS = 4096, 14336, 32, 8, 128, 155136, 4


def main():
    folder, tokenizer = map(pathlib.Path, sys.argv[1:3])
    layers = int(sys.argv[3]) if len(sys.argv) > 3 else 32
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(
        architectures=["StableDiffcoderForCausalLM"], model_type="llama", torch_dtype="bfloat16", block_size=4,
        mask_token_id=5, bos_token_id=0, eos_token_id=1, pad_token_id=1, vocab_size=VOCAB, hidden_size=HIDDEN,
        intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        head_dim=HEAD, hidden_act="silu", attention_bias=False, mlp_bias=False, rms_norm_eps=1e-6, rope_theta=500000.0,
        rope_scaling=None, max_position_embeddings=32768, tie_word_embeddings=False)
    (folder / "config.json").write_text(json.dumps(config))
    text = tokenizer.read_bytes()
    (folder / "tokenizer.json").write_bytes(lzma.decompress(text) if tokenizer.suffix == ".xz" else text)

    torch.manual_seed(1)
    matrix = lambda rows, columns: (torch.randn(rows, columns, device="cuda") * 0.02).to(torch.bfloat16).cpu()
    ones = lambda: torch.ones(HIDDEN, dtype=torch.bfloat16)
    shards = [{} for _ in range(SHARDS)]
    shards[0]["model.embed_tokens.weight"] = matrix(VOCAB, HIDDEN)
    shards[-1]["lm_head.weight"] = matrix(VOCAB, HIDDEN)
    shards[-1]["model.norm.weight"] = ones()
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    for i in range(layers):
        shard, prefix = shards[i * SHARDS // layers], f"model.layers.{i}."
        for name, shape in shapes.items():
            shard[f"{prefix}{name}.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shard[f"{prefix}{name}.weight"] = ones()
    index = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index.update((name, file) for name in shard)
    total = sum(2 * tensor.numel() for shard in shards for tensor in shard.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps(dict(metadata=dict(total_size=total), weight_map=index)))
    print(f"{folder}: {total} bytes of weights")


main()
