//! Counts what was passed over, why, and where first.

use std::collections::BTreeMap;
use std::fmt;

/// The number of places that are named for each reason.
const NAMED: usize = 3;

/// The reason why a file, a member of an archive, a line or a conversation was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Above [`CorpusOptions::max_document_bytes`](crate::CorpusOptions::max_document_bytes).
    TooLarge,
    /// Holding a zero byte.
    Binary,
    /// Text in another encoding than UTF-8.
    NotUtf8,
    /// Text in UTF-16, by its byte order mark.
    Utf16,
    /// Without a single byte.
    Empty,
    /// With another ending than those asked for.
    OtherEnding,
    /// Of another language than those asked for.
    OtherLanguage,
    /// The same text as one that was taken before.
    Duplicate,
    /// Written by a program, as its first lines say.
    Generated,
    /// With lines that nobody wrote by hand.
    LongLines,
    /// With few letters and digits.
    FewLetters,
    /// A file or folder whose name begins with a dot.
    Hidden,
    /// A file or folder that a `.gitignore` or `.ignore` names.
    Ignored,
    /// Compressed, or in columns: a format that holds text and is not read.
    OtherFormat,
    /// Neither file nor folder: a device, a pipe, a socket, a link in an archive.
    NotAFile,
    /// A link to nothing.
    BrokenLink,
    /// A link to a folder that the link itself stands in.
    CircularLink,
    /// A link to what is read already.
    Again,
    /// The operating system refused.
    Unreadable,
    /// Compressed data that is cut short or damaged; what stands before the damage is read.
    Damaged,
    /// A line or record that is not JSON.
    NotJson,
    /// A line or record without the text that is asked for.
    NoText,
    /// Text with half of a character, which JSON can spell and UTF-8 can't.
    HalfCharacter,
    /// A conversation of more bytes than any has: its line breaks are lost.
    TooLong,
    /// A line or record that is no conversation.
    NoConversation,
    /// A turn with an image, a sound or another thing that is not text.
    NotTrainable,
    /// A conversation of more tokens than a window has.
    LongerThanWindow,
    /// A conversation that the chat template refuses.
    Refused,
    /// A conversation of which nothing is to be learnt: all of the assistant's turns have weight 0.
    NothingSupervised,
    /// A call of a tool that the chat template does not write; the rest of its conversation is read.
    ToolCall,
}

impl Reason {
    /// For people: what stands behind the number.
    pub fn words(self) -> &'static str {
        match self {
            Self::TooLarge => "too large",
            Self::Binary => "binary",
            Self::NotUtf8 => "not UTF-8",
            Self::Utf16 => "UTF-16, not UTF-8",
            Self::Empty => "empty",
            Self::OtherEnding => "of other endings",
            Self::OtherLanguage => "of other languages",
            Self::Duplicate => "the same as one before",
            Self::Generated => "written by a program",
            Self::LongLines => "with lines longer than people write",
            Self::FewLetters => "with few letters and digits",
            Self::Hidden => "hidden",
            Self::Ignored => "named by an ignore file",
            Self::OtherFormat => "in a format that is not read",
            Self::NotAFile => "neither file nor folder",
            Self::BrokenLink => "links to nothing",
            Self::CircularLink => "links in a circle",
            Self::Again => "links to what is read already",
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged or cut short",
            Self::NotJson => "not JSON",
            Self::NoText => "without text",
            Self::HalfCharacter => "with half a character (a lone surrogate)",
            Self::TooLong => "longer than 64 MiB",
            Self::NoConversation => "not a conversation",
            Self::NotTrainable => "with what is not text",
            Self::LongerThanWindow => "longer than a window",
            Self::Refused => "refused by the chat template",
            Self::NothingSupervised => "with no turn to learn",
            Self::ToolCall => "calls of tools that the chat template does not write",
        }
    }

    /// The option that makes it be read, if any does.
    fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::TooLarge => "--max-document-bytes, data.max_document_bytes",
            Self::Binary => "--take-binary, data.take_binary",
            Self::Hidden => "--take-hidden, data.take_hidden",
            Self::Ignored => "--take-ignored, data.take_ignored",
            Self::OtherEnding => "--extension, data.extensions",
            Self::OtherLanguage => "--languages, data.languages",
            Self::Duplicate => "--take-duplicates, data.take_duplicates",
            Self::Generated => "by --skip-generated, data.skip_generated",
            Self::LongLines | Self::FewLetters => "by --skip-minified, data.skip_minified",
            Self::LongerThanWindow => "--packing split-long, sft.packing",
            Self::NoText => "--text-field, data.text_fields",
            Self::OtherFormat => "unpack it first",
            Self::NotUtf8 | Self::Utf16 => "convert it first",
            _ => return None,
        })
    }
}

/// Counts of what was passed over, by reason, with the first places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    reasons: BTreeMap<Reason, (usize, Vec<String>)>,
    /// The largest document that was allowed.
    limit: Option<usize>,
}

impl Skipped {
    pub(crate) fn with_limit(bytes: usize) -> Self {
        Self { limit: Some(bytes), ..Self::default() }
    }

    pub(crate) fn add(&mut self, reason: Reason, place: impl fmt::Display) {
        let (count, places) = self.reasons.entry(reason).or_default();
        *count += 1;
        if places.len() < NAMED {
            places.push(lacuna_files::printable(&place.to_string()).into_owned());
        }
    }

    /// The number of those that were passed over for one reason.
    pub fn count(&self, reason: Reason) -> usize {
        self.reasons.get(&reason).map_or(0, |(count, _)| *count)
    }

    /// The first places of one reason: `file`, `file:line`, each with what is wrong where that helps.
    pub fn places(&self, reason: Reason) -> &[String] {
        self.reasons.get(&reason).map_or(&[], |(_, places)| places)
    }

    /// All reasons that occurred, with how often.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, usize)> + '_ {
        self.reasons.iter().map(|(reason, (count, _))| (*reason, *count))
    }

    /// Tells whether nothing was passed over.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// One line a reason: how many, the limit and what raises it, the first places.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.reasons.iter().map(|(reason, (count, places))| {
            let mut line = format!("{count} {}", reason.words());
            let limit = self.limit.filter(|_| *reason == Reason::TooLarge);
            let limit = limit.map(|limit| format!("over {limit} bytes"));
            let notes: Vec<String> =
                limit.into_iter().chain(reason.remedy().map(str::to_owned)).collect();
            if !notes.is_empty() {
                line.push_str(&format!(" [{}]", notes.join("; ")));
            }
            let more = if *count > places.len() { ", …" } else { "" };
            line.push_str(&format!(": {}{more}", places.join(", ")));
            line
        })
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing was passed over");
        }
        let lines: Vec<String> = self.lines().collect();
        write!(f, "passed over {}", lines.join("; "))
    }
}
