#!/usr/bin/env python3
"""A block-diffusion training step in PyTorch: SDPA with a dense mask, and transformers' Llama. The model has 13.8 M parameters
(4 x 512 tokens a step), or SmolLM2-135M's shape (`--shape smollm2-135m --batch 2 --seq 256 --micro-batch 1`: what
recipes/smollm2-135m.toml trains). Prints one JSON object; tokens are clean tokens."""
import argparse
import json
import platform
import resource
import statistics
import time

import torch
import torch.nn.functional as F

SHAPES = {"13.8m": (384, 6, 6, 6, 1024, 8192), "smollm2-135m": (576, 30, 9, 3, 1536, 49153)}
HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, VOCAB = SHAPES["13.8m"]
HEAD_DIM = HIDDEN // HEADS
MASK_ID = 5


def block_diffusion_mask(length: int, block_size: int) -> torch.Tensor:
    """[2L, 2L] bool, True where a query may see a key; the first half is noisy, the second clean."""
    position = torch.arange(2 * length)
    clean = position >= length
    block = (position % length) // block_size
    q, k = block[:, None], block[None, :]
    q_clean, k_clean = clean[:, None], clean[None, :]
    same_half_and_block = (q == k) & (q_clean == k_clean)
    noisy_sees_clean = ~q_clean & k_clean & (k < q)
    clean_sees_clean = q_clean & k_clean & (k <= q)
    return same_half_and_block | noisy_sees_clean | clean_sees_clean


class Sdpa(torch.nn.Module):
    """The model in plain PyTorch, attention by scaled_dot_product_attention with a dense mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, HIDDEN)
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
        norm = lambda: torch.nn.RMSNorm(HIDDEN, eps=1e-6)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "attention_norm": norm(),
                    "qkv": linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM),
                    "out": linear(HIDDEN, HIDDEN),
                    "mlp_norm": norm(),
                    "gate_up": linear(HIDDEN, 2 * INTERMEDIATE),
                    "down": linear(INTERMEDIATE, HIDDEN),
                }
            )
            for _ in range(LAYERS)
        )
        self.norm = norm()
        for weight in self.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.02)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, rope) -> torch.Tensor:
        cos, sin = rope
        rotate = lambda x: x * cos + torch.cat((-x[..., HEAD_DIM // 2 :], x[..., : HEAD_DIM // 2]), -1) * sin
        x = self.embedding(ids)
        batch, length, _ = x.shape
        for layer in self.layers:
            qkv = layer["qkv"](layer["attention_norm"](x)).view(batch, length, -1, HEAD_DIM).transpose(1, 2)
            q, k, v = qkv.split((HEADS, KV_HEADS, KV_HEADS), 1)
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=mask, enable_gqa=KV_HEADS < HEADS)
            x = x + layer["out"](y.transpose(1, 2).reshape(batch, length, HIDDEN))
            gate, up = layer["gate_up"](layer["mlp_norm"](x)).chunk(2, -1)
            x = x + layer["down"](F.silu(gate) * up)
        return self.norm(x)

    def head(self) -> torch.Tensor:
        return self.embedding.weight


def rope_table(positions: torch.Tensor):
    frequencies = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = positions[:, None] * frequencies[None, :]
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def corrupt(clean: torch.Tensor):
    """Every second token masked, each weight 1/u = 2, as the benchmark of lacuna does: noisy ids and weights."""
    masked = torch.zeros_like(clean, dtype=torch.bool)
    masked[:, ::2] = True
    return torch.where(masked, MASK_ID, clean), 2.0 * masked


def loss_of(hidden: torch.Tensor, head: torch.Tensor, clean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Logits at masked positions only, as a careful user would write it."""
    supervised = weights > 0
    logits = hidden[:, : clean.shape[1]][supervised] @ head.T
    nll = F.cross_entropy(logits, clean[supervised], reduction="none")
    return (nll * weights[supervised]).sum() / clean.numel()


def sdpa(args):
    model = Sdpa()
    mask = block_diffusion_mask(args.seq, args.block_size)
    rope = rope_table(torch.arange(args.seq).repeat(2).float())
    return model, lambda ids: model(ids, mask, rope), model.head


def llama(args):
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=VOCAB,
        max_position_embeddings=args.seq,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaModel(config)
    mask = block_diffusion_mask(args.seq, args.block_size)
    mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]
    positions = torch.arange(args.seq).repeat(2)[None]
    run = lambda ids: model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    return model, run, lambda: model.embed_tokens.weight


def measure(make, args) -> dict:
    torch.manual_seed(1)
    model, run, head = make(args)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    seconds, losses = [], []
    for _ in range(args.steps + 1):  # the first one warms up
        clean = torch.randint(6, VOCAB, (args.batch, args.seq))
        noisy, weights = corrupt(clean)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for part in torch.arange(args.batch).split(args.micro_batch or args.batch):
            hidden = run(torch.cat((noisy[part], clean[part]), 1))
            partial = loss_of(hidden, head(), clean[part], weights[part]) * len(part) / args.batch
            partial.backward()
            loss += partial.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]
    tokens = args.batch * args.seq
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": {"median": statistics.median(seconds), "best": min(seconds)},
        "tokens_per_second": {"median": tokens / statistics.median(seconds), "best": tokens / min(seconds)},
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, help="rows of a pass; all, if not given")
    parser.add_argument("--block-size", type=int, default=4)
    parser.add_argument("--shape", choices=SHAPES, default="13.8m")
    parser.add_argument("--only", choices=["sdpa", "llama"])
    args = parser.parse_args()
    global HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, VOCAB, HEAD_DIM
    HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, VOCAB = SHAPES[args.shape]
    HEAD_DIM = HIDDEN // HEADS
    torch.set_num_threads(args.threads)
    makers = {"sdpa": sdpa, "llama": llama}
    report = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": args.threads}
    for name, make in makers.items():
        if args.only in (None, name):
            report[name] = measure(make, args)
    # Of the process: with both, the larger one's.
    report["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(report))


if __name__ == "__main__":
    main()
