#!/usr/bin/env python3
"""Causal logits and token ids of GGUF files, by lacuna and by llama.cpp.

    python scripts/peers/compare_llama_cpp.py --lacuna target/release/lacuna FILE.gguf...

Prints a line for each file: the largest and the mean difference relative to the largest logit, how many rows have the
same best token, and whether both tokenize a text alike. llama.cpp keeps keys and values in f16 and rounds activations
to 8 bits (quantized files) or 16 (f16, bf16), which lacuna does not."""
import argparse
import json
import subprocess
import tempfile

import numpy as np
from llama_cpp_peer import Peer
from safetensors.numpy import load_file

TEXTS = (
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    'fn main() {\n\tlet naïve = "café 東京 12345";\n    println!("{naïve}  ☃\\n");\n}\n',
    "  x=1;\r\n\r\n   y  =  3.14159e-10 # it's we'll don't I'M\n\n\n",
)


def ours(lacuna: str, model: str, ids: list) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/logits.safetensors"
        command = [lacuna, "logits", "--model", model, "--ids", ",".join(map(str, ids)), "--mask", "causal"]
        subprocess.run([*command, "--out", out], check=True)
        return load_file(out)["logits"].reshape(len(ids), -1)


def prompt_tokens(lacuna: str, model: str, text: str) -> int:
    command = [lacuna, "generate", "--model", model, "--max-new-tokens", "1", "--json", text]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["prompt_tokens"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--lacuna", default="target/release/lacuna")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for file in args.files:
        peer = Peer(file, args.threads)
        ids = peer.tokenize("".join(TEXTS))
        peer.decode(ids, 0, all_rows=True)
        theirs = np.stack([peer.logits(row) for row in range(len(ids))])
        own = ours(args.lacuna, file, ids)
        difference, scale = np.abs(own - theirs), np.abs(theirs).max()
        same = int((own.argmax(-1) == theirs.argmax(-1)).sum())
        counts = [(len(peer.tokenize(text)), prompt_tokens(args.lacuna, file, text)) for text in TEXTS]
        tokens = "as many tokens" if all(a == b for a, b in counts) else f"token counts differ: {counts}"
        print(
            f"{file}: largest {difference.max() / scale:.1e}, mean {difference.mean() / scale:.1e} relative; "
            f"{same} of {len(ids)} best tokens the same; {tokens}"
        )


if __name__ == "__main__":
    main()
