"""Makes a file of fixtures/clients/ from what `record.py` wrote down.

    python fixtures.py RECORDED.jsonl "llama.vim" a1c8e6e OUT.json

Of requests that are alike but for their texts, the first is kept. What has to be in an answer is what the client reads of it,
by its sources.
"""

import json
import sys

READ = {
    ("/infill", False): ["content"],
    ("/v1/completions", False): ["id", "choices/0/text", "choices/0/finish_reason"],
    ("/v1/completions", True): ["choices/0/text"],
    ("/v1/chat/completions", False): ["choices/0/message/content", "choices/0/finish_reason"],
    ("/v1/chat/completions", True): ["choices/0/delta"],
    ("/v1/edit/completions", False): ["choices/0/message/content"],
    ("/v1/edit/completions", True): ["choices/0/delta"],
    ("/v1/apply/completions", False): ["choices/0/message/content"],
    ("/v1/apply/completions", True): ["choices/0/delta"],
    ("/v1/models", False): ["data/0/id"],
    ("/health", False): ["status"],
    ("/props", False): ["default_generation_settings/n_ctx"],
    ("/tokenize", False): ["tokens"],
    ("/detokenize", False): [],
    ("/tokenizer_info", False): ["eos_token"],
}
VSCODE = ["timings/prompt_n", "timings/prompt_ms", "timings/predicted_n", "timings/predicted_ms", "tokens_cached", "truncated",
          "generation_settings"]
# Headers that say nothing of the request, or that differ from machine to machine.
DROPPED = ("x-stainless-os", "x-stainless-arch", "x-stainless-runtime-version", "x-stainless-retry-count", "date", "idempotency-key",
           "x-stainless-read-timeout", "x-stainless-timeout", "sec-fetch-mode", "accept-language")


def shape(value):
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value).__name__


recorded, client, version, out = sys.argv[1:]
requests, seen = [], set()
for line in map(json.loads, open(recorded)):
    body, path = line.get("body"), line["path"].split("?")[0]
    n = (body or {}).get("n", 1)
    kind = json.dumps([line["method"], line["path"], line["status"], shape(body), (body or {}).get("stream"), n])
    if kind in seen:
        continue
    seen.add(kind)
    streams = line["kind"] == "text/event-stream"
    headers = {name: value for name, value in line["headers"].items() if name.lower() not in DROPPED}
    name = f"{line['method']} {path}" + (", streamed" if streams else "")
    request = {"name": f"{len(requests) + 1}: {name}", "method": line["method"], "path": line["path"], "headers": headers}
    if body is not None:
        request["body"] = body
    if line["status"] != 200:
        request["status"] = line["status"]
    elif streams:
        request["events"] = READ[path, True]
    else:
        fields = (body or {}).get("response_fields")
        has = READ[path, False] if fields is None else [name for name in fields if name]
        if path == "/infill" and fields is None and body["n_predict"] and client == "llama.vscode":
            has = has + VSCODE
        if (body or {}).get("echo") and body.get("logprobs"):
            has = has + ["choices/0/logprobs/token_logprobs", "choices/0/logprobs/top_logprobs"]
        several = (body or {}).get("n_cmpl", 1)
        if several > 1:
            has = [f"{at}/content" for at in range(several)]
        if n and n > 1:
            has = has + [has[1].replace("/0/", f"/{n - 1}/")]
        request["has"] = has
        if fields is not None:
            request["only"] = True
    requests.append(request)
whole = {"client": client, "version": version, "origin": "captured from the wire", "requests": requests}
with open(out, "w") as file:
    file.write(json.dumps(whole, indent=1) + "\n")
print(out, len(requests), "requests")
