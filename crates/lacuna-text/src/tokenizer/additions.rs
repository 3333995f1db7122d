//! Puts tokens that other files of a checkpoint name into the tokenizer that its `tokenizer.json`
//! describes.

use serde_json::{Value, json};

use super::file::{Added, File};
use super::model::shown;
use crate::side::{Addition, Settings};

impl Addition {
    /// It with an id, on top of what `tokenizer.json` says of it.
    fn over(&self, known: Option<&Added>, id: u32) -> Added {
        let [single_word, lstrip, rstrip, normalized] = match (self.flags, known) {
            (Some(flags), _) => flags,
            (None, Some(known)) => {
                [known.single_word, known.lstrip, known.rstrip, known.normalized]
            }
            (None, None) => [false, false, false, !self.special],
        };
        let special = match self.flags {
            Some(_) => self.special,
            None => self.special || known.is_some_and(|known| known.special),
        };
        let content = self.content.clone();
        Added { id, content, single_word, lstrip, rstrip, normalized, special }
    }
}

impl File {
    /// Takes in what other files say. What could not be followed is told, a sentence each; tokens of a vocabulary
    /// that is a list are left to [`append`].
    pub(super) fn take_in(
        &mut self,
        settings: &Settings,
        rows: Option<usize>,
    ) -> (Vec<Addition>, Vec<String>) {
        let mut notes = Vec::new();
        let Some(vocabulary) = self.model.vocabulary.as_mut() else { return (Vec::new(), notes) };
        if !vocabulary.is_list && self.model.kind.as_deref().is_none_or(|kind| kind == "BPE") {
            let mut taken: std::collections::HashMap<u32, String> =
                vocabulary.ids.iter().map(|(token, id)| (*id, token.clone())).collect();
            taken.extend(self.added.iter().map(|added| (added.id, added.content.clone())));
            for addition in settings.additions.iter().filter(|a| !a.content.is_empty()) {
                let content = &addition.content;
                let place = self.added.iter().position(|added| added.content == *content);
                let known = vocabulary.ids.get(content).copied();
                let known = known.or_else(|| place.map(|place| self.added[place].id));
                if let Some(id) = known {
                    if let Some(other) = addition.id.filter(|other| *other != id) {
                        let token = shown(content);
                        notes.push(format!(
                            "the token {token} is {id} in tokenizer.json and {other} in another file; {id} is used"
                        ));
                    }
                    let added = addition.over(place.map(|place| &self.added[place]), id);
                    match place {
                        Some(place) => self.added[place] = added,
                        // An ordinary token that another file only repeats stays one.
                        None if addition.special || addition.id.is_some() => self.added.push(added),
                        None => {}
                    }
                    continue;
                }
                let Some(id) = addition.id else {
                    notes.extend(told_of(addition, settings));
                    continue;
                };
                let beyond = rows.is_some_and(|rows| id as usize >= rows);
                if beyond || taken.contains_key(&id) {
                    let token = shown(content);
                    let reason = match taken.get(&id) {
                        Some(other) if !beyond => {
                            format!("which is {} in tokenizer.json", shown(other))
                        }
                        _ => "for which the model has no row".to_owned(),
                    };
                    notes.push(format!(
                        "the added token {token} has id {id}, {reason}; it stays text"
                    ));
                    continue;
                }
                taken.insert(id, content.clone());
                vocabulary.ids.insert(content.clone(), id);
                vocabulary.count += 1;
                vocabulary.last = vocabulary.last.max(Some(id));
                self.added.push(addition.over(None, id));
            }
        }
        if let (Some(adds), Some(bos)) = (settings.adds_bos, self.bos(settings)) {
            with_bos(&mut self.post_processor, adds, &bos);
        }
        (settings.additions.clone(), notes)
    }

    /// The spelling and the id of bos.
    fn bos(&self, settings: &Settings) -> Option<(String, u32)> {
        let spelling = settings.tokens.get("bos_token")?.as_str()?;
        let listed = self.added.iter().find(|added| added.content == spelling);
        let vocabulary = self.model.vocabulary.as_ref();
        let id = listed.map(|added| added.id);
        let id = id.or_else(|| vocabulary?.ids.get(spelling).copied())?;
        Some((spelling.to_owned(), id))
    }
}

