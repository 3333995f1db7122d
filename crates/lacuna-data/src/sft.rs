//! Chat samples for fine-tuning: JSON lines with `messages`, packed with only responses eligible.

use crate::chat::{ChatTemplate, Message, RenderOptions};
use crate::error::{Error, Result, io_error};
use crate::packing::{Packed, Packer};
use crate::tokenizer::Tokenizer;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

#[derive(Deserialize)]
struct Line {
    messages: Vec<Message>,
}

/// Packs the samples of `.jsonl[.gz|.zst]` files: one object with `messages` (`role`, `content`) a line.
///
/// Only what the assistant says is eligible; each sample ends with one to four supervised `eos`, drawn from
/// `seed` and the sample's number (choice 9).
///
/// # Errors
/// When a file is missing or unreadable, a line is no conversation, the template refuses it, or there is no
/// sample at all.
pub fn pack_chat(
    files: &[impl AsRef<Path>],
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    eos: u32,
    seed: u64,
    mut packer: Packer,
) -> Result<Packed> {
    let mut samples = 0;
    for path in files.iter().map(AsRef::as_ref) {
        for (number, line) in open(path)?.lines().enumerate() {
            let line = line.map_err(io_error(path, "read"))?;
            if line.trim().is_empty() {
                continue;
            }
            let at = |reason: String| Error::Corpus {
                path: path.to_owned(),
                reason: format!("line {}: {reason}", number + 1),
            };
            let Line { messages } = serde_json::from_str(&line).map_err(|error| {
                at(format!("an object with \"messages\" (role, content) is expected ({error})"))
            })?;
            let sample = template.sample(tokenizer, &messages, &RenderOptions::default());
            let mut sample = sample.map_err(|error| at(error.to_string()))?;
            sample.end(eos, seed, samples);
            packer.push_sample(&sample)?;
            samples += 1;
        }
    }
    if samples == 0 {
        return Err(Error::Packing("the files hold no conversation".to_owned()));
    }
    Ok(packer.finish())
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let file = lacuna_files::open_regular(path)?;
    let stream: Box<dyn Read> = match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(io_error(path, "read"))?),
        _ => Box::new(file),
    };
    Ok(Box::new(BufReader::new(stream)))
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
            &crate::SPECIAL_TOKENS,
        )
        .unwrap();
        let packer = Packer::new(64.try_into().unwrap(), Remainder::Pad(1));
        let template = ChatTemplate::seed_coder();
        let packed = pack_chat(&[&path], &template, &tokenizer, 2, 7, packer).unwrap();
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
