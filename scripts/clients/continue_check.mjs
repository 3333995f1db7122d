// Runs Continue's own adapters (the package @continuedev/openai-adapters) against a server: chat, fill, next edit and apply, as the
// extension calls them.
//
//     node continue_check.mjs http://127.0.0.1:8080/v1/        where the package is installed
import assert from "node:assert/strict";
import { InceptionApi, UNIQUE_TOKEN, APPLY_UNIQUE_TOKEN } from "@continuedev/openai-adapters/dist/apis/Inception.js";

const api = new InceptionApi({ provider: "inception", apiKey: "none", apiBase: process.argv[2] });
const model = "mercury-coder", signal = new AbortController().signal;
const joined = async stream => {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  return text;
};

const fill = { model, prompt: "def area(r):\n    return ", max_tokens: 24, temperature: 0.01, top_p: 1, frequency_penalty: 0,
  presence_penalty: 0, stop: ["/src/", "```"], stream: true };
console.log("fill:", JSON.stringify(await joined(api.fimStream({ ...fill, suffix: "\nprint(area(2))\n" }, signal))));
console.log("fill at the end:", JSON.stringify(await joined(api.fimStream({ ...fill, suffix: " " }, signal))));

const messages = [{ role: "user", content: "Name a sorting algorithm." }];
const chat = { model, messages, max_tokens: 16, temperature: 0 };
const whole = await api.chatCompletionNonStream({ ...chat, stream: false }, signal);
assert.equal(await joined(api.chatCompletionStream({ ...chat, stream: true }, signal)), whole.choices[0].message.content);
console.log("chat: whole and in pieces alike");

const region = "<|code_to_edit|>\ndef add(a, b):\n    return<|cursor|> a - b\n<|/code_to_edit|>";
const edit = `<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n\n<|current_file_content|>\n` +
  `current_file_path: add.py\nimport math\n${region}\n<|/current_file_content|>\n\n<|edit_diff_history|>\n--- add.py\n+++ add.py\n` +
  `@@ -1,2 +1,2 @@\n-def sub(a, b):\n+def add(a, b):\n     return a - b\n\n<|/edit_diff_history|>`;
const next = () => ({ model, max_tokens: 64, temperature: 0, messages: [{ role: "user", content: edit + UNIQUE_TOKEN }] });
const edited = await api.chatCompletionNonStream({ ...next(), stream: false }, signal);
assert.equal(await joined(api.chatCompletionStream({ ...next(), stream: true }, signal)), edited.choices[0].message.content);
console.log("next edit:", JSON.stringify(edited.choices[0].message.content.slice(0, 60)));

const change = "<|original_code|>\ndef add(a, b):\n    return a - b\n<|/original_code|>\n\n<|update_snippet|>\n    return a + b\n<|/update_snippet|>";
const apply = { model, max_tokens: 64, temperature: 0, stream: true, messages: [{ role: "user", content: change + APPLY_UNIQUE_TOKEN }] };
console.log("apply:", JSON.stringify((await joined(api.chatCompletionStream(apply, signal))).slice(0, 60)));
