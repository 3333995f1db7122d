//! Carries what travels with weights: tokenizer, chat template, generation settings.

use lacuna_checkpoint::{CarriedMetadata, Config, Format, Weights};
use lacuna_text::{ChatTemplate, Facts, Settings, Tokenizer};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

use crate::advice::Knob;
use crate::error::{Error, Result, unsupported};
use crate::open::{open_settings, tokenizer_file};

pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const CARD: &str = "README.md";
/// The bytes of a file that may take part in naming a token; a megabyte of JSON takes some sixty to
/// change.
const LONGEST_EDITED: usize = 1 << 20;

/// The files of a checkpoint beside weights and `config.json`.
pub(crate) struct CarriedFiles {
    /// The text of `tokenizer.json`.
    pub(super) tokenizer: Option<String>,
    /// The chat template, wherever it stood.
    pub(super) chat_template: Option<String>,
    /// The others, name and text.
    pub(super) others: Vec<(String, String)>,
    /// Licence, origin and names of a GGUF file.
    pub(super) metadata: Option<CarriedMetadata>,
    format: Format,
    settings: Settings,
    /// The place of the tokenizer, and the tokens that the model embeds.
    file: PathBuf,
    rows: usize,
}

impl CarriedFiles {
    pub(crate) fn read(from: &Path, weights: &Weights) -> Result<Self> {
        let format = weights.report().format;
        let chat_template = match format {
            Format::Gguf => weights.chat_template(),
            Format::Safetensors => ChatTemplate::source_in_folder(from)?,
        };
        let tokenizer = weights.tokenizer_json()?;
        let (others, metadata) = (weights.carried_files()?, weights.carried_metadata()?);
        let (file, rows) = (tokenizer_file(from), weights.config().vocab_size);
        let settings = open_settings(from, weights)?;
        Ok(Self { tokenizer, chat_template, others, metadata, format, settings, file, rows })
    }

    /// Refuses a tokenizer that can't be read.
    pub(super) fn check_tokenizer(&self) -> Result<()> {
        let Some(text) = &self.tokenizer else { return Ok(()) };
        Ok(Tokenizer::check(text.as_bytes(), self.rows, &self.file)?)
    }

    /// The tokenizer, if there is one.
    pub(super) fn open_tokenizer(&self) -> Result<Option<Tokenizer>> {
        let open = |text: &String| {
            Tokenizer::of_checkpoint(text.as_bytes(), self.rows, &self.settings, &self.file)
        };
        Ok(self.tokenizer.as_ref().map(open).transpose()?)
    }

    /// The tokenizer of a GGUF file, with the tokens that other files of a folder name: it has no place for those.
    pub(super) fn tokenizer_for_gguf(&self) -> Result<Option<String>> {
        let extended = self.open_tokenizer()?.filter(Tokenizer::is_extended);
        Ok(extended.map(|tokenizer| tokenizer.to_json()).or_else(|| self.tokenizer.clone()))
    }

    /// The files that go into a GGUF file's metadata: the rest has keys of its own there.
    pub(super) fn for_gguf(&self) -> Vec<(String, String)> {
        let apart = [TEMPLATE, "vocab.json", "merges.txt", "added_tokens.json"];
        let kept = |name: &String| {
            !apart.contains(&name.as_str()) && !name.ends_with(".py") && !name.contains('/')
        };
        self.others.iter().filter(|(name, _)| kept(name)).cloned().collect()
    }

