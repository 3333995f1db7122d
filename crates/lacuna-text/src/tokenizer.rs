//! Turns text into token ids and back.

use crate::error::{Error, Result};
use crate::side::{ModelFiles, Settings};
use std::path::Path;
use std::sync::OnceLock;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

mod additions;
mod check;
mod file;
mod json;
mod model;
mod parts;
mod patterns;

/// The special tokens of a tokenizer that [`Tokenizer::train_bpe`] makes, in order of their ids.
///
/// Spelt as in the released Stable-DiffCoder tokenizer, and with its ids where the format depends
/// on them: begin of sentence 0, padding 1, end of sentence 2, mask 5.
pub const SPECIAL_TOKENS: [&str; 7] = [
    "<[begin▁of▁sentence]>",
    "<[PAD▁TOKEN]>",
    "<[end▁of▁sentence]>",
    "<[fim-prefix]>",
    "<[fim-suffix]>",
    "<[MASK_TOKEN]>",
    "<[fim-middle]>",
];

/// The most tokens that are learnt: more than any vocabulary has, and room for them is there.
const MOST_TRAINED: usize = 1 << 24;

/// The pattern by which the released tokenizers cut text before merging: words with at most one
/// leading mark, digits one by one, runs of punctuation, line ends, other white space.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Turns text into token ids and back, as a `tokenizer.json` says.
///
/// Cheap to share behind an `Arc`; all methods take `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same with special tokens unknown, made when first wanted.
    ordinary: OnceLock<Box<tokenizers::Tokenizer>>,
    /// The bytes that each id adds to decoded text, made when first wanted.
    pieces: OnceLock<Pieces>,
    vocab_size: usize,
    notes: Vec<String>,
    is_extended: bool,
}

/// The largest that models come with have 35 MB.
const LONGEST_FILE: u64 = 256 << 20;

