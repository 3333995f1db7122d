//! What a `tokenizer.json` must not hold, because the library that reads it would panic or ask for any memory.

use serde_json::Value;
use std::collections::HashSet;

/// A tokenizer from JSON that would not bring the library down.
///
/// The library reads what was checked, in which each key is there once, and not the bytes.
pub(super) fn read(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let file: Value = serde_json::from_slice(bytes).map_err(|error| unreadable(bytes, &error))?;
    merges(&file["model"])?;
    parts(&file["normalizer"], &|part| match part["type"].as_str() {
        // Its bytes are a table of jumps that the library follows unchecked.
        Some("Precompiled") => Err("a Precompiled normalizer is not read".into()),
        _ => Ok(()),
    })?;
    parts(&file["pre_tokenizer"], &|part| match part["length"].as_u64() {
        Some(0) if part["type"] == "FixedLength" => {
            Err("its FixedLength pre-tokenizer cuts pieces of 0 characters".into())
        }
        _ => Ok(()),
    })?;
    parts(&file["post_processor"], &template)?;
    serde_json::from_value(file)
        .map_err(|error| format!("JSON, but not a tokenizer.json ({error})"))
}

fn unreadable(bytes: &[u8], error: &serde_json::Error) -> String {
    match bytes.len() {
        0 => "the file is empty; fetch it again".to_owned(),
        held if error.is_eof() => {
            format!("the file ends in the middle, after {held} bytes; fetch it again")
        }
        _ => format!("not JSON ({error}); a tokenizer.json is expected"),
    }
}

/// `check` on a part, and on each that a Sequence holds.
fn parts(part: &Value, check: &dyn Fn(&Value) -> Result<(), String>) -> Result<(), String> {
    check(part)?;
    ["normalizers", "pretokenizers", "processors"]
        .into_iter()
        .filter_map(|key| part[key].as_array())
        .flatten()
        .try_for_each(|part| parts(part, check))
}

/// Both parts of each merge and what they make must be tokens.
fn merges(model: &Value) -> Result<(), String> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array())
    else {
        return Ok(());
    };
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            _ => merge[0].as_str().zip(merge[1].as_str()),
        };
        let Some((left, right)) = pair else { continue }; // the library refuses it
        joined.clear();
        joined.push_str(left);
        let Some(rest) = right.strip_prefix(prefix) else {
            return Err(format!("merge {index}: {right:?} does not start with {prefix:?}"));
        };
        joined.push_str(rest);
        if let Some(unknown) = [left, right, &joined].into_iter().find(|t| !vocab.contains_key(*t))
        {
            return Err(format!("merge {index}: {unknown:?} is not in the vocabulary"));
        }
    }
    Ok(())
}

/// A template may name the one text there is, and special tokens that it defines.
fn template(part: &Value) -> Result<(), String> {
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
