#!/usr/bin/env python3
"""Two builds of lacuna-kernels' example `bursts` in turns of some ten milliseconds: ratios of their times.

    git worktree add ../before COMMIT
    cargo build --release -p lacuna-kernels --example bursts     # here and there
    python scripts/peers/bursts.py target/release/examples/bursts ../before/target/release/examples/bursts q4_1 4

A machine that others share is slow for seconds at a time; neighbouring bursts are slow together, so the ratio of a
pair holds. Each process has its own luck with where its memory lies, worth some percent: --starts begins both anew so
often and pools the pairs. Below 1 the first build is faster."""
import argparse
import statistics
import subprocess


class Build:
    """One build that waits for its turn."""

    def __init__(self, program: str, workload: list):
        self.process = subprocess.Popen([program, *workload], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def burst(self) -> int:
        print(file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def pairs(args) -> list:
    builds = [Build(program, args.workload) for program in (args.first, args.second)]
    for build in builds:
        build.burst()
    times = []
    for turn in range(args.pairs):
        order = builds if turn % 2 else builds[::-1]
        times.append({build: build.burst() for build in order})
    for build in builds:
        build.end()
    return [(time[builds[0]], time[builds[1]]) for time in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("workload", nargs="+", help="FORMAT ROWS [HIDDEN [LAYERS]]")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--starts", type=int, default=3)
    args = parser.parse_args()
    times = [pair for _ in range(args.starts) for pair in pairs(args)]
    ratios = sorted(first / second for first, second in times)
    low, middle, high = statistics.quantiles(ratios, n=4)
    best = [min(side) / 1e6 for side in zip(*times)]
    print(f"{' '.join(args.workload)}: {middle:.3f} ({low:.3f} to {high:.3f}), best {best[0]:.2f} and {best[1]:.2f} ms")


main()
