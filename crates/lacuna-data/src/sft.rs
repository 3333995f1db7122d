//! Packs conversations for fine-tuning, with only what the assistant says eligible.

use crate::corpus::{Reason, Skipped};
use crate::error::{Error, Result};
use crate::packing::{Packed, Packer, Sample};
use crate::records::{Fault, Records, Shape, at, stopped, unpacked};
use conversation::{Conversation, EXPECTED, conversation};
use lacuna_text::{ChatTemplate, RenderOptions, Tokenizer};
use std::io::BufReader;
use std::path::Path;

mod conversation;

/// No conversation is longer: what is has lost its line breaks.
const LONGEST: usize = 64 << 20;

/// Packs the conversations of files, one a line (`.jsonl`) or as the elements of one array (`.json`), either
/// also as `.gz` and `.zst`; and what was passed over.
///
/// A record is an object with `messages` (`role`, `content`), with ShareGPT's `conversations` (`from`,
/// `value`), or a pair of texts: `prompt` and `completion`, or `instruction`, `input` and `output`. Only what
/// the assistant says is eligible, unless its turn has `"weight": 0`; each sample ends with one to four
/// supervised `eos`, drawn from `seed` and the sample's number (choice 9). Records that can't be used are
/// passed over, counted and named.
///
/// # Errors
/// When a file is missing, unreadable or damaged, or there is no conversation at all.
pub fn pack_chat(
    files: &[impl AsRef<Path>],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    eos: u32,
    seed: u64,
    mut packer: Packer,
) -> Result<(Packed, Skipped)> {
    let end_of_turn = template.end_of_turn(tokenizer);
    let (mut samples, mut skipped) = (0, Skipped::default());
    let mut first = None;
    for path in files.iter().map(AsRef::as_ref) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let reason = "a folder; name the files with the conversations".to_owned();
            return Err(Error::Corpus { path: path.to_owned(), reason });
        }
        let file = lacuna_files::open_regular(path)?;
        let stop = |line, error| stopped(path, "", Some(line), error);
        let stream = unpacked(&name.to_ascii_lowercase(), BufReader::new(file));
        let mut records = stream
            .and_then(|stream| Records::new(stream, LONGEST))
            .map_err(|error| stop(1, error))?;
        if records.shape() == Shape::Utf16 {
            let reason = "UTF-16, expected UTF-8; convert it first".to_owned();
            return Err(Error::Corpus { path: path.to_owned(), reason });
        }
        loop {
            let next = records.next();
            let Some((place, record)) = next.map_err(|error| stop(records.line(), error))? else {
                break;
            };
            let at = at(&name, place);
            let Some(record) = record else {
                skipped.add(Reason::TooLong, at);
                continue;
            };
            let sample = conversation(&record).and_then(|conversation| {
                sample(&conversation, template, tokenizer, &at, &mut skipped)
            });
            match sample {
                Ok((mut sample, ends)) => {
                    end_with_turn(&mut sample, end_of_turn, tokenizer);
                    let length = sample.tokens.len();
                    sample.end(eos, seed, samples);
                    if !ends {
                        let length = length.min(sample.tokens.len());
                        sample.supervised[length..].fill(false);
                    }
                    packer.push_sample(&sample)?;
                    samples += 1;
                }
                Err(Fault { reason, words }) => {
                    skipped.add(reason, format!("{at} ({words})"));
                    first.get_or_insert((path.to_owned(), place.line, words));
                }
            }
        }
    }
    if samples > 0 {
        return Ok((packer.finish(), skipped));
    }
    let Some((path, line, words)) = first else {
        return Err(Error::Packing(format!("the files hold no conversation; {skipped}")));
    };
    let reason = format!("line {line}: {EXPECTED}; here: {words}; {skipped}");
    Err(Error::Corpus { path, reason })
}

