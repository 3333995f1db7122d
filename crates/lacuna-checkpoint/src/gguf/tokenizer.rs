//! Makes a `tokenizer.json` from GGUF metadata.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::fields::shown;
use super::parse::Gguf;
use super::pre::Pre;
use super::reader::Value;
use crate::error::{Error, Result};
use crate::names;

/// The key under which a GGUF file may carry a whole `tokenizer.json`.
pub(super) const WHOLE: &str = "tokenizer.huggingface.json";
/// The most tokens, twice the largest vocabulary in use; this and the next bound what a hostile file can make us
/// allocate.
const MOST_TOKENS: usize = 1 << 19;
const MOST_ADDED: usize = 1 << 15;
const LONGEST_TOKEN: usize = 1 << 10;
/// The most merges a token; real scored vocabularies have about two.
const MOST_MERGES_PER_TOKEN: usize = 16;
const LONGEST_MERGES: usize = 16 << 20;

const NORMAL: u8 = 1;
const UNKNOWN: u8 = 2;
const CONTROL: u8 = 3;
const USER_DEFINED: u8 = 4;

/// The text of a `tokenizer.json` that cuts and joins as the file's metadata say; `None` if the
/// file carries no tokenizer.
pub(crate) fn tokenizer_json(
    gguf: Gguf<'_>,
    file: &Path,
    vocab_size: usize,
) -> Result<Option<String>> {
    if let Some(whole) = gguf.text(WHOLE) {
        return Ok(Some(whole.to_owned()));
    }
    let Some(model) = gguf.text("tokenizer.ggml.model") else { return Ok(None) };
    let vocabulary = Vocabulary::read(gguf, file, vocab_size)?;
    match model {
        "gpt2" => byte_level(gguf, file, &vocabulary).map(Some),
        "llama" => scored(gguf, file, &vocabulary).map(Some),
        other => {
            let reason = "known: gpt2, llama";
            Err(Error::config(file, "tokenizer.ggml.model", other, reason))
        }
    }
}

