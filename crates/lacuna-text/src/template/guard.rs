//! Sets the bounds within which a stranger's template runs. All that this program takes of the
//! template engine's machinery stands in this folder, and [`Guarded`] is the one way in.
//!
//! A template meets four gates. Its source must not nest deeply, since the engine reads and compiles it by recursion
//! ([`source`]). Every instruction that it compiles to is one that is known: it passes, is replaced by one that pays,
//! or is refused ([`instructions`]). Filters, tests, functions and methods are those of a list ([`names`]). And what
//! it makes while it runs is paid for with fuel, before it is made ([`fuel`], [`values`]).

use minijinja::machinery::{CompiledTemplate, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};

mod fuel;
mod instructions;
mod names;
mod source;
mod values;

pub(super) use fuel::pay_for;

/// The engine's name of the template, which no message shows.
const NAME: &str = "chat";

/// Limits of what a template may be, take and make.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Bytes of its source.
    pub(super) source_bytes: usize,
    /// Words and marks of one `{{ … }}` or `{% … %}`: every operator, filter or index in a row nests the expression
    /// once more, and the engine bounds brackets alone. Real templates have some dozens.
    pub(super) words_in_a_tag: usize,
    /// Each `elif` nests in the one before it.
    pub(super) elifs: usize,
    /// Calls of macros and loops within one another.
    pub(super) recursion: usize,
    /// About this many instructions, or 64 times as many bytes of text, or items of lists, and one more for each byte
    /// of the conversation: far more than any needs, and a bound on what a template makes of a short one of some
    /// 16 MB.
    pub(super) fuel: u64,
    /// Bytes that it may add to a conversation: tokenizing takes a hundred bytes and more for each of text.
    pub(super) added_bytes: usize,
    /// The number of times that it may besides repeat and indent the conversation.
    pub(super) growth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            source_bytes: 1 << 20,
            words_in_a_tag: 1024,
            elifs: 128,
            recursion: 100,
            fuel: 250_000,
            added_bytes: 256 << 10,
            growth: 16,
        }
    }
}

/// A template that was found to keep within the bounds as far as its source says, with what it runs in.
#[derive(Debug)]
pub(super) struct Guarded {
    environment: Environment<'static>,
    source: String,
    syntax: SyntaxConfig,
    limits: Limits,
}

impl Guarded {
    /// Takes a template in. `dialect` adds the functions and filters that this program has besides the engine's; a
    /// function of these must be in the list of [`names`], and pays with [`pay_for`] for what it walks through.
    ///
    /// # Errors
    /// When the source is no template, nests too deeply, or does what is not known here.
    pub(super) fn new(
        source: String,
        limits: Limits,
        dialect: impl FnOnce(&mut Environment<'static>),
    ) -> Result<Self> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|error| failure(&error))?;
        source::check(&source, &syntax, &limits)?;
        let mut environment = Environment::new();
        environment.set_recursion_limit(limits.recursion);
        dialect(&mut environment);
        values::install(&mut environment);
        names::install(&mut environment);
        let mut template = Self { environment, source, syntax, limits };
        let mut compiled = template.compiled()?;
        let unknown = names::Unknown::of(instructions::all(&compiled));
        instructions::rewrite(&mut compiled).map_err(|reason| Error::Template(reason.into()))?;
        drop(compiled);
        unknown.remove_from(&mut template.environment);
        Ok(template)
    }

    /// The text that the template makes of the variables.
    ///
    /// # Errors
    /// When it refuses them, takes more than its limits, or fails.
    pub(super) fn render(&self, variables: &BTreeMap<String, Value>) -> Result<String> {
        let Limits { fuel, added_bytes, growth, .. } = self.limits;
        let mut compiled = self.compiled()?;
        instructions::rewrite(&mut compiled).map_err(|reason| Error::Template(reason.into()))?;
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        let root = Value::from_pairs(variables.clone());
        let (instructions, blocks) = (&compiled.instructions, &compiled.blocks);
        let given = serde_json::to_vec(variables).map_or(0, |json| json.len());
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel.saturating_add(given as u64)));
        let done = eval(&environment, instructions, root, blocks, &mut out, AutoEscape::None);
        done.map_err(|error| failure(&error))?;
        let most = given.saturating_mul(growth).saturating_add(added_bytes);
        if text.len() > most {
            return Err(Error::Template(format!(
                "it makes {} bytes of a conversation of {given}; at most {most} are expected",
                text.len()
            )));
        }
        Ok(text)
    }

    fn compiled(&self) -> Result<CompiledTemplate<'_>> {
        let config = TemplateConfig {
            syntax_config: self.syntax.clone(),
            default_auto_escape: Arc::new(|_| AutoEscape::None),
        };
        CompiledTemplate::new(NAME, &self.source, &config).map_err(|error| failure(&error))
    }
}

fn failure(error: &minijinja::Error) -> Error {
    let place = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    Error::Template(match error.kind() {
        ErrorKind::OutOfFuel => format!("it does not come to an end{place}; stopped"),
        _ => match error.detail() {
            Some(detail) => format!("{detail}{place}"),
            None => format!("{}{place}", error.kind()),
        },
    })
}
