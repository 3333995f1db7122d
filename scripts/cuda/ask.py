#!/usr/bin/env python3
"""Asks a server for one text, for one behind a long prompt, and for sixteen at a time, and says how long each took.

    ask.py PORT [SECONDS]       waits up to SECONDS for the server, 100 if none are given
"""
import concurrent.futures
import json
import sys
import time
import urllib.error
import urllib.request

ADDRESS = f"http://127.0.0.1:{sys.argv[1]}"
PATIENCE = float(sys.argv[2]) if len(sys.argv) > 2 else 100


def get(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(ADDRESS + path, data, {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(request, timeout=PATIENCE).read().decode()
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: {error.read().decode()}")


def ask(prompt, tokens):
    """Seconds, tokens that came, tokens of the prompt."""
    began = time.time()
    body = dict(model="any", prompt=prompt, max_tokens=tokens, temperature=0)
    usage = json.loads(get("/v1/completions", body))["usage"]
    return time.time() - began, usage["completion_tokens"], usage["prompt_tokens"]


def wait():
    began = time.time()
    while True:
        try:
            return get("/health")
        except OSError:
            if time.time() - began > PATIENCE:
                raise
            time.sleep(0.25)


wait()
ask("def f(x):", 16)  # plans are made and recorded
seconds, tokens, _ = ask("def g(x):", 160)
print(f"one text: {tokens} tokens in {seconds:.3f} s, {tokens / seconds:.1f} a second")
seconds, _, prompt = ask("def add(left, right):\n    return left + right\n\n" * 150, 1)
print(f"a prompt of {prompt} tokens: {seconds:.3f} s")
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    began = time.time()
    answers = list(pool.map(lambda i: ask(f"import lib{i}\n", 128), range(16)))
    seconds = time.time() - began
tokens = sum(tokens for _, tokens, _ in answers)
print(f"sixteen texts: {tokens} tokens in {seconds:.3f} s, {tokens / seconds:.1f} a second")
