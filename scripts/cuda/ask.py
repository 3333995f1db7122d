#!/usr/bin/env python3
"""Asks a server for one text, for one behind a long prompt, and for sixteen at a time, and says how long each took."""
import argparse
import concurrent.futures
import json
import sys
import time
import urllib.error
import urllib.request

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("port", type=int)
parser.add_argument("seconds", type=float, nargs="?", default=100, help="to wait for the server, and for an answer")
arguments = parser.parse_args()
ADDRESS, PATIENCE = f"http://127.0.0.1:{arguments.port}", arguments.seconds


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
                sys.exit(f"no server at {ADDRESS} after {PATIENCE:.0f} s")
            time.sleep(0.25)


def report(what, seconds, tokens):
    print(f"{what}: {tokens} tokens in {seconds:.3f} s, {tokens / seconds:.1f} a second")


wait()
# Each twice, other words each time so that nothing is remembered: the first makes plans and records them.
for name in ("f", "g"):
    seconds, tokens, _ = ask(f"def {name}(x):", 160)
report("one text", seconds, tokens)
for name in ("add", "subtract"):
    seconds, _, prompt = ask(f"def {name}(left, right):\n    return {name}(left, right)\n\n" * 150, 1)
report("a prompt", seconds, prompt)
for library in ("one", "two"):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        began = time.time()
        answers = list(pool.map(lambda i: ask(f"import {library}{i}\n", 128), range(16)))
        seconds = time.time() - began
report("sixteen texts", seconds, sum(tokens for _, tokens, _ in answers))
