//! Collects what `lacuna score` is to score: files, folders, ids, lines of JSON, a text with a hole.

use anyhow::Result;
use lacuna::Model;
use lacuna::data::corpus::for_each_document;
use serde_json::{Map, Value};
use std::path::Path;

use super::super::Usage;
use super::super::answers::{ids_of, name, objects, same_file};
use super::super::corpus_args::skipped_lines;
use super::super::edit::region;
use super::super::progress::is_quiet;
use super::super::show::read_text;
use super::super::user_file::{UserFile, shown};
use super::Args;

/// One thing to score.
pub(super) struct Source {
    /// Its id, or the path of a document.
    pub(super) id: Value,
    /// The part of it that is scored, and what stands around that.
    pub(super) body: Body,
}

pub(super) enum Body {
    /// A text that was named, in which special tokens may be spelt out.
    Text(String),
    /// A document of a folder, in which they are text.
    Document(String),
    Ids(Vec<u32>),
    /// The response alone is scored.
    Answer {
        prompt: String,
        response: String,
    },
    /// The middle alone is scored.
    Hole {
        prefix: String,
        middle: String,
        suffix: String,
    },
}

impl Body {
    /// The part of it that is scored, in words.
    pub(super) fn scored_part(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Document(_) | Self::Ids(_) => "the text",
            Self::Answer { .. } => "the response",
            Self::Hole { .. } => "the middle",
        }
    }

    /// About as many tokens as it has at most, for planning memory: three bytes each.
    pub(super) fn tokens_about(&self) -> usize {
        let bytes = match self {
            Self::Text(text) | Self::Document(text) => text.len(),
            Self::Ids(ids) => return ids.len(),
            Self::Answer { prompt, response } => prompt.len() + response.len(),
            Self::Hole { prefix, middle, suffix } => prefix.len() + middle.len() + suffix.len(),
        };
        bytes / 3 + 1
    }
}

/// Everything that the flags name.
pub(super) fn sources(args: &Args) -> Result<Vec<Source>> {
    if let Some(ids) = &args.ids {
        return Ok(vec![Source { id: "ids".into(), body: Body::Ids(ids.0.clone()) }]);
    }
    if let Some(from) = &args.jsonl {
        return lines(from, args);
    }
    if let Some(body) = hole(args)? {
        return Ok(vec![Source { id: "middle".into(), body }]);
    }
    let mut sources = Vec::new();
    for path in &args.text {
        match path.is_dir() {
            true => folder(path, args, &mut sources)?,
            false => {
                let body = Body::Text(read_text(path)?);
                sources.push(Source { id: shown(path).into(), body });
            }
        }
    }
    Ok(sources)
}

/// The documents of a folder, as `lacuna pack` reads them.
fn folder(path: &Path, args: &Args, sources: &mut Vec<Source>) -> Result<()> {
    let under = shown(path);
    let under = under.trim_end_matches('/');
    let skipped = for_each_document(&[path], &args.filters.options(), &mut |_| {}, |document| {
        let id = format!("{under}/{}", document.path).into();
        sources.push(Source { id, body: Body::Document(document.text) });
        Ok(())
    })?;
    let lines = skipped_lines(&skipped);
    if !lines.is_empty() && !is_quiet() {
        note!("{under}:{}", lines.replace('\n', "\n  "));
    }
    Ok(())
}

/// Cuts what stands around the lines of a file down to the lines next to them, as many as are read at once with them, and
/// says so: as `lacuna fill` does.
pub(super) fn cut_to_fit(sources: &mut [Source], model: &Model, window: usize) -> Result<()> {
    /// Marks, and the tokens that texts take more than their lines one by one.
    const FRAME: usize = 64;
    for source in sources {
        let Body::Hole { prefix, middle, suffix } = &mut source.body else { continue };
        let tokenizer = model.tokenizer()?;
        let length = |text: &str| tokenizer.encode_ordinary(text).map(|ids| ids.len());
        let own = length(middle)? + FRAME;
        if own + length(prefix)? + length(suffix)? <= window {
            continue;
        }
        let whole = [prefix.as_str(), middle.as_str(), suffix.as_str()].concat();
        let part = prefix.len()..prefix.len() + middle.len();
        let seen = region::window(&whole, part, tokenizer, window.saturating_sub(own))?;
        let region::Window { first, last, of, .. } = seen;
        if seen.is_cut && !is_quiet() {
            note!("note: of the {of} lines the model sees {first} to {last}");
        }
        (*prefix, *suffix) = (seen.before.to_owned(), seen.after.to_owned());
    }
    Ok(())
}

