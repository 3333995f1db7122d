#!/usr/bin/env python3
"""Decode timing of SmolLM2-135M: transformers on a Hugging Face directory, llama.cpp on a GGUF file.
Prints one JSON object: milliseconds of a pass over 1, 4 and 8 tokens against a context of 128, prefill and greedy
decoding in tokens per second. A pass gives the logits of all its tokens, as a block decoder needs them; `_last_row` of
llama.cpp gives those of the last one alone, as prefill does."""
import argparse
import json
import statistics
import time

CONTEXT, PREFILL, NEW_TOKENS = 128, 512, 64
PASSES = (1, 4, 8)


def timed(runs: int, run) -> dict:
    run()
    milliseconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": statistics.median(milliseconds), "best_ms": min(milliseconds)}


def with_rates(report: dict) -> dict:
    report["prefill_tokens_per_second"] = PREFILL / report["prefill"]["median_ms"] * 1e3
    report["decode_tokens_per_second"] = NEW_TOKENS / report["decode"]["median_ms"] * 1e3
    return report


def transformers_report(directory: str, dtype: str, threads: int, runs: int) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    ids = torch.arange(PREFILL)[None] % 1000 + 10
    report = {"torch": torch.__version__, "dtype": dtype}
    with torch.inference_mode():
        cache = model(ids[:, :CONTEXT], use_cache=True).past_key_values

        def block_pass(tokens: int) -> None:
            model(ids[:, :tokens], past_key_values=cache, use_cache=True)
            cache.crop(-tokens)  # negative: so many fewer

        for tokens in PASSES:
            report[f"pass_{tokens}"] = timed(runs, lambda: block_pass(tokens))
        report["prefill"] = timed(3, lambda: model(ids, logits_to_keep=1))
        greedy = dict(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        prompt = ids[:, :CONTEXT]
        report["decode"] = timed(3, lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **greedy))
    return with_rates(report)


def llama_cpp_report(file: str, threads: int, runs: int, passes_only: bool) -> dict:
    from llama_cpp_peer import Peer

    peer = Peer(file, threads, context=1024, batch=PREFILL)
    ids = [i % 1000 + 10 for i in range(PREFILL)]
    report = {"llama_cpp": peer.version, "file": file.rsplit("/", 1)[-1]}

    def block_pass(tokens: int, all_rows: bool) -> None:
        peer.crop(CONTEXT)
        peer.decode(ids[:tokens], CONTEXT, all_rows)

    def from_start(tokens) -> None:
        peer.crop(0)
        peer.decode(tokens, 0)

    def decode() -> None:
        from_start(ids[:CONTEXT])
        for position in range(CONTEXT, CONTEXT + NEW_TOKENS):
            peer.decode([peer.best()], position)

    from_start(ids[:CONTEXT])
    for tokens in PASSES:
        report[f"pass_{tokens}"] = timed(runs, lambda: block_pass(tokens, True))
        report[f"pass_{tokens}_last_row"] = timed(runs, lambda: block_pass(tokens, False))
    if passes_only:
        return report
    report["prefill"] = timed(3, lambda: from_start(ids))
    report["decode"] = timed(3, decode)
    return with_rates(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="directory in Hugging Face layout, for transformers")
    parser.add_argument("--gguf", help="GGUF file, for llama.cpp")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--passes-only", action="store_true", help="llama.cpp: neither prefill nor greedy decoding")
    args = parser.parse_args()
    if not (args.model or args.gguf):
        parser.error("give --model, --gguf or both")
    report = {"threads": args.threads, "context": CONTEXT, "new_tokens": NEW_TOKENS}
    if args.model:
        report["transformers"] = transformers_report(args.model, args.dtype, args.threads, args.runs)
    if args.gguf:
        report["llama_cpp"] = llama_cpp_report(args.gguf, args.threads, args.runs, args.passes_only)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
