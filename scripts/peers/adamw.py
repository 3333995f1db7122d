"""PyTorch's fused AdamW on a GPU, on as many parameters as `card time adamw` updates: bf16 parameters with f32 masters and moments
are not what it has, so it runs on f32, which is the same traffic but for the bf16 copy.

Prints one line: milliseconds, and the share of the card's copy rate at 28 bytes a parameter. Needs PyTorch with CUDA.

    python scripts/peers/adamw.py
"""

import torch

N = 256 << 20


def median_ms(call):
    for _ in range(2):
        call()
    times = []
    for _ in range(20):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def main():
    x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    y = torch.empty_like(x)
    rate = 2 * x.numel() / median_ms(lambda: y.copy_(x))
    del x, y
    parameter = torch.randn(N, device="cuda", requires_grad=True)
    parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, fused=True)
    ms = median_ms(optimizer.step)
    share = 28 * N / ms / rate
    print(f"peer fused AdamW, {N} parameters in f32: {ms:.3f} ms, {100 * share:.0f} % of a copy's rate", flush=True)


if __name__ == "__main__":
    main()
