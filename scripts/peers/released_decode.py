#!/usr/bin/env python3
"""The block decoder released with Stable-DiffCoder, written anew on transformers from docs/paper.md: greedy, one
prompt, keys and values in a DynamicCache that is cropped after each refinement.

With --model alone it is timed on SmolLM2-135M's shape of work: 64 new tokens behind a prompt of 128, B = 4, one token a
pass. With --cases FILE it decodes recorded cases instead and counts those whose tokens and passes are equal.
Prints one JSON object."""
import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


class MasksLeft(Exception):
    """A threshold and too few steps left masks in a block that another follows."""


def block_causal(length: int, block_length: int, dtype: torch.dtype) -> torch.Tensor:
    """[1, 1, L, L]: 0 where a query may see a key, the least number where it may not."""
    block = torch.arange(length) // block_length
    hidden = block[None, :] > block[:, None]
    return torch.zeros(length, length, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)[None, None]


def quota(masked: int, steps: int, step: int) -> int:
    return masked // steps + (step < masked % steps)


def one_pass(model, canvas, start: int, end: int, cache, mask) -> torch.Tensor:
    """Logits of canvas[start:end] behind what the cache holds; appends their keys and values."""
    positions = torch.arange(start, end, device=canvas.device)[None]
    return model(
        canvas[:, start:end], attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).logits


@torch.inference_mode()
def decode(model, prompt: list, *, steps, gen_length, block_length, mask_id, threshold=None, eos_id=None):
    """The canvas, prompt included, and the number of passes after prefill."""
    if gen_length % block_length or steps % (gen_length // block_length):
        raise ValueError("gen_length must be a multiple of block_length, steps one of the number of blocks")
    steps //= gen_length // block_length
    canvas = torch.tensor([prompt + [mask_id] * gen_length], device=model.device)
    cache, passes, length = DynamicCache(), 0, canvas.shape[1]
    start = len(prompt) // block_length * block_length
    if start:
        one_pass(model, canvas, 0, start, cache, block_causal(start, block_length, model.dtype).to(model.device))
    while start < length:
        end = min(start + block_length, length)
        sees_all = torch.zeros(1, 1, end - start, end, dtype=model.dtype, device=model.device)
        block = canvas[0, start:end]  # a view: what is filled in here stands in the canvas
        masked = int((block == mask_id).sum())
        for step in range(steps):
            holes, count = block == mask_id, quota(masked, steps, step)
            if not holes.any() or count == 0:
                break
            logits = one_pass(model, canvas, start, end, cache, sees_all)[0]
            passes += 1
            cache.crop(start - end)  # negative: so many fewer
            token = logits.argmax(-1)
            confidence = logits.double().softmax(-1).gather(-1, token[:, None])[:, 0]
            confidence = confidence.masked_fill(~holes, -torch.inf)
            if threshold is None:
                filled = confidence.topk(min(count, int(holes.sum()))).indices
            else:
                filled = confidence >= threshold
                filled[confidence.argmax()] = True
            block[filled] = token[filled]
        if (block == mask_id).any():
            if end < length:
                raise MasksLeft
        else:
            new = max(start, len(prompt))
            ended = (canvas[0, new:end] == eos_id).nonzero() if eos_id is not None else ()
            if len(ended):
                canvas = canvas[:, :end]
                canvas[0, new + int(ended[0]) :] = eos_id
                break
            one_pass(model, canvas, start, end, cache, sees_all)
            passes += 1
        start = end
    return canvas[0].tolist(), passes


def check(model, file: str, only: str) -> dict:
    """Recorded cases of the model named `only`: how many come out as recorded."""
    equal, different, refused = 0, [], 0
    for case in json.load(open(file)):
        if case["model"] != only or not case["robust"]:
            continue
        keys = ("steps", "gen_length", "block_length", "threshold", "eos_id")
        try:
            ids, passes = decode(model, case["prompt"], mask_id=5, **{key: case[key] for key in keys})
        except (ValueError, MasksLeft):
            same = "refused_with" in case["expect"]
            refused += same
        else:
            same = (ids, passes) == (case["expect"].get("ids"), case["expect"].get("nfe"))
        equal += same
        if not same:
            different.append(case["id"])
    return {"cases": file.rsplit("/", 1)[-1], "equal": equal, "refused": refused, "different": different}


def timed(model, args) -> dict:
    prompt = [10 + i * 7919 % (model.config.vocab_size - 10) for i in range(args.prompt)]
    settings = dict(steps=args.new, gen_length=args.new, block_length=args.block_size, mask_id=args.mask_id)
    seconds = []
    for _ in range(args.runs + 1):  # the first one warms up
        start = time.perf_counter()
        ids, passes = decode(model, prompt, **settings)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return {
        "passes": passes,
        "seconds": {"median": median, "best": min(seconds[1:])},
        "tokens_per_second": args.new / median,
        "tokens": ids[args.prompt :],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="directory in Hugging Face layout")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128, help="length of the prompt")
    parser.add_argument("--new", type=int, default=64, help="new tokens, one a refinement")
    parser.add_argument("--block-size", type=int, default=4)
    parser.add_argument("--mask-id", type=int, default=4)
    parser.add_argument("--cases", help="decode the recorded cases of this file and compare, instead of timing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval().to(args.device)
    report = {"torch": torch.__version__, "dtype": args.dtype, "threads": args.threads}
    if args.cases:
        report |= check(model, args.cases, args.model.rstrip("/").rsplit("/", 1)[-1])
    else:
        report |= timed(model, args)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
