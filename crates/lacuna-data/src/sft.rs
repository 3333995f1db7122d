//! Packs conversations for fine-tuning, with only what the assistant says eligible.

use crate::corpus::{Reason, Skipped, is_hash_held_out};
use crate::error::{Error, Result};
use crate::packing::{Packed, Packer, Remainder, Sample};
use crate::packs::{PackReport, Packing};
use crate::records::Fault;
use crate::shard::{ShardFolders, ShardOptions, ShardWriter};
use conversation::{Conversation, EXPECTED, conversation};
use files::{Record, for_each_record};
use fit::{Fitter, Sink};
use lacuna_text::{ChatTemplate, RenderOptions, Tokenizer};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

mod conversation;
mod files;
mod fit;

/// The way in which samples of conversations share windows.
///
/// DIFFERENCE: the paper packs samples as it packs documents, [`RunOn`](Self::RunOn). Cut in two, the second half of a
/// conversation is learnt without its question, so samples that fit into a window are whole by default
/// (`samples_are_whole_and_those_that_fit_no_window_are_counted`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ChatPacking {
    /// Each sample stands in one window as a whole, beside as many others as fit; the rest of a window is padding.
    /// Samples longer than a window are passed over and counted.
    Whole,
    /// As `Whole`, and a sample that is longer than a window fills windows of its own: nothing is lost.
    #[default]
    SplitLong,
    /// Samples follow each other without a gap, and are cut where a window ends.
    RunOn,
}

/// Settings by which conversations become windows.
#[derive(Debug, Clone)]
pub struct ChatOptions<'a> {
    /// The format that conversations are written in.
    pub template: &'a ChatTemplate,
    /// Turns text into ids.
    pub tokenizer: &'a Tokenizer,
    /// The token that ends each sample.
    pub eos: u32,
    /// The fewest and the most end tokens behind a sample: each number between them is drawn as often as another.
    pub closing_eos: (u32, u32),
    /// The token that fills windows.
    pub pad: u32,
    /// The number of tokens that every window holds.
    pub window_len: NonZeroUsize,
    /// The way in which samples share windows.
    pub packing: ChatPacking,
    /// The part of the conversations that is kept out of training, chosen by the hash of what is said in them.
    pub held_out: f64,
    /// The source of the numbers of end tokens.
    pub seed: u64,
}

impl<'a> ChatOptions<'a> {
    /// The paper's settings: one to four end tokens (choice 9); samples whole, none held out.
    pub fn new(
        template: &'a ChatTemplate,
        tokenizer: &'a Tokenizer,
        eos: u32,
        window_len: NonZeroUsize,
    ) -> Self {
        Self {
            template,
            tokenizer,
            eos,
            closing_eos: (1, 4),
            pad: eos,
            window_len,
            packing: ChatPacking::Whole,
            held_out: 0.0,
            seed: 0,
        }
    }
}

/// Conversations as windows in memory.
#[derive(Debug)]
pub struct PackedChat {
    /// Windows to train on.
    pub train: Packed,
    /// Windows of the conversations that were held out.
    pub held_out: Packed,
    /// The conversations that were passed over.
    pub skipped: Skipped,
}

/// Packs the conversations of files: one a line (`.jsonl`) or the elements of one array (`.json`), either also as `.gz`
/// and `.zst`, or rows of `.parquet` files.
///
/// A record is an object with `messages` (`role`, `content`), with ShareGPT's `conversations` (`from`,
/// `value`), or a pair of texts: `prompt` and `completion`, or `instruction`, `input` and `output`. Only what
/// the assistant says is eligible, unless its turn has `"weight": 0`; each sample ends with one to four
/// supervised `eos`, drawn from the seed and the sample's number (choice 9). Records that can't be used are
/// passed over, counted and named.
///
/// Where every conversation would be held out though a small part was asked for, none is.
///
/// # Errors
/// When a file is missing, unreadable or damaged, there is no conversation at all, or none is left to train on.
pub fn pack_chat(files: &[impl AsRef<Path>], options: &ChatOptions<'_>) -> Result<PackedChat> {
    let packer = || Packer::new(options.window_len, Remainder::Pad(options.pad));
    let mut parts = Parts::new(packer(), packer(), options);
    let taken = parts.take_all(files, options, &mut |_| {});
    let all = parts.samples > 0 && parts.samples == parts.held_out_samples;
    if taken.is_err() && all && options.held_out < 0.5 {
        // Of very few conversations all can be held out: then it is better to learn from them than not to start.
        return pack_chat(files, &ChatOptions { held_out: 0.0, ..options.clone() });
    }
    taken?;
    let skipped = std::mem::take(&mut parts.skipped);
    let (train, held_out) = parts.finish()?;
    Ok(PackedChat { train: train.finish(), held_out: held_out.finish(), skipped })
}

