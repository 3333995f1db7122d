"""Runs EvalPlus's own request (0.3.1) against a server: four samples of one problem.

    python evalplus_check.py http://127.0.0.1:8080/v1
"""

import sys

import openai
from evalplus.gen.util import openai_request

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
message = "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n```\ndef add(a, b):\n```\n"
answer = openai_request.make_auto_request(client, message=message, model="lacuna", max_tokens=32, temperature=0.8, n=4)
assert len(answer.choices) == 4 and all(isinstance(choice.message.content, str) for choice in answer.choices)
print("evalplus: four samples of", answer.usage.completion_tokens, "tokens")
