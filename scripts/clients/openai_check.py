"""Runs OpenAI's own Python package against a server: every call that its users make, with what must come back.

    python openai_check.py http://127.0.0.1:8080/v1
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
model = client.models.list().data[0].id
print("openai", openai.__version__, "model", model)

ask = dict(model=model, prompt="def fibonacci(n):\n", max_tokens=24, temperature=0)
whole = client.completions.create(**ask)
pieces = "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **ask))
assert whole.choices[0].text == pieces, (whole.choices[0].text, pieces)
assert whole.usage.completion_tokens > 0
print("completions: whole and in pieces alike,", whole.usage.completion_tokens, "tokens")

several = client.completions.create(**{**ask, "temperature": 1.0}, n=3, seed=7, frequency_penalty=0.5, presence_penalty=0.5)
again = client.completions.create(**{**ask, "temperature": 1.0}, n=3, seed=7, frequency_penalty=0.5, presence_penalty=0.5)
assert [c.text for c in several.choices] == [c.text for c in again.choices]
print("completions: n = 3 with penalties, and again with the same seed")

turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a sorting algorithm."}]
ask = dict(model=model, messages=turns, max_tokens=24, temperature=0)
whole = client.chat.completions.create(**ask)
stream = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask)
pieces, usage = "", None
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        pieces += choice.delta.content or ""
assert whole.choices[0].message.content == pieces
assert usage.completion_tokens == whole.usage.completion_tokens
print("chat: whole and in pieces alike,", usage.completion_tokens, "tokens")

schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "stable": {"type": "boolean"}},
          "required": ["name", "stable"], "additionalProperties": False}
form = {"type": "json_schema", "json_schema": {"name": "algorithm", "strict": True, "schema": schema}}
formed = client.chat.completions.create(**{**ask, "max_tokens": 100}, response_format=form)
assert formed.choices[0].finish_reason == "stop"
assert list(json.loads(formed.choices[0].message.content)) == ["name", "stable"]
print("response_format:", formed.choices[0].message.content)

scored = client.completions.create(model=model, prompt="a = 1\n", echo=True, logprobs=1, max_tokens=1, temperature=0)
assert scored.choices[0].logprobs.token_logprobs[0] is None
print("echo: log-probabilities of", len(scored.choices[0].logprobs.tokens), "tokens")

for wrong, status in (
    (lambda: client.chat.completions.create(**ask, tools=[{"type": "function", "function": {"name": "f"}}]), 400),
    (lambda: client.completions.create(model=model, prompt="a", extra_body={"no_such_field": 1}), 400),
    (lambda: client.embeddings.create(model=model, input="a"), 404),
):
    try:
        wrong()
        raise SystemExit("a wrong request was answered")
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        print("refused:", error.status_code, error.message[:100])