/// The ids of tokens by their text, found without building the tokenizer.
pub(crate) fn token_ids(gguf: Gguf<'_>, wanted: &[&str]) -> Vec<Option<u32>> {
    if let Some(whole) = gguf.text(WHOLE) {
        return names::in_tokenizer(whole, wanted);
    }
    let mut ids = vec![None; wanted.len()];
    let tokens = gguf.array("tokenizer.ggml.tokens").and_then(|tokens| tokens.texts());
    for (id, token) in (0u32..).zip(tokens.into_iter().flatten()) {
        let place = token.and_then(|token| wanted.iter().position(|name| *name == token));
        if let Some(place) = place {
            ids[place] = ids[place].or(Some(id));
        }
    }
    ids
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// The tokens' types as llama.cpp numbers them; all normal (1) if the file does not say.
    kinds: Vec<u8>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: Gguf<'a>, file: &Path, vocab_size: usize) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let fault = |reason: String| Error::config(file, key, held(gguf, key), reason);
        let most = vocab_size.min(MOST_TOKENS);
        let array = gguf.array(key).filter(|array| array.len() <= most).ok_or_else(|| {
            fault(format!("expected a list of at most {most} strings, one a row of the embedding"))
        })?;
        let texts = array.texts().ok_or_else(|| fault("expected strings".to_owned()))?;
        let tokens = texts
            .map(|text| text.filter(|text| text.len() <= LONGEST_TOKEN))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| {
                fault(format!("expected UTF-8 of at most {LONGEST_TOKEN} bytes each"))
            })?;
        let kinds = gguf.array("tokenizer.ggml.token_type").and_then(|kinds| kinds.integers());
        let narrow = |kind: i64| u8::try_from(kind).unwrap_or(NORMAL);
        let mut kinds: Vec<u8> =
            kinds.map_or_else(Vec::new, |k| k.take(tokens.len()).map(narrow).collect());
        kinds.resize(tokens.len(), NORMAL);
        if kinds.iter().filter(|&&kind| is_added(kind)).count() > MOST_ADDED {
            return Err(fault(format!("over {MOST_ADDED} of them are special")));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, &token) in (0u32..).zip(&tokens) {
            // The first of two equal tokens is the one that text becomes, as in llama.cpp.
            ids.entry(token).or_insert(id);
        }
        Ok(Self { tokens, kinds, ids })
    }

    /// The entries `"token":id,…` of every token that text can become.
    fn json(&self) -> String {
        let entries = (0u32..).zip(&self.tokens).filter(|(id, token)| self.ids[*token] == *id);
        joined(entries.map(|(id, token)| format!("{}:{id}", quoted(token))))
    }

    /// The entries of the tokens that are found in text before it is cut.
    fn added(&self) -> String {
        let tokens = (0u32..).zip(self.tokens.iter().zip(&self.kinds));
        joined(tokens.filter(|(_, (_, kind))| is_added(**kind)).map(|(id, (token, kind))| {
            format!(
                r#"{{"id":{id},"content":{},"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":{}}}"#,
                quoted(token),
                *kind != USER_DEFINED
            )
        }))
    }

    /// The step that puts bos in front of a text, if the file wants one.
    fn post_processor(&self, gguf: Gguf<'_>, adds_bos: bool) -> Json {
        let adds_bos = match gguf.get("tokenizer.ggml.add_bos_token") {
            Some(Value::Bool(adds)) => adds,
            _ => adds_bos,
        };
        let bos = match gguf.get("tokenizer.ggml.bos_token_id") {
            Some(Value::Unsigned(id, _)) => usize::try_from(id).ok(),
            _ => None,
        };
        match bos.and_then(|id| self.tokens.get(id).map(|token| (id, token))) {
            Some((id, token)) if adds_bos => json!({
                "type": "TemplateProcessing",
                "single": [
                    { "SpecialToken": { "id": token, "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                ],
                "pair": [
                    { "SpecialToken": { "id": token, "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                    { "Sequence": { "id": "B", "type_id": 1 } },
                ],
                "special_tokens": { *token: { "id": token, "ids": [id], "tokens": [token] } },
            }),
            _ => Json::Null,
        }
    }
}

fn is_added(kind: u8) -> bool {
    [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind)
}

/// The value that the file has under a key, as errors name it.
fn held(gguf: Gguf<'_>, key: &str) -> String {
    gguf.get(key).map_or_else(|| "nothing".to_owned(), |value| shown(&value))
}

/// Makes a tokenizer of byte-level BPE: GPT-2 and everything after it.
fn byte_level(gguf: Gguf<'_>, file: &Path, vocabulary: &Vocabulary<'_>) -> Result<String> {
    let name = gguf.text("tokenizer.ggml.pre").unwrap_or("");
    let Some(pre) = Pre::named(name) else {
        let reason = format!("known: {}", Pre::all_names());
        return Err(Error::config(file, "tokenizer.ggml.pre", name, reason));
    };
    let key = "tokenizer.ggml.merges";
    let fault = |reason: &str| Error::config(file, key, held(gguf, key), reason);
    let most = MOST_MERGES_PER_TOKEN * vocabulary.tokens.len();
    let array = gguf.array(key).filter(|array| array.len() <= most);
    let lines = array.and_then(|array| array.texts()).ok_or_else(|| {
        fault(&format!(
            "expected a list of at most {most} strings, {MOST_MERGES_PER_TOKEN} a token"
        ))
    })?;
    let mut merges = String::new();
    for line in lines {
        let pair = line.and_then(|line| line.split_once(' '));
        let (left, right) = pair.ok_or_else(|| fault("expected two tokens apart by a space"))?;
        if !merges.is_empty() {
            merges.push(',');
        }
        merges.push_str(&format!("[{},{}]", quoted(left), quoted(right)));
        if merges.len() > LONGEST_MERGES {
            return Err(fault(&format!("over {LONGEST_MERGES} bytes of merges")));
        }
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    Ok(document(Parts {
        added: vocabulary.added(),
        normalizer: pre.normalizer(),
        pre_tokenizer: pre.pre_tokenizer(),
        post_processor: vocabulary.post_processor(gguf, pre.adds_bos),
        decoder: byte_level,
        model: json!({ "unk_token": null, "byte_fallback": false, "fuse_unk": false,
            "ignore_merges": pre.ignore_merges }),
        vocab: vocabulary.json(),
        merges,
    }))
}

/// Makes a tokenizer of SentencePiece BPE: the merges are all splits of a token into two, best score first.
fn scored(gguf: Gguf<'_>, file: &Path, vocabulary: &Vocabulary<'_>) -> Result<String> {
    let key = "tokenizer.ggml.scores";
    let scores = gguf.array(key).and_then(|array| array.floats());
    let scores: Vec<f32> = scores
        .map(|scores| scores.take(vocabulary.tokens.len()).collect())
        .filter(|scores: &Vec<f32>| scores.len() == vocabulary.tokens.len())
        .ok_or_else(|| Error::config(file, key, held(gguf, key), "expected an f32 a token"))?;
    let (mut splits, mut longest) = (Vec::new(), 0);
    for (token, score) in vocabulary.tokens.iter().zip(&scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (vocabulary.ids.get(left), vocabulary.ids.get(right)) {
                splits.push((*score, l, r));
                longest += token.len() + 8;
            }
        }
        if splits.len() > MOST_MERGES_PER_TOKEN * scores.len() || longest > LONGEST_MERGES {
            let reason = "its tokens are made of one another in more ways than a vocabulary's are";
            let key = "tokenizer.ggml.tokens";
            return Err(Error::config(file, key, held(gguf, key), reason));
        }
    }
    splits.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
    let token = |id: u32| quoted(vocabulary.tokens[id as usize]);
    let merges = joined(splits.iter().map(|&(_, l, r)| format!("[{},{}]", token(l), token(r))));

    let prefix = gguf.get("tokenizer.ggml.add_space_prefix") != Some(Value::Bool(false));
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = vocabulary.kinds.iter().position(|&kind| kind == UNKNOWN);
    let unknown = unknown.map(|id| vocabulary.tokens[id]);
    Ok(document(Parts {
        added: vocabulary.added(),
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Json::Null,
        post_processor: vocabulary.post_processor(gguf, true),
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model: json!({ "unk_token": unknown, "byte_fallback": true, "fuse_unk": true,
            "ignore_merges": false }),
        vocab: vocabulary.json(),
        merges,
    }))
}

/// The parts of a `tokenizer.json`; vocabulary and merges, which are long, as text.
struct Parts {
    added: String,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Json,
    vocab: String,
    merges: String,
}

/// Joins the parts in one text; each long one is dropped when it has been copied.
fn document(parts: Parts) -> String {
    let Parts { added, normalizer, pre_tokenizer, post_processor, decoder, model, vocab, merges } =
        parts;
    let mut text = String::with_capacity(4096 + added.len() + vocab.len() + merges.len());
    text += r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":["#;
    text += &added;
    text += &format!(
        r#"],"normalizer":{normalizer},"pre_tokenizer":{pre_tokenizer},"post_processor":{post_processor},"decoder":{decoder},"#
    );
    text += &format!(
        r#""model":{{"type":"BPE","dropout":null,"unk_token":{},"continuing_subword_prefix":null,"#,
        model["unk_token"]
    );
    text += &format!(
        r#""end_of_word_suffix":null,"fuse_unk":{},"byte_fallback":{},"ignore_merges":{},"vocab":{{"#,
        model["fuse_unk"], model["byte_fallback"], model["ignore_merges"]
    );
    text += &vocab;
    drop(vocab);
    text += r#"},"merges":["#;
    text += &merges;
    text += "]}}";
    text
}

fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&item);
    }
    text
}
