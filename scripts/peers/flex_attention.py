"""Attention on a GPU by PyTorch, under the masks and sizes that lacuna's own kernels are timed with.

Prints one line for each result: the card's rate on a large bf16 product, then scaled_dot_product_attention (causal and
full masks) and compiled flex_attention (every mask), forward and backward, with visible pairs counted as lacuna counts
them. Needs PyTorch with CUDA.

    python scripts/peers/flex_attention.py [HEAD_SIZE]      128 (the default) or 64

One head size to a process: behind a few more masks and shapes torch.compile falls back to dense attention.
"""

import math
import sys

import torch
import torch._functorch.config
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

DEVICE = "cuda"
torch._functorch.config.donated_buffer = False  # else a backward pass can't be timed twice


def median_ms(call):
    for _ in range(2):
        call()
    times, total = [], 0.0
    while len(times) < 5 or (total < 120 and len(times) < 200):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
        total += times[-1]
    return sorted(times)[len(times) // 2]


def causal(b, h, q, kv):
    return kv <= q


def full(b, h, q, kv):
    return kv >= 0


def block_diffusion(half, size):
    def visible(b, h, q, kv):
        q_clean, kv_clean = q >= half, kv >= half
        q_block, kv_block = (q % half) // size, (kv % half) // size
        noisy = ~q_clean & torch.where(kv_clean, kv_block < q_block, kv_block == q_block)
        return noisy | (q_clean & kv_clean & (kv_block <= q_block))

    return visible


def report(kind, name, ms, products, pairs, d):
    print(f"peer {kind:<45} {name:<62} {ms:8.3f} ms {2 * products * d * pairs / ms * 1e-9:7.1f} TFLOP/s", flush=True)


def main():
    torch.manual_seed(0)
    print("peer", torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    n = 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    ms = median_ms(lambda: a @ b)
    print(f"peer bf16 product {n}: {2 * n**3 / ms * 1e-9:.1f} TFLOP/s", flush=True)
    x = torch.empty(1 << 30, device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    ms = median_ms(lambda: y.copy_(x))
    print(f"peer copy: {2 * x.numel() / ms * 1e-9:.2f} TB/s, read and written", flush=True)
    del a, b, x, y
    flex = torch.compile(flex_attention)
    d = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    heads = 2048 // d
    diffusion, small = block_diffusion(8192, 4), block_diffusion(4096, 4)
    cases = [
        ("causal 8192", 2, heads, 8192, causal, 8192 * 8193 / 2),
        ("full 8192", 1, heads, 8192, full, 8192.0**2),
        ("block diffusion 2 × 8192, blocks of 4", 1, heads, 16384, diffusion, 8192.0**2 + 8192 * 4),
        (
            "block diffusion 2 × 4096, blocks of 4, 2 heads a key head",
            2,
            heads // 2,
            8192,
            small,
            4096.0**2 + 4096 * 4,
        ),
    ]
    for name, batch, heads_kv, length, mask, pairs in cases:
        name = f"{name}, head {d}"
        pairs *= batch * heads

        def tensor(h):
            x = torch.randn(batch, length, h, d, device=DEVICE, dtype=torch.bfloat16)
            return x.transpose(1, 2).requires_grad_()

        q, k, v = tensor(heads), tensor(heads_kv), tensor(heads_kv)
        d_out = torch.randn_like(q)

        def time_both(kind, attention):
            with torch.no_grad():
                report(kind, name, median_ms(attention), 2, pairs, d)
            out = attention()
            inputs = (q, k, v)
            ms = median_ms(lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True))
            report(f"{kind}, backward", name, ms, 5, pairs, d)

        if mask in (causal, full):
            for backend, kind in ((SDPBackend.FLASH_ATTENTION, "flash"), (SDPBackend.CUDNN_ATTENTION, "cuDNN")):
                try:
                    with sdpa_kernel(backend):
                        time_both(
                            f"scaled_dot_product_attention {kind}",
                            lambda: scaled_dot_product_attention(q, k, v, is_causal=mask is causal),
                        )
                except RuntimeError as error:
                    print(f"peer {kind}, {name}: {str(error).splitlines()[0][:100]}", flush=True)
        block_mask = create_block_mask(mask, None, None, length, length, device=DEVICE, _compile=True)
        scale, grouped = 1 / math.sqrt(d), heads != heads_kv
        time_both(
            "flex_attention",
            lambda: flex(q, k, v, block_mask=block_mask, scale=scale, enable_gqa=grouped),
        )
        del q, k, v, d_out, block_mask


if __name__ == "__main__":
    main()
