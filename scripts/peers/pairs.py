#!/usr/bin/env python3
"""Theirs and ours in turn, several times, on this machine: medians and ratios as JSON and Markdown.

    python scripts/peers/pairs.py --pairs 5 --gguf F32.gguf Q8_0.gguf Q4_1.gguf --model DIR --out FOLDER

runs PyTorch, transformers and llama.cpp (scripts beside this one) against the program that `cargo xtask bench` builds.
A part without its files is left out: training needs none, --gguf times passes against llama.cpp, --model (a directory
in Hugging Face layout) the whole decode against the released decoder's algorithm. The ratio of a line is the median
over pairs of theirs by ours, in time: above 1 ours is faster."""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNITS = {"s": 1e3, "ms": 1.0, "µs": 1e-3}
PASSES = (1, 4, 8)


def theirs(script: str, *args) -> dict:
    command = [sys.executable, "-W", "ignore", str(HERE / script), *map(str, args)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def ours(args, benchmark: str, model=None, seconds: float = 2.0) -> dict:
    """Milliseconds and peak memory of each benchmark whose name holds `benchmark`."""
    command = [args.bench, benchmark, "--seconds", str(seconds)] + (["--model", str(model)] if model else [])
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = re.compile(r"^((?:train|decode)/\S+)\s+([\d.]+) (s|ms|µs)\s.*?([\d.]+) MiB\s+\d+\s*$", re.M)
    found = line.findall(text)
    if not found:
        raise SystemExit(f"{' '.join(command)} printed no benchmark of that name:\n{text}")
    return {name: {"ms": float(time) * UNITS[unit], "mib": float(memory)} for name, time, unit, memory in found}


class Table:
    """What was measured, by the name of the line."""

    def __init__(self):
        self.lines = {}

    def add(self, name: str, theirs_ms: float, ours_ms: float, **more) -> None:
        line = self.lines.setdefault(name, {"theirs_ms": [], "ours_ms": []})
        for key, value in {"theirs_ms": theirs_ms, "ours_ms": ours_ms, **more}.items():
            line.setdefault(key, []).append(value)

    def summary(self) -> list:
        rows = []
        for name, line in self.lines.items():
            ratios = [a / b for a, b in zip(line["theirs_ms"], line["ours_ms"])]
            medians = {key: statistics.median(values) for key, values in line.items()}
            rows.append({"name": name, "pairs": len(ratios), "ratio": statistics.median(ratios), **medians})
        return rows

    def markdown(self) -> str:
        page = "| what | theirs, ms | ours, ms | theirs by ours | theirs, MiB | ours, MiB | pairs |\n"
        page += "|---|---:|---:|---:|---:|---:|---:|\n"
        for row in self.summary():
            memory = [f"{row[key]:.0f}" if key in row else "" for key in ("theirs_mib", "ours_mib")]
            cells = [row["name"], f"{row['theirs_ms']:.1f}", f"{row['ours_ms']:.1f}", f"{row['ratio']:.2f}×", *memory]
            page += f"| {' | '.join(cells)} | {row['pairs']} |\n"
        return page


def training(args, table: Table) -> None:
    for name in ("sdpa", "llama"):
        peer = theirs("train_step.py", "--only", name, "--threads", args.threads, "--steps", args.steps)
        benchmark = "train/block-diffusion/14M"
        own = ours(args, benchmark, seconds=args.train_seconds)[benchmark]
        label = {"sdpa": "training step, PyTorch SDPA", "llama": "training step, transformers' Llama"}[name]
        memory = {"theirs_mib": peer["peak_memory_bytes"] / 2**20, "ours_mib": own["mib"]}
        table.add(label, 1e3 * peer[name]["seconds"]["median"], own["ms"], **memory)


def passes(args, table: Table, file: str) -> None:
    peer = theirs("decode.py", "--gguf", file, "--threads", args.threads, "--passes-only")["llama_cpp"]
    own = ours(args, "decode/pass", file)
    for tokens in PASSES:
        ms = own[f"decode/pass-{tokens}"]["ms"]
        label = f"pass of {tokens}, llama.cpp, {Path(file).name}"
        table.add(label, peer[f"pass_{tokens}"]["median_ms"], ms)
        table.add(f"{label}, its last row only", peer[f"pass_{tokens}_last_row"]["median_ms"], ms)


def whole_decode(args, table: Table) -> None:
    peer = theirs("released_decode.py", "--model", args.model, "--threads", args.threads, "--runs", 1)
    for file in [args.model] + ([args.packed] if args.packed else []):
        own = ours(args, "decode/block-diffusion", file)["decode/block-diffusion"]
        label = "64 tokens, B = 4, the released decoder's algorithm"
        label += ", ours on the packed file" if file == args.packed else ""
        table.add(label, 1e3 * peer["seconds"]["median"], own["ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="target/release/bench", help="the program that `cargo xtask bench` builds")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="training steps of theirs in a pair")
    parser.add_argument("--train-seconds", type=float, default=8.0, help="time for ours in a training pair")
    parser.add_argument("--gguf", nargs="*", default=[], help="GGUF files for passes against llama.cpp")
    parser.add_argument("--model", help="directory in Hugging Face layout for the whole decode")
    parser.add_argument("--packed", help="the GGUF file that --model was unpacked from: the same weights")
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--out", help="folder for pairs.json and pairs.md; else both are printed")
    args = parser.parse_args()
    if not Path(args.bench).is_file():
        parser.error(f"{args.bench} is not there: `cargo xtask bench --list` builds it")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(args.threads))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    table = Table()
    for pair in range(args.pairs):
        print(f"pair {pair + 1} of {args.pairs}", file=sys.stderr)
        if not args.no_train:
            training(args, table)
        for file in args.gguf:
            passes(args, table, file)
        if args.model:
            whole_decode(args, table)
    report = {"threads": args.threads, "rows": table.summary(), "measured": table.lines}
    if not args.out:
        print(f"{table.markdown()}\n{json.dumps(report)}")
        return
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "pairs.md").write_text(table.markdown())
    print(table.markdown())


if __name__ == "__main__":
    main()
