//! Lists the ways in which text is cut before merging: GGUF names them, Hugging Face spells them out.

use serde_json::{Value, json};

/// One way to cut text, under the names that GGUF files give it.
pub(super) struct Pre {
    pub(super) names: &'static [&'static str],
    /// True if digits are cut off one by one, before anything else.
    digits: bool,
    /// The pattern that cuts; `None` for GPT-2's, which byte-level tokenizers have built in.
    pattern: Option<&'static str>,
    nfc: bool,
    /// True if a word that is a token as a whole is not merged (Llama 3).
    pub(super) ignore_merges: bool,
    /// True if texts start with bos when the file does not say.
    pub(super) adds_bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
// Line ends stand here as they are, not escaped, because the released tokenizer.json has them so.
const SEED_CODER: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

const PRES: [Pre; 5] = [
    Pre {
        names: &["gpt-2", "default", "", "gpt2", "phi-2", "olmo", "jina-es", "jina-de"],
        digits: false,
        pattern: None,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        digits: true,
        pattern: None,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        digits: false,
        pattern: Some(LLAMA3),
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen"],
        digits: false,
        pattern: Some(QWEN2),
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    Pre {
        names: &["seed-coder"],
        digits: false,
        pattern: Some(SEED_CODER),
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
];

impl Pre {
    /// The way that a GGUF file names.
    pub(super) fn named(name: &str) -> Option<&'static Pre> {
        PRES.iter().find(|pre| pre.names.contains(&name))
    }

    /// Every name that is known.
    pub(super) fn all_names() -> String {
        let names = PRES.iter().filter_map(|pre| pre.names.first().copied());
        names.collect::<Vec<_>>().join(", ")
    }

    /// The way that the pre-tokenizer of a `tokenizer.json` spells out, if GGUF has a name for it.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<&'static Pre> {
        let spelled = normalised(pre_tokenizer)?;
        PRES.iter().find(|pre| normalised(&pre.pre_tokenizer()).as_ref() == Some(&spelled))
    }

    pub(super) fn normalizer(&self) -> Value {
        if self.nfc { json!({ "type": "NFC" }) } else { Value::Null }
    }

    pub(super) fn pre_tokenizer(&self) -> Value {
        let byte_level = json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": self.pattern.is_none(),
        });
        let first = match self.pattern {
            Some(pattern) => json!({
                "type": "Split",
                "pattern": { "Regex": pattern },
                "behavior": "Isolated",
                "invert": false,
            }),
            None if self.digits => json!({ "type": "Digits", "individual_digits": true }),
            None => return byte_level,
        };
        json!({ "type": "Sequence", "pretokenizers": [first, byte_level] })
    }
}

/// The steps that cut text, with line ends in patterns written one way; `None` if a step is not known here.
fn normalised(pre_tokenizer: &Value) -> Option<Vec<String>> {
    let steps = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.clone(),
        _ => vec![pre_tokenizer.clone()],
    };
    let step = |step: &Value| match step["type"].as_str()? {
        "ByteLevel" if step["add_prefix_space"] == true => None,
        "ByteLevel" => Some(format!("bytes {}", step["use_regex"].as_bool().unwrap_or(true))),
        "Digits" => Some(format!("digits {}", step["individual_digits"])),
        "Split" => {
            let pattern = step["pattern"]["Regex"].as_str()?;
            let pattern = pattern.replace('\r', r"\r").replace('\n', r"\n");
            Some(format!("split {} {} {pattern}", step["behavior"], step["invert"]))
        }
        _ => None,
    };
    steps.iter().map(step).collect()
}