impl Tokenizer {
    /// Reads a tokenizer. Beside a `tokenizer.json` the other files of its folder that name tokens are read too.
    ///
    /// # Errors
    /// When the file is missing, cut short, or not a tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = lacuna_files::read_file(path, LONGEST_FILE)?;
        let settings = match path.file_name().is_some_and(|name| name == "tokenizer.json") {
            true => beside(path)?,
            false => Settings::default(),
        };
        Self::parse(&bytes, None, &settings, &path.display().to_string())
    }

    /// Reads a `tokenizer.json` that is already in memory.
    ///
    /// # Errors
    /// When the bytes are cut short or not a tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::parse(bytes, None, &Settings::default(), "in memory")
    }

    /// Reads the tokenizer of a model that embeds `rows` tokens; `file` is where it was found.
    ///
    /// # Errors
    /// When the bytes are cut short, not a tokenizer, or a tokenizer of more tokens; the error names `file`.
    pub fn of_model(bytes: &[u8], rows: usize, file: &Path) -> Result<Self> {
        Self::parse(bytes, Some(rows), &Settings::default(), &file.display().to_string())
    }

    /// As [`of_model`](Self::of_model), with what the checkpoint's other files say of tokens.
    ///
    /// # Errors
    /// As [`of_model`](Self::of_model).
    pub fn of_checkpoint(
        bytes: &[u8],
        rows: usize,
        settings: &Settings,
        file: &Path,
    ) -> Result<Self> {
        Self::parse(bytes, Some(rows), settings, &file.display().to_string())
    }

    /// Tells whether [`of_model`](Self::of_model) would read them, at a fraction of the cost.
    ///
    /// # Errors
    /// As [`of_model`](Self::of_model), short of a few faults that show only when it is built.
    pub fn check(bytes: &[u8], rows: usize, file: &Path) -> Result<()> {
        let name = file.display().to_string();
        check::check(bytes, rows).map_err(|reason| Error::Tokenizer { name, reason })
    }

    fn parse(bytes: &[u8], rows: Option<usize>, settings: &Settings, name: &str) -> Result<Self> {
        let fault = |reason| Error::Tokenizer { name: name.to_owned(), reason };
        let check::Checked { inner, last, notes, is_extended } =
            check::read(bytes, rows, settings).map_err(fault)?;
        let mut tokenizer = Self::new(inner, last, name)?;
        (tokenizer.notes, tokenizer.is_extended) = (notes, is_extended);
        Ok(tokenizer)
    }

    /// Tells whether other files than `tokenizer.json` had a part in it.
    pub fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// Things that the checkpoint's files say of tokens and that could not be followed, a sentence
    /// each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn new(mut inner: tokenizers::Tokenizer, last: Option<u32>, name: &str) -> Result<Self> {
        // A file may ask for truncation or padding to a model's length: training and scoring must
        // see every token.
        inner.with_padding(None);
        let no_truncation = inner.with_truncation(None).is_ok();
        debug_assert!(no_truncation, "removing truncation cannot fail");
        let Some(last) = last.filter(|&last| last < u32::MAX) else {
            let reason = "its vocabulary is empty or has no last id".to_owned();
            return Err(Error::Tokenizer { name: name.to_owned(), reason });
        };
        let vocab_size = last as usize + 1;
        let (ordinary, pieces) = (OnceLock::new(), OnceLock::new());
        Ok(Self { inner, ordinary, pieces, vocab_size, notes: Vec::new(), is_extended: false })
    }

    /// Trains a byte-level BPE of `vocab_size` tokens, special tokens and 256 bytes included.
    ///
    /// Text is cut into words as the released tokenizers do, digits one by one. The same documents
    /// in any order give the same bytes on every machine.
    ///
    /// DIFFERENCE: the released tokenizers normalise to NFC first, which loses other spellings of a
    /// letter; ours returns every text unchanged (`decoding_returns_the_text`).
    ///
    /// # Errors
    /// When `vocab_size` has no room for the bytes and special tokens, or the documents hold too
    /// little text for that many tokens.
    pub fn train_bpe<S: AsRef<str> + Send>(
        documents: impl Iterator<Item = S> + Send,
        vocab_size: usize,
        special_tokens: &[&str],
    ) -> Result<Self> {
        let fail = |reason: String| Error::Tokenizer { name: "in training".to_owned(), reason };
        let least = 256 + special_tokens.len();
        if vocab_size <= least {
            return Err(fail(format!(
                "{vocab_size} tokens asked for, but bytes and special tokens alone are {least}"
            )));
        }
        // The trainer makes room for all that is asked for, and no text gives more than a token a byte.
        let documents: Vec<S> = documents.collect();
        let bytes = documents.iter().map(|text| text.as_ref().len()).sum::<usize>();
        let room = vocab_size.min(least.saturating_add(bytes)).min(MOST_TRAINED);
        let split = Split::new(
            SplitPattern::Regex(WORDS.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(|error| fail(error.to_string()))?;
        let byte_level = ByteLevel::new(false, true, false);
        let words: Vec<PreTokenizerWrapper> = vec![split.into(), byte_level.into()];
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(Sequence::new(words)));
        inner.with_decoder(Some(ByteLevel::new(false, true, false)));
        let special_tokens =
            special_tokens.iter().map(|&token| AddedToken::from(token, true)).collect();
        let trainer = BpeTrainer::builder()
            .vocab_size(room)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(special_tokens)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        inner
            .train(&mut TrainerWrapper::from(trainer), documents.into_iter())
            .map_err(|error| fail(error.to_string()))?;
        let last = inner.get_vocab(true).into_values().max();
        let trained = Self::new(inner, last, "in training")?;
        if trained.vocab_size != vocab_size {
            return Err(fail(format!(
                "{vocab_size} tokens asked for, but the text gives only {}",
                trained.vocab_size
            )));
        }
        Ok(trained)
    }

    /// The ids of `text`. Special tokens spelt out in it become their ids; none is added.
    ///
    /// # Errors
    /// When the tokenizer's own rules fail on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        encode_with(&self.inner, text, false)
    }

    /// The ids of `text` with the special tokens that the tokenizer puts around a text.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>> {
        encode_with(&self.inner, text, true)
    }

    /// The ids of `text`, in which a special token spelt out is ordinary text.
    ///
    /// For text that others wrote: a source file that mentions the mask token must not bring the
    /// mask's id into the training data, nor a user's message end the turn.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        let ordinary = self.ordinary.get_or_init(|| {
            let mut ordinary = self.inner.clone();
            ordinary.set_encode_special_tokens(true);
            Box::new(ordinary)
        });
        encode_with(ordinary, text, false)
    }

    /// [`encode_ordinary`](Self::encode_ordinary) of a text that goes on another one: without the space that SentencePiece
    /// puts before a text.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_behind(&self, text: &str) -> Result<Vec<u32>> {
        // As the released code of Code Llama and Mistral does it: a character that merges with nothing is put before the
        // text, and its ids are taken off again.
        const BEFORE: &str = "☺";
        let first = self.encode("a")?.first().and_then(|&id| self.id_to_token(id));
        let is_spaced = first.is_some_and(|token| token.starts_with('▁'));
        if text.is_empty() || !is_spaced {
            return self.encode_ordinary(text);
        }
        let before = self.encode_ordinary(BEFORE)?;
        let mut ids = self.encode_ordinary(&format!("{BEFORE}{text}"))?;
        if !ids.starts_with(&before) {
            return self.encode_ordinary(text);
        }
        Ok(ids.split_off(before.len()))
    }

    /// The text of `ids`, special tokens left out.
    ///
    /// # Errors
    /// When the tokenizer's own decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        decode_with(&self.inner, ids, true)
    }

    /// The text of `ids`, special tokens spelt out.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with_special_tokens(&self, ids: &[u32]) -> Result<String> {
        decode_with(&self.inner, ids, false)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The vocabulary's spelling of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The added token that a text begins with, if it begins with one.
    pub(crate) fn leading_added_token(&self, text: &str) -> Option<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let found = added.iter().filter(|(_, token)| text.starts_with(&token.content));
        found.max_by_key(|(_, token)| token.content.len()).map(|(id, _)| *id)
    }

    /// True for ids that [`decode`](Self::decode) leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces().special.get(id as usize).copied().unwrap_or(false)
    }

    /// The spellings of all special tokens, in order of their ids.
    pub fn special_tokens(&self) -> Vec<&str> {
        self.pieces().special_tokens.iter().map(String::as_str).collect()
    }

    /// The largest id plus one: what an embedding must at least hold.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The number of bytes of text that each id stands for; 0 for special tokens and unused ids.
    ///
    /// Bits per byte = nats / ln 2 / the sum of these over the scored tokens.
    pub fn token_bytes(&self) -> Vec<u32> {
        let pieces = self.pieces();
        let length = |id: usize| if pieces.special[id] { 0 } else { pieces.get(id).len() as u32 };
        (0..self.vocab_size).map(length).collect()
    }

    /// The bytes that a token adds to a text that has begun; a special token's are its spelling.
    ///
    /// A character may be cut between tokens, so they need not be text by themselves.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn bytes_of(&self, id: u32) -> Result<Vec<u8>> {
        if self.pieces().joinable {
            return Ok(self.pieces().get(id as usize).to_vec());
        }
        if let Some(byte) = self.byte(id) {
            return Ok(vec![byte]);
        }
        // Some decoders leave a text's first space out: the second of two is spelt whole.
        let once = self.decode_with_special_tokens(&[id])?;
        let twice = self.decode_with_special_tokens(&[id, id])?;
        Ok(twice.strip_prefix(&once).unwrap_or(&once).as_bytes().to_vec())
    }

    /// The byte of a byte-fallback token.
    pub(crate) fn byte(&self, id: u32) -> Option<u8> {
        let token = self.inner.id_to_token(id).filter(|token| is_byte_token(token))?;
        u8::from_str_radix(&token[3..5], 16).ok()
    }

    /// The blake3 hash of the tokenizer, in hexadecimal: equal hashes, equal ids.
    pub fn fingerprint(&self) -> String {
        let json = self.inner.to_string(false).expect("a loaded tokenizer serialises");
        blake3::hash(json.as_bytes()).to_hex().to_string()
    }

    /// The tokenizer as `tokenizer.json`.
    pub fn to_json(&self) -> String {
        let mut json = self.inner.to_string(true).expect("a loaded tokenizer serialises");
        json.push('\n');
        json
    }

    /// Writes `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(lacuna_files::write_file(path.as_ref(), self.to_json().as_bytes())?)
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        self.pieces.get_or_init(|| Pieces::new(&self.inner, self.vocab_size))
    }
}