/// As [`pack_chat`], into the folders `train` and `held-out` of `out`, which get their names when both are whole.
/// `shard_tokens` is the number of tokens that close a shard.
///
/// # Errors
/// As [`pack_chat`], and when the disk refuses. Then nothing of the packing is left.
pub fn pack_chat_shards(
    files: &[impl AsRef<Path>],
    options: &ChatOptions<'_>,
    out: &Path,
    shard_tokens: usize,
    progress: &mut dyn FnMut(Packing),
) -> Result<PackReport> {
    let folders = ShardFolders::begin(out)?;
    let writer = |folder: &Path| {
        let settings = ShardOptions {
            window_len: options.window_len,
            remainder: Remainder::Pad(options.pad),
            vocab_size: options.tokenizer.vocab_size(),
            tokenizer: options.tokenizer.fingerprint(),
            shard_tokens,
        };
        ShardWriter::create(folder, settings)
    };
    let mut parts = Parts::new(writer(folders.train())?, writer(folders.held_out())?, options);
    parts.take_all(files, options, progress)?;
    let skipped = std::mem::take(&mut parts.skipped);
    let Parts { samples, held_out_samples, tokens, text_bytes, .. } = parts;
    let (mut train, held_out) = parts.finish()?;
    train.note_passed_over(skipped.lines());
    let train = train.finish()?;
    let held_out = if held_out_samples > 0 { Some(held_out.finish()?) } else { None };
    let renamed = folders.publish(held_out.is_some())?;
    Ok(PackReport {
        documents: samples,
        held_out_documents: held_out_samples,
        rewritten_documents: 0,
        tokens,
        text_bytes,
        skipped,
        train,
        held_out,
        renamed,
    })
}

/// Both parts of a packing under way.
struct Parts<S> {
    train: Fitter<S>,
    held_out: Fitter<S>,
    /// Conversations that could be read, those that fit into no window too: the number of the next one.
    read: u64,
    samples: usize,
    held_out_samples: usize,
    tokens: u64,
    text_bytes: u64,
    skipped: Skipped,
    /// The first record that could not be used: its file, its line, and why.
    first_fault: Option<(PathBuf, usize, String)>,
}

impl<S: Sink> Parts<S> {
    fn new(train: S, held_out: S, options: &ChatOptions<'_>) -> Self {
        Self {
            train: Fitter::new(train, options),
            held_out: Fitter::new(held_out, options),
            read: 0,
            samples: 0,
            held_out_samples: 0,
            tokens: 0,
            text_bytes: 0,
            skipped: Skipped::default(),
            first_fault: None,
        }
    }

    fn take_all(
        &mut self,
        files: &[impl AsRef<Path>],
        options: &ChatOptions<'_>,
        progress: &mut dyn FnMut(Packing),
    ) -> Result<()> {
        let end_of_turn = options.template.end_of_turn(options.tokenizer);
        for_each_record(files, &mut |record, reading| {
            progress(Packing { reading, tokens: self.tokens });
            self.take(&record, options, end_of_turn)
        })?;
        if self.samples > self.held_out_samples {
            return Ok(());
        }
        if self.samples > 0 {
            return Err(Error::Packing(format!(
                "all {} conversations are held out, by the hash of what is said in them; --held-out 0, \
                 sft.held_out = 0 takes them",
                self.samples
            )));
        }
        let skipped = &self.skipped;
        if skipped.count(Reason::LongerThanWindow) > 0 {
            return Err(Error::Packing(format!(
                "no conversation fits into a window of {} tokens; {skipped}",
                options.window_len
            )));
        }
        let Some((path, line, words)) = self.first_fault.take() else {
            return Err(Error::Packing(format!("the files hold no conversation; {skipped}")));
        };
        let reason = format!("line {line}: {EXPECTED}; here: {words}; {skipped}");
        Err(Error::Corpus { path, reason })
    }

    fn take(
        &mut self,
        record: &Record<'_>,
        options: &ChatOptions<'_>,
        end_of_turn: Option<u32>,
    ) -> Result<()> {
        let Record { bytes, at, line, path } = record;
        let Some(bytes) = bytes else {
            self.skipped.add(Reason::TooLong, at);
            return Ok(());
        };
        let made = conversation(bytes).and_then(|conversation| {
            let sample = sample(&conversation, options, at, &mut self.skipped)?;
            Ok((sample, is_hash_held_out(conversation.hash(), options.held_out)))
        });
        let ((mut sample, ends), is_held_out) = match made {
            Ok(made) => made,
            Err(Fault { reason, words }) => {
                self.skipped.add(reason, format!("{at} ({words})"));
                self.first_fault.get_or_insert((path.to_path_buf(), *line, words));
                return Ok(());
            }
        };
        end_with_turn(&mut sample, end_of_turn, options.tokenizer);
        let length = sample.tokens.len();
        sample.end_with(options.eos, options.closing_eos, options.seed, self.read);
        self.read += 1;
        if !ends {
            let length = length.min(sample.tokens.len());
            sample.supervised[length..].fill(false);
        }
        let (window, tokens) = (options.window_len, sample.tokens.len());
        if options.packing == ChatPacking::Whole && tokens > window.get() {
            let words = format!("{tokens} tokens, a window has {window}");
            self.skipped.add(Reason::LongerThanWindow, format!("{at} ({words})"));
            return Ok(());
        }
        self.samples += 1;
        self.held_out_samples += usize::from(is_held_out);
        self.tokens += tokens as u64;
        self.text_bytes += bytes.len() as u64;
        let part = if is_held_out { &mut self.held_out } else { &mut self.train };
        part.push(sample, bytes.len())
    }

    fn finish(self) -> Result<(S, S)> {
        Ok((self.train.finish()?, self.held_out.finish()?))
    }
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
    chat: &ChatOptions<'_>,
    at: &str,
    skipped: &mut Skipped,
) -> Result<(Sample, bool), Fault> {
    let ChatOptions { template, tokenizer, .. } = chat;
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
        let template = ChatTemplate::seed_coder();
        let options = ChatOptions::new(&template, &tokenizer, 2, 64.try_into().unwrap());
        let PackedChat { train: packed, held_out, skipped } =
            pack_chat(&[&path], &options).unwrap();
        assert!(skipped.is_empty() && held_out.windows() == 0);
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
        let error = pack_chat(&[&empty], &options).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
