//! Lets advice name options without knowing who asks: a library's caller reads the name of a field, a program shows
//! its flag.

use std::fmt;

/// An option or a function that a message names as a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Knob {
    /// [`Prompt::Ids`](crate::Prompt::Ids).
    PromptIds,
    /// [`OpenOptions::dtype`](crate::OpenOptions::dtype).
    Dtype,
    /// [`OpenOptions::memory`](crate::OpenOptions::memory).
    Memory,
    /// [`OpenOptions::cache`](crate::OpenOptions::cache).
    CachePrecision,
    /// The argument of [`select_device`](crate::select_device).
    Device,
    /// [`GenerateOptions::algorithm`](crate::GenerateOptions::algorithm).
    Algorithm,
    /// [`GenerateOptions::block_size`](crate::GenerateOptions::block_size).
    BlockSize,
    /// [`GenerateOptions::attention`](crate::GenerateOptions::attention).
    Attention,
    /// [`FillRule::Threshold`](crate::FillRule::Threshold).
    Threshold,
    /// [`GenerateOptions::mask_id`](crate::GenerateOptions::mask_id).
    MaskId,
    /// [`GenerateOptions::allow_mode_mismatch`](crate::GenerateOptions::allow_mode_mismatch).
    AllowModeMismatch,
    /// [`GenerateOptions::drafts`](crate::GenerateOptions::drafts).
    Drafts,
    /// [`GenerateOptions::pattern`](crate::GenerateOptions::pattern).
    Pattern,
    /// [`GenerateOptions::stop`](crate::GenerateOptions::stop).
    Stop,
    /// [`GenerateOptions::min_new_tokens`](crate::GenerateOptions::min_new_tokens).
    MinNewTokens,
    /// [`generate`](crate::generate).
    Generate,
    /// [`ConvertOptions::force`](crate::ConvertOptions::force).
    Force,
    /// [`ConvertOptions::any_base`](crate::ConvertOptions::any_base).
    AnyBase,
    /// [`ToBlockDiffusion`](crate::ToBlockDiffusion).
    ToBlockDiffusion,
    /// [`ToBlockDiffusion::mask_token`](crate::ToBlockDiffusion::mask_token).
    MaskToken,
    /// [`ToBlockDiffusion::mask_embedding`](crate::ToBlockDiffusion::mask_embedding).
    MaskEmbedding,
}

const ALL: [Knob; 21] = [
    Knob::PromptIds,
    Knob::Dtype,
    Knob::Memory,
    Knob::CachePrecision,
    Knob::Device,
    Knob::Algorithm,
    Knob::BlockSize,
    Knob::Attention,
    Knob::Threshold,
    Knob::MaskId,
    Knob::AllowModeMismatch,
    Knob::Drafts,
    Knob::Pattern,
    Knob::Stop,
    Knob::MinNewTokens,
    Knob::Generate,
    Knob::Force,
    Knob::AnyBase,
    Knob::ToBlockDiffusion,
    Knob::MaskToken,
    Knob::MaskEmbedding,
];

/// Stands around the name of a knob inside a message. It is a character of private use: no text has it.
const MARK: char = '\u{E0B1}';

impl Knob {
    /// The name that Rust code knows it by.
    fn name(self) -> &'static str {
        match self {
            Self::PromptIds => "Prompt::Ids",
            Self::Dtype => "dtype",
            Self::Memory => "memory",
            Self::CachePrecision => "cache",
            Self::Device => "device",
            Self::Algorithm => "algorithm",
            Self::BlockSize => "block_size",
            Self::Attention => "attention",
            Self::Threshold => "FillRule::Threshold",
            Self::MaskId => "mask_id",
            Self::AllowModeMismatch => "allow_mode_mismatch",
            Self::Drafts => "drafts",
            Self::Pattern => "pattern",
            Self::Stop => "stop",
            Self::MinNewTokens => "min_new_tokens",
            Self::Generate => "generate",
            Self::Force => "force",
            Self::AnyBase => "any_base",
            Self::ToBlockDiffusion => "ToBlockDiffusion",
            Self::MaskToken => "mask_token",
            Self::MaskEmbedding => "mask_embedding",
        }
    }
}

/// As part of a [`Advice`], which each reader gets in its own words.
impl fmt::Display for Knob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}{MARK}", self.name())
    }
}

/// Words for a person, which may name options. Shown as it is, it names them as Rust code does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice(String);

impl Advice {
    /// The message with every option as `spell` has it.
    pub fn spelled(&self, spell: impl Fn(Knob) -> String) -> String {
        let mut text = String::with_capacity(self.0.len());
        for (index, part) in self.0.split(MARK).enumerate() {
            let knob = ALL.into_iter().find(|knob| index % 2 == 1 && knob.name() == part);
            match knob {
                Some(knob) => text.push_str(&spell(knob)),
                None => text.push_str(part),
            }
        }
        text
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled(|knob| format!("`{}`", knob.name())))
    }
}

impl From<String> for Advice {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Advice {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_options_as_its_reader_does() {
        let advice = Advice::from(format!("give {} or {} 3", Knob::PromptIds, Knob::Dtype));
        assert_eq!(advice.to_string(), "give `Prompt::Ids` or `dtype` 3");
        let flags = advice.spelled(|knob| format!("--{knob:?}").to_lowercase());
        assert_eq!(flags, "give --promptids or --dtype 3");
        for knob in ALL {
            let shown = Advice::from(knob.to_string()).to_string();
            assert_eq!(shown, format!("`{}`", knob.name()), "every knob is in the list");
        }
    }
}