    /// Writes the files into a directory that nobody sees yet.
    pub(crate) fn write(&self, dir: &Path, config: &Config) -> Result<()> {
        let mut files = lacuna_text::ModelFiles::default();
        for (name, text) in &self.others {
            files.insert(name.as_str(), text.as_str());
        }
        files.remove_code();
        if let (Format::Gguf, Some(tokenizer)) = (self.format, self.open_tokenizer()?) {
            let unknown = self.metadata.as_ref().and_then(|metadata| metadata.unknown_token_id);
            let tokens = [
                ("bos_token", config.bos_token_id),
                ("eos_token", config.eos_token_id()),
                ("pad_token", config.pad_token_id),
                ("mask_token", config.mask_token_id()),
                ("unk_token", unknown),
            ];
            let facts = Facts {
                tokens: &tokens,
                eos: &config.eos_token_ids,
                max_positions: config.max_position_embeddings,
                template: self.chat_template.as_deref(),
            };
            files.complete(&tokenizer, &facts);
        }
        let card = self.metadata.as_ref().filter(|_| files.get(CARD).is_none());
        if let Some(card) = card.and_then(CarriedMetadata::card) {
            files.insert(CARD, card);
        }
        if let Some(text) = &self.tokenizer {
            files.insert("tokenizer.json", text.as_str());
        }
        Ok(files.write(dir)?)
    }

    /// Adds a special token behind the last one; the id that it got.
    pub(super) fn append_token(&mut self, name: &str) -> Result<u32> {
        let Some(text) = &self.tokenizer else {
            return Err(Error::Request("there is no tokenizer to append a token to".into()));
        };
        let tokenizer = Tokenizer::of_model(text.as_bytes(), self.rows, &self.file)?;
        if let Some(id) = tokenizer.token_to_id(name) {
            let reason = format!(
                "the tokenizer has `{name}` already, as id {id}: {} append=NAME, with a name that is free, appends a token",
                Knob::MaskToken
            );
            return Err(unsupported(reason));
        }
        let id = u32::try_from(tokenizer.vocab_size()).expect("ids are u32");
        drop(tokenizer);
        let file = self.file.display().to_string();
        let fault = |reason: String| Error::Request(format!("{file}: {reason}"));
        let mut json: Value = serde_json::from_str(text).map_err(|e| fault(e.to_string()))?;
        let token = json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        });
        match json.get_mut("added_tokens").and_then(Value::as_array_mut) {
            Some(added) => added.push(token.clone()),
            None => json["added_tokens"] = json!([token.clone()]),
        }
        let text = pretty(&json);
        drop(json);
        let rows = self.rows.max(id as usize + 1);
        let known = Tokenizer::of_model(text.as_bytes(), rows, &self.file)?.token_to_id(name);
        if known != Some(id) {
            let reason = format!("its ids have gaps: `{name}` became {known:?} and not {id}");
            return Err(fault(reason));
        }
        self.tokenizer = Some(text);
        self.rows = rows;
        self.edit_names(&|map| {
            let decoder = map.get_mut("added_tokens_decoder").and_then(Value::as_object_mut);
            if let Some(decoder) = decoder {
                let mut token = token.clone();
                token.as_object_mut().map(|token| token.remove("id"));
                decoder.insert(id.to_string(), token);
            }
        })?;
        Ok(id)
    }

    /// Says in the files that name special tokens, where they are, which one is MASK.
    pub(super) fn name_mask(&mut self, mask: &str) -> Result<()> {
        self.edit_names(&|map| drop(map.insert("mask_token".into(), mask.into())))
    }

    /// Changes the files that name special tokens, where they are.
    fn edit_names(&mut self, edit: &dyn Fn(&mut Map<String, Value>)) -> Result<()> {
        let names = [TOKENIZER_CONFIG, "special_tokens_map.json"];
        for (name, text) in self.others.iter_mut() {
            if !names.contains(&name.as_str()) {
                continue;
            }
            if text.len() > LONGEST_EDITED {
                let reason = format!(
                    "{name} has {} bytes; at most {LONGEST_EDITED} are expected where a token is to be named in it",
                    text.len()
                );
                return Err(Error::Place {
                    path: self.file.with_file_name(name),
                    reason: reason.into(),
                });
            }
            let Ok(Value::Object(mut map)) = serde_json::from_str::<Value>(text) else { continue };
            edit(&mut map);
            *text = pretty(&Value::Object(map));
        }
        Ok(())
    }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON serialises");
    text.push('\n');
    text
}
