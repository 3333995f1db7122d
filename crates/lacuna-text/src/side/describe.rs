//! Makes what other loaders look for beside the weights, where a checkpoint does not bring it.

use serde_json::{Map, Value, json};

use super::{GENERATION, ModelFiles, TEMPLATE, TOKENIZER_CONFIG};
use crate::tokenizer::Tokenizer;

/// A `tokenizer_config.json` is read as a whole up to so many bytes; JSON takes some thirty times its length.
const LONGEST_EDITED: usize = 4 << 20;

/// Facts of a model's configuration that its other files repeat.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// `bos_token` and the like, and their ids.
    pub tokens: &'a [(&'a str, Option<u32>)],
    /// Every end of text.
    pub eos: &'a [u32],
    /// The number of tokens that the model takes.
    pub max_positions: usize,
    /// The chat template.
    pub template: Option<&'a str>,
}

impl ModelFiles {
    /// Adds `tokenizer_config.json`, the chat template and `generation_config.json` where they are missing.
    pub fn complete(&mut self, tokenizer: &Tokenizer, facts: &Facts<'_>) {
        match self.text(TOKENIZER_CONFIG) {
            None => {
                let mut map = Map::new();
                map.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
                map.insert("model_max_length".into(), facts.max_positions.into());
                map.insert("clean_up_tokenization_spaces".into(), false.into());
                for (name, id) in facts.tokens {
                    if let Some(token) = id.and_then(|id| tokenizer.id_to_token(id)) {
                        map.insert((*name).to_owned(), token.into());
                    }
                }
                if let (Some(template), None) = (facts.template, self.get(TEMPLATE)) {
                    map.insert("chat_template".into(), template.into());
                }
                self.insert(TOKENIZER_CONFIG, pretty(&Value::Object(map)));
            }
            Some(config) => {
                let is_there = config.contains("\"chat_template\"") || self.get(TEMPLATE).is_some();
                if let (Some(template), false) = (facts.template, is_there) {
                    self.insert(TEMPLATE, template);
                }
            }
        }
        if self.get(GENERATION).is_none() {
            let mut map = Map::new();
            for (name, id) in facts.tokens {
                if let (Some(id), "bos_token" | "pad_token") = (id, *name) {
                    map.insert(format!("{name}_id"), (*id).into());
                }
            }
            match facts.eos {
                [] => None,
                [one] => map.insert("eos_token_id".into(), (*one).into()),
                many => map.insert("eos_token_id".into(), json!(many)),
            };
            self.insert(GENERATION, pretty(&Value::Object(map)));
        }
    }

    /// Takes out Python files, and what asks loaders to run them: a tokenizer of its own code becomes the one of
    /// `tokenizer.json`.
    pub fn remove_code(&mut self) {
        self.files.retain(|name, _| !name.ends_with(".py"));
        let config = self.text(TOKENIZER_CONFIG).filter(|text| text.len() <= LONGEST_EDITED);
        let Some(Ok(mut map)) = config.map(serde_json::from_str::<Map<String, Value>>) else {
            return;
        };
        if map.remove("auto_map").is_some() {
            map.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
            self.insert(TOKENIZER_CONFIG, pretty(&Value::Object(map)));
        }
    }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON serialises");
    text.push('\n');
    text
}
