// Runs llama.vscode's own client (src/llama-server.ts of commit 3938fb3, bundled with a stand-in for the editor) against a server.
//
//     LLAMA_VSCODE=/path/to/llama.vscode node llama_vscode_check.mjs http://127.0.0.1:8080     where esbuild, axios, openai are installed
import { build } from "esbuild";
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [server, source] = [process.argv[2], process.env.LLAMA_VSCODE];
const out = path.resolve("llama-server.mjs"), editor = path.resolve("vscode-stand-in.js");
fs.writeFileSync(editor, "module.exports = new Proxy({}, { get: () => new Proxy(class {}, { get: () => () => {} }) });\n");
await build({
  stdin: { contents: `export { LlamaServer } from ${JSON.stringify(path.join(source, "src/llama-server"))};`, resolveDir: process.cwd() },
  bundle: true, platform: "node", format: "esm", outfile: out, logLevel: "error", nodePaths: [path.resolve("node_modules")],
  alias: { vscode: editor }, external: ["axios", "openai"],
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
});
const { LlamaServer } = await import(pathToFileURL(out));
const anything = () => new Proxy(() => {}, { get: (_, name) => name === Symbol.toPrimitive ? () => "" : anything(), apply: () => undefined });
const known = {
  endpoint: server, endpoint_chat: server, ai_api_version: "v1", ai_model: "", n_predict: 24, max_parallel_completions: 1,
  t_max_prompt_ms: 500, t_max_predict_ms: 20000, lora_completion: "", lora_chat: "", use_openai_endpoint: false,
  axiosRequestConfigCompl: {}, axiosRequestConfigChat: {},
};
const configuration = new Proxy(known, { get: (all, name) => name in all ? all[name] : "" });
const chosen = { endpoint: server, aiModel: "lacuna", isKeyRequired: false };
const app = new Proxy({
  configuration, logger: { addEventLog: () => {} }, getComplModel: () => chosen, getChatModel: () => chosen, getToolsModel: () => chosen,
  prompts: { replacePlaceholders: (text, words) => Object.values(words).join("\n") },
}, { get: (all, name) => name in all ? all[name] : anything() });
const client = new LlamaServer(app);

assert.equal(await client.checkHealth("completion", chosen), "ok");
client.updateExtraContext([{ text: "x = 1\n", time: Date.now(), filename: "b.py" }]);
const filled = await client.getFIMCompletion("def area(r):\n", "\n", "    return ", [{ text: "x = 1\n", time: Date.now(), filename: "b.py" }], 4);
assert.equal(typeof filled.content, "string");
for (const name of ["prompt_n", "prompt_ms", "predicted_n", "predicted_ms"]) assert.equal(typeof filled.timings[name], "number");
console.log("llama.vscode: fill", JSON.stringify(filled.content), filled.timings.predicted_n, "tokens,", filled.tokens_cached, "remembered");
known.max_parallel_completions = 3;
const several = await client.getFIMCompletion("def area(r):\n", "\n", "    return ", [], 0);
assert.equal(several.length, 3);
console.log("three completions");
const edit = await client.getChatEditCompletion("add type hints", "def add(a, b):\n    return a + b\n", "", [], 0);
console.log("chat edit:", JSON.stringify(edit.choices[0].message.content.slice(0, 60)));
const chat = await client.getChatCompletion("Name a sorting algorithm.");
console.log("chat:", JSON.stringify(chat.choices[0].message.content.slice(0, 60)));
