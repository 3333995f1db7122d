//! Finds the text of a JSON record.

use super::Reason;
use crate::records::{Fault, parse};
use lacuna_files::json::{self, Json, Stop};

/// The text of a record: the first of the fields that holds one.
pub(super) fn text_of(bytes: &[u8], fields: &[String]) -> Result<String, Fault> {
    let Record { values, others } = parse(bytes, |bytes| record(bytes, fields))?;
    let mut wrong = None;
    for (name, value) in fields.iter().zip(values) {
        match value {
            Some(Field::Text(text)) => return Ok(text),
            Some(Field::Other(what)) => {
                wrong.get_or_insert(format!("{name:?} is {what}"));
            }
            None => {}
        }
    }
    let words = wrong.unwrap_or_else(|| match others.as_slice() {
        [] => "the object has no field".to_owned(),
        others if others.iter().any(|name| name == "messages" || name == "conversations") => {
            "it is a conversation, which belongs into the samples of [sft]".to_owned()
        }
        others => format!("it has {}", others.join(", ")),
    });
    Err(Fault::new(Reason::NoText, words))
}

/// The texts of the fields that are asked for, and the names of some others.
struct Record {
    values: Vec<Option<Field>>,
    others: Vec<String>,
}

enum Field {
    Text(String),
    Other(&'static str),
}

/// Reads those fields alone. A name that stands twice counts the second time, as everywhere else.
fn record(bytes: &[u8], fields: &[String]) -> serde_json::Result<Record> {
    let mut record = Record { values: fields.iter().map(|_| None).collect(), others: vec![] };
    json::read(bytes, |json| {
        json.object("an object")?.each(|key, value| {
            match fields.iter().position(|name| *name == key) {
                Some(index) => record.values[index] = Some(value.read(field)?),
                None if record.others.len() < 8 => {
                    record.others.push(key.chars().take(40).collect());
                }
                None => {}
            }
            Ok(())
        })
    })?;
    Ok(record)
}

fn field(json: Json<'_, '_>) -> Result<Field, Stop> {
    Ok(match json {
        Json::Text(text) => Field::Text(text.into_owned()),
        Json::Null => Field::Other("null"),
        Json::Truth(_) => Field::Other("true or false"),
        Json::Number(_) => Field::Other("a number"),
        Json::List(_) => Field::Other("a list"),
        Json::Object(_) => Field::Other("an object"),
    })
}
