#!/usr/bin/env python3
"""Logits of a directory that lacuna wrote, by lacuna and by transformers: causal, full and block-causal.

    python scripts/peers/compare_transformers.py --lacuna target/release/lacuna DIR...

Prints a line for each directory and mask: the largest difference relative to the largest logit, and how many rows
have the same best token. Exits with 1 where a difference is above --tolerance. transformers computes in f32 from the
values as they are stored, so bf16 and f16 files differ no more than f32 files do; what both did with the weights'
bits is then equal too."""
import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

MASKS = {"causal": None, "full": None, "block-causal": 4}


def visible(mask: str, length: int) -> torch.Tensor:
    """[1, 1, L, L]: 0 where a query may see a key, the least number where it may not."""
    position = torch.arange(length)
    block = {"causal": position, "full": position * 0, "block-causal": position // 4}[mask]
    hidden = block[None, :] > block[:, None]
    return torch.zeros(length, length).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]


def ours(lacuna: str, model: str, ids: list, mask: str) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/logits.safetensors"
        command = [lacuna, "logits", "--model", model, "--ids", ",".join(map(str, ids)), "--mask", mask]
        subprocess.run([*command, "--block-size", "4", "--out", out], check=True)
        return load_file(out)["logits"].reshape(len(ids), -1)


def tokenizer_note(directory: str) -> str:
    if not (Path(directory) / "tokenizer.json").is_file():
        return "no tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "def f(x):\n    return x + 12345  # naïve café\n"
    back = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    return "tokenizer loads, text comes back" if back == text else f"tokenizer loads, text comes back as {back!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("--lacuna", default="target/release/lacuna")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    worst = 0.0
    for directory in args.directories:
        vocab_size = AutoConfig.from_pretrained(directory).vocab_size
        ids = [random.Random(1).randrange(vocab_size)] + random.Random(2).choices(range(vocab_size), k=args.tokens - 1)
        model, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
        bad = {key: names for key, names in loading.items() if names}
        print(f"{directory}: {tokenizer_note(directory)}{f'; {bad}' if bad else ''}")
        for mask in MASKS:
            with torch.inference_mode():
                theirs = model(torch.tensor([ids]), attention_mask=visible(mask, len(ids))).logits[0]
            own = ours(args.lacuna, directory, ids, mask)
            relative = float((own - theirs).abs().max() / theirs.abs().max())
            same = int((own.argmax(-1) == theirs.argmax(-1)).sum())
            print(f"  {mask:12} {relative:.1e} relative, {same} of {len(ids)} best tokens the same")
            worst = max(worst, relative)
    sys.exit(worst > args.tolerance)


if __name__ == "__main__":
    main()