/// The bytes of every token, one after the other.
#[derive(Debug)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    special: Vec<bool>,
    special_tokens: Vec<String>,
    /// Ids whose text depends on their neighbours (byte fallback) or that have no text at all.
    pub(crate) open: Vec<bool>,
    /// Tells whether the bytes of a text are exactly its tokens' bytes, joined.
    pub(crate) joinable: bool,
}

impl Pieces {
    fn new(inner: &tokenizers::Tokenizer, vocab_size: usize) -> Self {
        let joinable = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let byte_of = byte_of_char();
        let mut special = vec![false; vocab_size];
        for (id, token) in inner.get_added_tokens_decoder() {
            special[id as usize] = token.special;
        }
        let named = (0..vocab_size).filter(|&id| special[id]);
        let special_tokens = named.filter_map(|id| inner.id_to_token(id as u32)).collect();
        let (bytes, ends, open) = (vec![], vec![], vec![]);
        let mut pieces = Self { bytes, ends, special, special_tokens, open, joinable };
        for id in 0..vocab_size as u32 {
            let token = inner.id_to_token(id).unwrap_or_default();
            pieces.open.push(token.is_empty() || is_byte_token(&token));
            if joinable {
                // As the decoder does: a token with any foreign character stands for itself.
                let mapped: Option<Vec<u8>> =
                    token.chars().map(|c| byte_of.get(c as usize).copied().flatten()).collect();
                pieces.bytes.extend(mapped.unwrap_or_else(|| token.into_bytes()));
            } else if is_byte_token(&token) {
                pieces.bytes.push(0);
            } else {
                pieces.bytes.extend(token.replace('▁', " ").bytes());
            }
            pieces.ends.push(u32::try_from(pieces.bytes.len()).expect("a vocabulary under 4 GB"));
        }
        pieces
    }

