//! Names the parts of a tokenizer beside its model, which a Sequence may hold several of.

use serde_json::Value;
use std::collections::HashSet;

/// `check` on a part, and on each that a Sequence holds.
pub(super) fn parts(
    part: &Value,
    check: &mut dyn FnMut(&Value) -> Result<(), String>,
) -> Result<(), String> {
    check(part)?;
    ["normalizers", "pretokenizers", "processors", "decoders"]
        .into_iter()
        .filter_map(|key| part[key].as_array())
        .flatten()
        .try_for_each(|part| parts(part, check))
}

/// The ids that a post-processor puts around a text: a template's, or those of BERT's and RoBERTa's.
pub(super) fn ids(part: &Value) -> impl Iterator<Item = u64> {
    let tokens = part["special_tokens"].as_object().into_iter().flatten();
    let listed = tokens.filter_map(|(_, token)| token["ids"].as_array()).flatten();
    let ends = ["sep", "cls"].map(|end| &part[end][1]);
    listed.chain(ends).filter_map(Value::as_u64)
}

/// A template may name the one text there is, and special tokens that it defines.
pub(super) fn template(part: &Value) -> Result<(), String> {
    let pieces = ["single", "pair"].map(|key| part[key].as_array());
    let defined: HashSet<&str> =
        part["special_tokens"].as_object().into_iter().flatten().map(|(id, _)| &id[..]).collect();
    for piece in pieces.into_iter().flatten().flatten() {
        let id = piece["SpecialToken"]["id"].as_str();
        if let Some(id) = id.filter(|id| !defined.contains(id)) {
            return Err(format!("its template names {id:?}, which it does not define"));
        }
    }
    if pieces[0].into_iter().flatten().any(|piece| piece["Sequence"]["id"] == "B") {
        return Err("its template for one text names a second".into());
    }
    Ok(())
}