/// Leaves out the white space that a template writes between a turn's end and the next turn, where none follows.
fn end_with_turn(sample: &mut Sample, end_of_turn: Option<u32>, tokenizer: &Tokenizer) {
    let last = sample.tokens.iter().rposition(|token| Some(*token) == end_of_turn);
    let Some(rest) = last.map(|last| last + 1) else { return };
    let text = tokenizer.decode_with_special_tokens(&sample.tokens[rest..]);
    if text.is_ok_and(|text| text.trim().is_empty()) {
        sample.tokens.truncate(rest);
        sample.supervised.truncate(rest);
    }
}

/// The sample of a conversation, and whether its end is learnt.
fn sample(
    conversation: &Conversation,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    at: &str,
    skipped: &mut Skipped,
) -> Result<(Sample, bool), Fault> {
    let Conversation { messages, learnt, without_calls, tools } = conversation;
    let options = RenderOptions { tools: tools.clone(), ..RenderOptions::default() };
    let refused = |error: &dyn std::fmt::Display| Fault::new(Reason::Refused, error.to_string());
    let mut learnt = learnt.clone();
    let text = template.render(messages, &options).map_err(|error| {
        // The turn that the template refuses.
        refused(&template.responses(messages, &options).err().unwrap_or(error))
    })?;
    for (turn, plain) in without_calls.iter().enumerate() {
        let Some(plain) = plain else { continue };
        let mut without = messages.clone();
        without[turn] = plain.clone();
        if template.render(&without, &options).is_ok_and(|without| without == text) {
            skipped.add(Reason::ToolCall, format!("{at} (turn {})", turn + 1));
            // A turn that says nothing would be learnt as silence.
            learnt[turn] &= !plain.content.is_empty();
        }
    }
    if !learnt.contains(&true) {
        return Err(Fault::new(Reason::NothingSupervised, "no turn is to be learnt"));
    }
    let sample =
        Sample::from_chat_where(template, tokenizer, messages, &options, &|turn| learnt[turn]);
    let last_is_assistant = messages.last().is_some_and(|message| message.role == "assistant");
    let ends = !last_is_assistant || learnt.last() == Some(&true);
    Ok((sample.map_err(|error| refused(&error))?, ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packing::Remainder;

    #[test]
    fn only_responses_and_their_ends_are_eligible() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        let line =
            r#"{"messages":[{"role":"user","content":"2+2"},{"role":"assistant","content":"4"}]}"#;
        std::fs::write(&path, format!("{line}\n\n{line}\n")).unwrap();
        let tokenizer = Tokenizer::train_bpe(
            ["user assistant 2+2 4 abc abd abe".repeat(30)].into_iter(),
            270,
            &lacuna_text::SPECIAL_TOKENS,
        )
        .unwrap();
        let packer = Packer::new(64.try_into().unwrap(), Remainder::Pad(1));
        let template = ChatTemplate::seed_coder();
        let (packed, skipped) = pack_chat(&[&path], &template, &tokenizer, 2, 7, packer).unwrap();
        assert!(skipped.is_empty());
        assert_eq!(packed.documents(), 2);
        let (mut ends, mut answers) = (0, 0);
        for window in (0..packed.windows()).map(|i| packed.window(i)) {
            for (token, eligible) in window.tokens.iter().zip(&window.eligible) {
                let text = tokenizer.decode_with_special_tokens(&[*token]).unwrap();
                match (*eligible, text.as_str()) {
                    (true, "4") => answers += 1,
                    (true, _) => {
                        assert_eq!(*token, 2, "{text} is supervised");
                        ends += 1;
                    }
                    (false, _) => {}
                }
            }
        }
        assert_eq!(answers, 2);
        assert!((2..=8).contains(&ends), "{ends} ends");
        let empty = folder.path().join("empty.jsonl");
        std::fs::write(&empty, "{}\n").unwrap();
        let packer = Packer::new(64.try_into().unwrap(), Remainder::Pad(1));
        let error = pack_chat(&[&empty], &template, &tokenizer, 2, 7, packer).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