    pub(crate) fn get(&self, id: usize) -> &[u8] {
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }
}

/// `<0x0A>`: a byte-fallback token.
fn is_byte_token(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

/// The inverse of byte-level BPE's printable spelling of bytes: indexed by character, below 0x144.
fn byte_of_char() -> Vec<Option<u8>> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut table = vec![None; 0x144];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        if printable(byte) {
            table[usize::from(byte)] = Some(byte);
        } else {
            table[next] = Some(byte);
            next += 1;
        }
    }
    table
}

fn encode_with(inner: &tokenizers::Tokenizer, text: &str, special: bool) -> Result<Vec<u32>> {
    Ok(inner.encode_fast(text, special).map_err(in_use)?.get_ids().to_vec())
}

/// Some of the library's decoders count on a token.
fn decode_with(inner: &tokenizers::Tokenizer, ids: &[u32], skip_special: bool) -> Result<String> {
    let special = |token: &str| inner.get_added_vocabulary().is_special_token(token);
    let has_text =
        |id: &u32| inner.id_to_token(*id).is_some_and(|token| !(skip_special && special(&token)));
    if !ids.iter().any(has_text) {
        return Ok(String::new());
    }
    inner.decode(ids, skip_special).map_err(in_use)
}

/// The settings in the folder of a `tokenizer.json`.
fn beside(tokenizer: &Path) -> Result<Settings> {
    let folder = tokenizer.parent().unwrap_or(Path::new("."));
    Settings::read(&ModelFiles::of_tokenizer(folder)?, folder)
}

fn in_use(error: tokenizers::Error) -> Error {
    Error::Tokenizer { name: "in use".to_owned(), reason: error.to_string() }
}
