//! Reads what the files beside the weights say of tokens, template and sampling, as one.

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

use super::config::{Added, Listed, TokenizerConfig, tokenizer_config};
use super::{
    ADDED_TOKENS, GENERATION, ModelFiles, SPECIAL_TOKENS_MAP, TEMPLATE, TEMPLATE_JSON,
    TOKENIZER_CONFIG,
};
use crate::error::{Error, Result};

/// Bytes of the two small JSON files: a few kilobytes in real checkpoints.
const LONGEST_SMALL: usize = 4 << 20;

/// A token as some other file than `tokenizer.json` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    /// Its id, if the file says it.
    pub(crate) id: Option<u32>,
    pub(crate) content: String,
    /// Single word, strip left, strip right, normalized: where the file says them.
    pub(crate) flags: Option<[bool; 4]>,
    pub(crate) special: bool,
}

/// All that the files beside a checkpoint's weights say, joined.
///
/// If two say different things of a special token, `tokenizer_config.json` is believed, and
/// [`eos_spellings`](Self::eos_spellings) has both.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Spellings of the special tokens that a template may name: `bos_token`, `eos_token`, ….
    pub tokens: Map<String, Value>,
    /// Every spelling of `eos_token` in any file.
    pub eos_spellings: Vec<String>,
    /// `generation_config.json`.
    pub generation: Generation,
    pub(crate) additions: Vec<Addition>,
    /// True if bos is put in front of a text, where a file says so.
    pub(crate) adds_bos: Option<bool>,
    template: Option<(String, PathBuf)>,
}

/// The law by which text is drawn if the user asks for nothing else: `generation_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// True if tokens are drawn at all; else the most probable one is taken.
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// The probability that the kept tokens hold.
    pub top_p: Option<f64>,
    /// The number of tokens that are kept; 0: all.
    pub top_k: Option<u64>,
    /// The least probability in proportion to the most probable token's.
    pub min_p: Option<f64>,
    /// Above 1: tokens already seen become less likely.
    pub repetition_penalty: Option<f64>,
    /// Ends of text.
    pub eos: Vec<u32>,
}

impl Settings {
    /// Reads them; `place` is the checkpoint's folder or file, for errors.
    ///
    /// # Errors
    /// Names the file that is not what its name says.
    pub fn read(files: &ModelFiles, place: &Path) -> Result<Self> {
        let (config, map) =
            (read(files, place, TOKENIZER_CONFIG)?, read(files, place, SPECIAL_TOKENS_MAP)?);
        let mut tokens = map.tokens;
        let mut eos_spellings: Vec<String> = Vec::new();
        for found in [config.tokens.get("eos_token"), tokens.get("eos_token")].into_iter().flatten()
        {
            let spelling = found.as_str().unwrap_or_default().to_owned();
            if !spelling.is_empty() && !eos_spellings.contains(&spelling) {
                eos_spellings.push(spelling);
            }
        }
        tokens.extend(config.tokens);
        let special: Vec<String> = tokens
            .values()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .chain(config.special)
            .chain(map.special)
            .filter(|spelling| !spelling.is_empty())
            .collect();
        let mut additions = match config.added {
            Some(added) => added.into_iter().map(|(id, token)| addition(id, token)).collect(),
            None => legacy(files, place, &special)?,
        };
        for content in special {
            if !additions.iter().any(|addition| addition.content == content) {
                let token = Added { content, special: true, ..Added::default() };
                additions.push(addition(None, token));
            }
        }
        // Tokenizers of Llama's classes are made anew from this key; others add bos where it asks for it.
        let llama = ["Llama", "CodeLlama", "Gemma"];
        let llama =
            config.class.is_some_and(|class| llama.iter().any(|name| class.starts_with(name)));
        let adds_bos = config.add_bos.filter(|adds| *adds || llama);
        let template = template(files, place, config.template)?;
        let generation = generation(files, place)?;
        Ok(Self { tokens, eos_spellings, generation, additions, adds_bos, template })
    }

    /// The chat template's text and the file that it stood in.
    pub fn template(&self) -> Option<(&str, &Path)> {
        self.template.as_ref().map(|(text, file)| (text.as_str(), file.as_path()))
    }
}

