#!/usr/bin/env python3
"""Rebuilds fixtures/sft/functions.jsonl: chat samples made from the shipped Python corpus.

Each documented function of the corpus becomes a request (the first line of its docstring) and an answer (its
source). The licence of a sample is that of the package it comes from, named in `source`.
"""
import ast
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLES, LONGEST = 120, 900

samples = []
for path in sorted((ROOT / "fixtures/corpus/python").rglob("*.py")):
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        summary = (ast.get_docstring(node) or "").split("\n")[0].strip()
        source = ast.get_source_segment(text, node)
        if not summary or len(source) > LONGEST:
            continue
        request = f"Write a Python function `{node.name}`: {summary}"
        samples.append({
            "messages": [
                {"role": "user", "content": request},
                {"role": "assistant", "content": f"```python\n{source}\n```"},
            ],
            "source": str(path.relative_to(ROOT)),
        })
# Spread over the packages, in a fixed order.
samples = samples[:: max(1, len(samples) // SAMPLES)][:SAMPLES]
target = ROOT / "fixtures/sft/functions.jsonl"
target.write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples), encoding="utf-8")
print(f"{len(samples)} samples in {target.relative_to(ROOT)}")
