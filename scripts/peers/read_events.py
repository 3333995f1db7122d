#!/usr/bin/env python3
"""Reads the TensorBoard files of a run with the real `tensorboard` package, and compares them with metrics.jsonl.

    python3 -m venv events && events/bin/pip install tensorboard==2.20.0
    lacuna train recipes/smoke.toml --tensorboard --out run
    events/bin/python scripts/peers/read_events.py run

Every number of every step must be there once, in f32, at its step; what a process wrote of steps that another took again
must be gone.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NAMES = {
    "train/loss_weighted": lambda m: m["loss"],
    "train/loss": lambda m: m["loss_unweighted"] if m["supervised"] else None,
    "train/grad_norm": lambda m: m["grad_norm"],
    "train/learning_rate": lambda m: m["lr"],
    "train/mask_rate": lambda m: m["mask_rate"],
    "train/autoregressive_loss": lambda m: m.get("autoregressive_loss"),
    "speed/tokens_per_second": lambda m: m["tokens_per_second"],
    "speed/share_of_peak": lambda m: m.get("machine", {}).get("share_of_peak"),
    "speed/memory_bytes": lambda m: m.get("machine", {}).get("memory_bytes"),
    "data/tokens": lambda m: m["tokens"],
    "data/epoch": lambda m: m.get("epoch"),
}
SCORES = {
    "autoregressive": "held_out/autoregressive_NLL",
    "exact-nelbo": "held_out/exact_block_NELBO",
    "left-to-right": "held_out/left-to-right_NLL",
    "monte-carlo-nelbo": "held_out/Monte-Carlo_NELBO",
}


def as_f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def expected(run):
    """The numbers of metrics.jsonl, by tag: [(step, value)]."""
    series = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        m = json.loads(line)
        if "loss" in m:
            for tag, of in NAMES.items():
                value = of(m)
                if value is not None:
                    series.setdefault(tag, []).append((m["step"], as_f32(float(value))))
        else:
            for name, nats in m["nats_per_token"].items():
                if name in SCORES:
                    series.setdefault(SCORES[name], []).append((m["step"], as_f32(nats)))
    return series


def main():
    run = Path(sys.argv[1])
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    series = expected(run)
    found = set(events.Tags()["scalars"])
    for tag, points in sorted(series.items()):
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        # A score that was written and lost with a kill is written again.
        if read != points:
            sys.exit(f"{tag}: {read[:5]}… is not {points[:5]}… ({len(read)} and {len(points)})")
        print(f"{tag:32} {len(points):6} numbers, all equal")
    extra = found - set(series) - {"train/mean_weight", "train/skipped_steps"}
    if extra:
        sys.exit(f"tags that no line of metrics.jsonl has: {sorted(extra)}")
    print("tensorboard reads what the run wrote")


if __name__ == "__main__":
    main()