/// The sentence about a token that no file gives an id, if it is one that a text may need.
fn told_of(addition: &Addition, settings: &Settings) -> Option<String> {
    let content = &addition.content;
    let mut named = settings.tokens.iter().filter(|(_, spelling)| *spelling == content);
    let mut roles = named.by_ref().map(|(role, _)| role.as_str()).peekable();
    // Nothing that is written or read here has padding or unknown text.
    let idle =
        roles.peek().is_some() && roles.all(|role| !["bos_token", "eos_token"].contains(&role));
    (!idle).then(|| {
        format!(
            "the token {} is named beside tokenizer.json, and no file has an id for it; it stays text",
            shown(content)
        )
    })
}

/// Makes a post-processor put bos in front of a text, or not.
fn with_bos(processor: &mut Value, adds: bool, (token, id): &(String, u32)) {
    let adds_now = match processor["type"].as_str() {
        Some("TemplateProcessing") => Some(adds_token(processor, token)),
        Some("Sequence") => {
            let steps = processor["processors"].as_array();
            let template =
                steps.into_iter().flatten().find(|step| step["type"] == "TemplateProcessing");
            template.map(|step| adds_token(step, token))
        }
        _ => None,
    };
    if adds_now.unwrap_or(false) == adds {
        return;
    }
    let bos = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |name: &str, kind: u8| json!({ "Sequence": { "id": name, "type_id": kind } });
    let front = |rest: Vec<Value>| -> Vec<Value> {
        std::iter::once(bos.clone()).filter(|_| adds).chain(rest).collect()
    };
    let mut special = serde_json::Map::new();
    if adds {
        special.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
    }
    let template = json!({
        "type": "TemplateProcessing",
        "single": front(vec![text("A", 0)]),
        "pair": front(vec![text("A", 0), text("B", 1)]),
        "special_tokens": special,
    });
    let kept: Vec<Value> = match processor["type"].as_str() {
        Some("Sequence") => processor["processors"].as_array().cloned().unwrap_or_default(),
        Some(_) => vec![processor.take()],
        None => Vec::new(),
    };
    let mut steps: Vec<Value> =
        kept.into_iter().filter(|step| step["type"] != "TemplateProcessing").collect();
    steps.push(template);
    *processor = match steps.len() {
        1 => steps.remove(0),
        _ => json!({ "type": "Sequence", "processors": steps }),
    };
}

fn adds_token(template: &Value, token: &str) -> bool {
    let pieces = template["single"].as_array().into_iter().flatten();
    pieces.into_iter().any(|piece| piece["SpecialToken"]["id"] == token)
}

/// Adds tokens to a tokenizer that the library read, each under its own id or not at all.
pub(super) fn append(
    inner: &mut tokenizers::Tokenizer,
    additions: Vec<Addition>,
    settings: &Settings,
) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let mut notes = Vec::new();
    for addition in additions.into_iter().filter(|addition| !addition.content.is_empty()) {
        let known = inner.token_to_id(&addition.content);
        let next = u32::try_from(inner.get_vocab_size(true)).unwrap_or(u32::MAX);
        match (known, addition.id) {
            (Some(id), other) => {
                if let Some(other) = other.filter(|other| *other != id) {
                    let token = shown(&addition.content);
                    notes.push(format!(
                        "the token {token} is {id} in tokenizer.json and {other} in another file; {id} is used"
                    ));
                }
                let is_added = inner.get_added_vocabulary().get_vocab().contains_key(&addition.content);
                if addition.special && !is_added {
                    inner.add_tokens([addition.over(None, id).token()])?;
                }
            }
            (None, Some(id)) if id == next => {
                inner.add_tokens([addition.over(None, id).token()])?;
            }
            (None, Some(id)) => notes.push(format!(
                "the added token {} has id {id}, where the vocabulary goes on with {next}; it stays text",
                shown(&addition.content)
            )),
            (None, None) => notes.extend(told_of(&addition, settings)),
        }
    }
    Ok(notes)
}