/// The text around a middle, and the middle.
fn hole(args: &Args) -> Result<Option<Body>> {
    if let (Some(lines), [path]) = (&args.lines, &args.text[..]) {
        let file = UserFile::read(path)?;
        let range = lines.bytes(&file.text, &shown(path))?;
        let part = |text: &str| text.to_owned();
        return Ok(Some(Body::Hole {
            prefix: part(&file.text[..range.start]),
            middle: part(&file.text[range.clone()]),
            suffix: part(&file.text[range.end..]),
        }));
    }
    let (Some(prefix), Some(middle), Some(suffix)) = (&args.prefix, &args.middle, &args.suffix)
    else {
        return Ok(None);
    };
    let stdin = [prefix, middle, suffix].into_iter().filter(|path| *path == Path::new("-"));
    if stdin.count() > 1 {
        let message = "stdin can be one of --prefix, --middle and --suffix; give files for others";
        return Err(Usage(message.into()).into());
    }
    let (prefix, middle, suffix) = (read_text(prefix)?, read_text(middle)?, read_text(suffix)?);
    Ok(Some(Body::Hole { prefix, middle, suffix }))
}

const EXPECTED: &str = r#"{"text": …}, {"ids": [5, 6]}, {"prompt": …, "response": …} or {"prefix": …, "middle": …, "suffix": …}"#;

fn lines(from: &Path, args: &Args) -> Result<Vec<Source>> {
    if let Some(out) = args.out.as_deref().filter(|out| same_file(from, out)) {
        return Err(Usage(format!("--out {}: that is the file of texts", shown(out))).into());
    }
    let text = read_text(from)?;
    let fields = args.filters.options().text_fields;
    let body = |object| body(object, &fields);
    let objects = objects((&text, &name(from)), ("text", EXPECTED), true, body)?;
    Ok(objects.into_iter().map(|(id, body)| Source { id, body }).collect())
}

/// The forms of a line beside a text, each by its fields.
const FORMS: [&[&str]; 3] = [&["ids"], &["prompt", "response"], &["prefix", "middle", "suffix"]];

/// The part of a line that is to be scored, with what stands around it. The first of `text_fields` that it has is its text.
/// Other fields than those of its form are passed over: data sets have many.
fn body(mut object: Map<String, Value>, text_fields: &[String]) -> Result<Body, String> {
    let text_field: Vec<&str> = text_fields
        .iter()
        .map(String::as_str)
        .filter(|field| object.contains_key(*field))
        .take(1)
        .collect();
    let forms = [&text_field[..]].into_iter().chain(FORMS);
    let has_any = |form: &&[&str]| form.iter().any(|field| object.contains_key(*field));
    let form = match forms.filter(has_any).collect::<Vec<_>>()[..] {
        [form] => form,
        [] => return Err(format!("nothing to score; expected {EXPECTED}")),
        [one, other, ..] => {
            return Err(format!(
                "fields of two forms, `{}` and `{}`; expected {EXPECTED}",
                one.join("`, `"),
                other.join("`, `")
            ));
        }
    };
    if let Some(missing) = form.iter().find(|field| !object.contains_key(**field)) {
        return Err(format!("no `{missing}`; expected `{}`", form.join("`, `")));
    }
    let mut text = |field: &str| match object.remove(field) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(format!("`{field}` is no text")),
    };
    Ok(match *form {
        ["ids"] => Body::Ids(ids_of("ids", object.remove("ids").unwrap_or_default())?),
        [prompt, response] => Body::Answer { prompt: text(prompt)?, response: text(response)? },
        [prefix, middle, suffix] => {
            Body::Hole { prefix: text(prefix)?, middle: text(middle)?, suffix: text(suffix)? }
        }
        _ => Body::Text(text(form[0])?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(line: Value) -> Result<Body, String> {
        let Value::Object(object) = line else { unreachable!("an object") };
        body(object, &["text".to_owned(), "content".to_owned()])
    }

    #[test]
    fn a_line_is_what_its_fields_say_and_other_fields_are_passed_over() {
        assert!(
            matches!(parsed(json!({"text": "a", "label": 3})), Ok(Body::Text(text)) if text == "a")
        );
        assert!(matches!(parsed(json!({"content": "a"})), Ok(Body::Text(text)) if text == "a"));
        assert!(matches!(parsed(json!({"ids": [1, 2]})), Ok(Body::Ids(ids)) if ids == [1, 2]));
        let answer = parsed(json!({"prompt": "a", "response": "b"}));
        assert!(matches!(answer, Ok(Body::Answer { response, .. }) if response == "b"));
        let hole = parsed(json!({"prefix": "a", "middle": "b", "suffix": "c"}));
        assert!(matches!(hole, Ok(Body::Hole { middle, .. }) if middle == "b"));
        for (line, word) in [
            (json!({"contents": "a"}), "nothing to score"),
            (json!({"text": "a", "prompt": "b"}), "two forms"),
            (json!({"prompt": "b"}), "no `response`"),
            (json!({"prefix": "b", "middle": "c"}), "no `suffix`"),
            (json!({"text": 3}), "`text` is no text"),
            (json!({"ids": ["a"]}), "something else than token ids"),
        ] {
            let refused = parsed(line.clone()).err().unwrap();
            assert!(refused.contains(word), "{line}: {refused}");
        }
    }
}