fn read(files: &ModelFiles, place: &Path, name: &str) -> Result<TokenizerConfig> {
    let Some(text) = text(files, place, name)? else { return Ok(TokenizerConfig::default()) };
    tokenizer_config(text).map_err(|error| {
        Error::Template(format!("not a {name} ({error})")).in_file(&at(place, name))
    })
}

fn text<'a>(files: &'a ModelFiles, place: &Path, name: &str) -> Result<Option<&'a str>> {
    match (files.get(name), files.text(name)) {
        (None, _) => Ok(None),
        // Editors of some systems begin a text with a byte order mark.
        (_, Some(text)) => Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(text))),
        (_, None) => Err(fault(place, name, "is no UTF-8 text")),
    }
}

fn fault(place: &Path, name: &str, reason: impl Into<String>) -> Error {
    Error::SideFile { path: at(place, name), reason: reason.into() }
}

/// A file of a folder, or one that a single file carries.
fn at(place: &Path, name: &str) -> PathBuf {
    place.join(name)
}

/// A small JSON object.
fn object(files: &ModelFiles, place: &Path, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(text) = text(files, place, name)? else { return Ok(None) };
    if text.len() > LONGEST_SMALL {
        return Err(fault(place, name, format!("is longer than {LONGEST_SMALL} bytes")));
    }
    let parsed = serde_json::from_str(text);
    parsed.map(Some).map_err(|error| fault(place, name, format!("not a {name} ({error})")))
}

fn addition(id: Option<u32>, token: Added) -> Addition {
    let Added { content, single_word, lstrip, rstrip, normalized, special } = token;
    Addition { id, content, flags: id.map(|_| [single_word, lstrip, rstrip, normalized]), special }
}

/// `added_tokens.json`, which older checkpoints have in place of `added_tokens_decoder`.
fn legacy(files: &ModelFiles, place: &Path, special: &[String]) -> Result<Vec<Addition>> {
    let listed = object(files, place, ADDED_TOKENS)?.unwrap_or_default();
    let mut additions = Vec::new();
    for (content, id) in listed {
        // Of what is no id, the token is told to stay text.
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let special = special.contains(&content);
        additions.push(Addition { id, content, flags: None, special });
    }
    additions.sort_by_key(|addition| addition.id);
    Ok(additions)
}

/// `chat_template.jinja`, else the one in `tokenizer_config.json`, else `chat_template.json`.
fn template(files: &ModelFiles, place: &Path, listed: Listed) -> Result<Option<(String, PathBuf)>> {
    for name in [TEMPLATE, "additional_chat_templates/default.jinja"] {
        if let Some(source) = text(files, place, name)? {
            return Ok(Some((source.to_owned(), at(place, name))));
        }
    }
    let config = at(place, TOKENIZER_CONFIG);
    let wrong = |reason: &str| Error::Template(reason.to_owned()).in_file(&config);
    match listed {
        Listed::Text(source) => return Ok(Some((source, config))),
        Listed::WithoutDefault => {
            return Err(wrong("none of the templates listed is called \"default\""));
        }
        Listed::Other => return Err(wrong("\"chat_template\" is neither text nor a list")),
        Listed::Nothing => {}
    }
    let source =
        object(files, place, TEMPLATE_JSON)?.and_then(|mut map| map.remove("chat_template"));
    match source {
        Some(Value::String(source)) => Ok(Some((source, at(place, TEMPLATE_JSON)))),
        _ => Ok(None),
    }
}

fn generation(files: &ModelFiles, place: &Path) -> Result<Generation> {
    let map = object(files, place, GENERATION)?.unwrap_or_default();
    let number = |key: &str, least: f64| match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| number.is_finite() && *number >= least)
        {
            Some(number) => Ok(Some(number)),
            None => Err(fault(
                place,
                GENERATION,
                format!("{key} is {value}, expected a number of at least {least}"),
            )),
        },
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let eos = match map.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    };
    Ok(Generation {
        do_sample: map.get("do_sample").and_then(Value::as_bool).unwrap_or(false),
        temperature: number("temperature", 0.0)?,
        top_p: number("top_p", 0.0)?,
        top_k: number("top_k", 0.0)?.map(|k| k as u64),
        min_p: number("min_p", 0.0)?,
        repetition_penalty: number("repetition_penalty", 0.0)?.filter(|penalty| *penalty > 0.0),
        eos,
    })
}
