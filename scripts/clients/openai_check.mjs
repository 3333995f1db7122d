// Runs OpenAI's own Node package against a server: every call that its users make, with what must come back.
//
//     node openai_check.mjs http://127.0.0.1:8080/v1        where the package `openai` is installed
import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
console.log("openai for node", VERSION, "node", process.version, "model", model);

const ask = { model, prompt: "def fibonacci(n):\n", max_tokens: 24, temperature: 0 };
const whole = await client.completions.create(ask);
let pieces = "";
for await (const chunk of await client.completions.create({ ...ask, stream: true })) pieces += chunk.choices[0].text;
assert.equal(pieces, whole.choices[0].text);
assert.ok(whole.usage.completion_tokens > 0);
console.log("completions: whole and in pieces alike,", whole.usage.completion_tokens, "tokens");

const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "Name a sorting algorithm." }];
const turn = { model, messages, max_tokens: 24, temperature: 0 };
const answer = await client.chat.completions.create(turn);
let text = "", usage = null;
for await (const chunk of await client.chat.completions.create({ ...turn, stream: true, stream_options: { include_usage: true } })) {
  usage = chunk.usage ?? usage;
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, answer.choices[0].message.content);
assert.equal(usage.completion_tokens, answer.usage.completion_tokens);
console.log("chat: whole and in pieces alike,", usage.completion_tokens, "tokens");

const runner = client.chat.completions.stream({ ...turn, n: 1 });
assert.equal(await runner.finalContent(), answer.choices[0].message.content);
console.log("chat: the package's own collector has the same");

const schema = { type: "object", properties: { name: { type: "string", maxLength: 12 }, stable: { type: "boolean" } },
  required: ["name", "stable"], additionalProperties: false };
const formed = await client.chat.completions.create({ ...turn, max_tokens: 60,
  response_format: { type: "json_schema", json_schema: { name: "algorithm", strict: true, schema } } });
assert.equal(formed.choices[0].finish_reason, "stop");
assert.deepEqual(Object.keys(JSON.parse(formed.choices[0].message.content)), ["name", "stable"]);
console.log("response_format:", formed.choices[0].message.content);

const several = { ...ask, temperature: 1, n: 3, seed: 7, frequency_penalty: 0.5, presence_penalty: 0.5 };
const texts = async () => (await client.completions.create(several)).choices.map(choice => choice.text);
assert.deepEqual(await texts(), await texts());
console.log("completions: n = 3 with penalties, and again with the same seed");

const aborted = new AbortController();
const long = await client.completions.create({ ...ask, max_tokens: 400, stream: true }, { signal: aborted.signal });
for await (const _ of long) break;
aborted.abort();
console.log("a stream that is left is left");

for (const [wrong, status] of [
  [() => client.chat.completions.create({ ...turn, tools: [{ type: "function", function: { name: "f" } }] }), 400],
  [() => client.completions.create({ ...ask, no_such_field: 1 }), 400],
  [() => client.embeddings.create({ model, input: "a" }), 404],
]) {
  await assert.rejects(wrong, error => error.status === status && (console.log("refused:", status, error.message.slice(0, 90)), true));
}
