//! Holds the flags of what a text brings along: drafts, and a pattern that it keeps to.

use anyhow::Result;
use lacuna::{DraftSource, GenerateOptions, Pattern};
use std::path::PathBuf;

use super::Usage;
use super::decode_args::DecodeArgs;
use super::flags::flag;
use super::show::read_text;

/// The flag that says where drafts come from; `edit` has its own.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Decoding")]
pub(crate) struct DraftArgs {
    /// Source of guesses at the text that follows, many of which are checked in one pass: the text is the same in fewer
    /// passes. lookup: where the last few tokens stood before, in the prompt, the file and what is written so far; none:
    /// no guesses. Default: lookup for an autoregressive model (not for a file of prompts), else none
    #[arg(long, value_name = "SOURCE", value_parser = draft_source)]
    draft: Option<DraftSource>,
}

impl DraftArgs {
    /// Puts the flag into the options of one request.
    pub(crate) fn set(&self, decode: &DecodeArgs, options: &mut GenerateOptions) -> Result<()> {
        if decode.is_reference() && self.draft == Some(DraftSource::Lookup) {
            let message = "--draft lookup: --mode reference is the released algorithm, which checks no drafts; leave one \
                           of the two out";
            return Err(Usage(message.into()).into());
        }
        options.drafts = self.draft;
        Ok(())
    }
}

/// The flags of a pattern that the new text keeps to.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Decoding")]
pub(crate) struct PatternArgs {
    /// Write only what this regular expression matches, from the first new token to the end of the text: [0-9]+ or
    /// (yes|no). A text that --max-new-tokens cuts off is the beginning of one
    #[arg(long, value_name = "RE", allow_hyphen_values = true, conflicts_with_all = ["json_schema", "stop", "min_new_tokens"])]
    regex: Option<String>,
    /// Write only JSON that the schema in FILE accepts, properties in its order; what no regular expression can follow is
    /// refused by its place in the schema
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stop", "min_new_tokens"])]
    json_schema: Option<PathBuf>,
    /// Write only what the grammar in FILE derives, in llama.cpp's form (GBNF); its rules may not lead into themselves
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "json_schema", "stop", "min_new_tokens"])]
    grammar: Option<PathBuf>,
}

impl PatternArgs {
    /// Puts the flags into the options, and refuses a pattern that is none before a model is opened.
    pub(crate) fn pattern(&self, decode: &DecodeArgs) -> Result<Option<Pattern>> {
        let (name, pattern) = match (&self.regex, &self.json_schema, &self.grammar) {
            (Some(regex), ..) => ("--regex", Pattern::Regex(regex.clone())),
            (None, Some(file), _) => ("--json-schema", Pattern::JsonSchema(read_text(file)?)),
            (None, None, Some(file)) => ("--grammar", Pattern::Grammar(read_text(file)?)),
            (None, None, None) => return Ok(None),
        };
        if decode.is_reference() {
            let message = format!(
                "{name}: --mode reference is the released algorithm, which fills positions without looking at what \
                 stands beside them; leave one of the two out"
            );
            return Err(Usage(message).into());
        }
        pattern.check().map_err(|error| Usage(format!("{name}: {}", error.spelled(flag))))?;
        Ok(Some(pattern))
    }
}

/// A source of drafts, or what the sources are.
fn draft_source(name: &str) -> Result<DraftSource, String> {
    let sources = [DraftSource::None, DraftSource::Lookup];
    let found = sources.into_iter().find(|source| source.name() == name);
    found.ok_or_else(|| format!("expected {}", sources.map(DraftSource::name).join(" or ")))
}
