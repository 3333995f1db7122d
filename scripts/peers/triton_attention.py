"""Triton's attention under block diffusion, compiled without a card: what its compiler makes of the mask that ours is written for.

A kernel of the same work as `attention_forward.cu`: out = softmax(scale · q kᵀ) v over the keys that each query's two ranges
hold, bf16, log Σ exp kept, tiles outside of the ranges' hulls skipped. Prints a line for each architecture and head size:
registers and spilled bytes of a thread as ptxas tells them, shared memory, and how many tensor-core instructions of which kind.

    pip install triton && python scripts/peers/triton_attention.py [PTXAS]      PTXAS: default the one that Triton brings
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def attention_forward(
    q, k, v, ranges, out, log_sums, scale_log2, q_len, kv_len, row, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr
):
    queries = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    d = tl.arange(0, D)
    there = queries < q_len
    q_tile = tl.load(q + head * D + queries[:, None] * row + d[None, :], mask=there[:, None], other=0.0)
    most = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    sums = tl.zeros([M, D], tl.float32)
    for part in tl.static_range(2):
        begin = tl.load(ranges + queries * 4 + 2 * part, mask=there, other=0)
        end = tl.load(ranges + queries * 4 + 2 * part + 1, mask=there, other=0)
        first = tl.min(tl.where(begin < end, begin, kv_len), 0) // N * N
        last = tl.max(tl.where(begin < end, end, 0), 0)
        for key in tl.range(first, last, N):
            keys = key + tl.arange(0, N)
            inside = (keys < kv_len)[:, None]
            at = head * D + keys[:, None] * row + d[None, :]
            scores = tl.dot(q_tile, tl.trans(tl.load(k + at, mask=inside, other=0.0))) * scale_log2
            seen = (keys[None, :] >= begin[:, None]) & (keys[None, :] < end[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            largest = tl.maximum(most, tl.max(scores, 1))
            base = tl.where(largest == float("-inf"), 0.0, largest)
            weights = tl.exp2(scores - base[:, None])
            fade = tl.exp2(most - base)
            total = total * fade + tl.sum(weights, 1)
            values = tl.load(v + at, mask=inside, other=0.0)
            sums = sums * fade[:, None] + tl.dot(weights.to(tl.bfloat16), values)
            most = largest
    results = (sums / tl.where(total > 0, total, 1.0)[:, None]).to(tl.bfloat16)
    tl.store(out + head * D + queries[:, None] * row + d[None, :], results, mask=there[:, None])
    tl.store(log_sums + head * q_len + queries, most * 0.6931471805599453 + tl.log(total), mask=there)


SIGNATURE = {
    "q": "*bf16",
    "k": "*bf16",
    "v": "*bf16",
    "ranges": "*i32",
    "out": "*bf16",
    "log_sums": "*fp32",
    "scale_log2": "fp32",
    "q_len": "i32",
    "kv_len": "i32",
    "row": "i32",
    "D": "constexpr",
    "M": "constexpr",
    "N": "constexpr",
}
# Pointers and the stride of rows are multiples of sixteen.
ALIGNED = {(i,): [["tt.divisibility", 16]] for i in (0, 1, 2, 3, 4, 5, 9)}
# The tiles and warps that our kernels of these sizes have: queries, keys, warps.
TILES = {
    ("80", 64): (128, 64, 4),
    ("80", 128): (128, 64, 4),
    ("89", 64): (128, 64, 4),
    ("89", 128): (64, 32, 4),
    ("90", 64): (64, 64, 4),
    ("90", 128): (128, 128, 8),
    ("120", 64): (128, 64, 4),
    ("120", 128): (64, 32, 4),
}


def main():
    # Triton brings two, of which the newer one takes whatever it writes.
    own = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin"
    own = next(path for path in (own / "ptxas-blackwell", own / "ptxas") if path.exists())
    ptxas = sys.argv[1] if len(sys.argv) > 1 else str(own)
    print("Triton", triton.__version__)
    for (capability, head), (m, n, warps) in TILES.items():
        source = ASTSource(attention_forward, SIGNATURE, {"D": head, "M": m, "N": n}, ALIGNED)
        target = GPUTarget("cuda", int(capability), 32)
        compiled = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": 2})
        ptx = compiled.asm["ptx"]
        architecture = re.search(r"\.target (sm_\w+)", ptx).group(1)
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(ptx)
            file.flush()
            command = [ptxas, "-v", f"--gpu-name={architecture}", "-o", "/dev/null", file.name]
            done = subprocess.run(command, capture_output=True, text=True)
            said = done.stderr + done.stdout
        if done.returncode:
            sys.exit(f"{' '.join(command)}:\n{said}")
        registers = re.search(r"Used (\d+) registers", said).group(1)
        spilled = sum(int(bytes) for bytes in re.findall(r"(\d+) bytes spill", said))
        print(
            f"{architecture}, head {head}, {m} queries by {n} keys, {warps * 32} threads: {registers} registers, "
            f"{spilled} bytes spilled, {compiled.metadata.shared} bytes of shared memory, "
            f"{ptx.count('mma.sync')} mma.sync, {ptx.count('wgmma.mma_async')} wgmma",
            flush=True,
        )


if __name__ == "__main__":
    main()
