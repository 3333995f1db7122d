//! Makes the rule that a request's text keeps to: a regular expression, a JSON schema or a grammar becomes an automaton
//! over the bytes of the model's tokens.

use lacuna_samplers::{ByteAutomaton, Constraint, Vocabulary};
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::open::Model;

mod grammar;
mod schema;

/// The rule that all of the new text keeps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A regular expression that matches the whole text, in the syntax of the crate `regex`; without `\b`.
    Regex(String),
    /// A JSON schema, as the text of its document: the new text is a JSON document that it accepts.
    JsonSchema(String),
    /// Any JSON object in which lists and objects stand at most three deep, itself counted: more than that no regular
    /// expression of a bearable size follows.
    JsonObject,
    /// A grammar in llama.cpp's form (GBNF) whose rules do not lead into themselves.
    Grammar(String),
}

/// The levels of [`Pattern::JsonObject`].
const JSON_DEPTH: usize = 3;

/// Bytes that the making of an automaton may take.
const WORKING_BYTES: usize = 64 << 20;

impl Pattern {
    /// The pattern as a regular expression.
    ///
    /// # Errors
    /// A schema or a grammar that no regular expression stands for, by the place in it.
    pub fn regex(&self) -> Result<String> {
        let refused = |what: &str, reason| Error::Request(format!("the {what}: {reason}"));
        match self {
            Self::Regex(regex) => Ok(regex.clone()),
            Self::JsonSchema(text) => {
                schema::regex(text).map_err(|reason| refused("JSON schema", reason))
            }
            Self::JsonObject => Ok(schema::any_object(JSON_DEPTH)),
            Self::Grammar(text) => {
                grammar::regex(text).map_err(|reason| refused("grammar", reason))
            }
        }
    }

    /// Refuses what is no pattern, without a model.
    ///
    /// # Errors
    /// As [`regex`](Self::regex); an expression that is none, or too large.
    pub fn check(&self) -> Result<()> {
        automaton(&self.regex()?).map(drop)
    }

    /// The rule for a model whose texts end with one of `ends`.
    pub(crate) fn constraint(&self, model: &Model, ends: &[u32]) -> Result<Arc<Constraint>> {
        let automaton = automaton(&self.regex()?)?;
        let vocabulary = model.vocabulary()?;
        Ok(Arc::new(Constraint::new(automaton, vocabulary, ends)?))
    }
}

/// The automaton that accepts what a regular expression matches as a whole.
fn automaton(regex: &str) -> Result<ByteAutomaton> {
    let refused = |reason: String| Error::Request(format!("the regular expression: {reason}"));
    // All ways to match count, not the first: what matters is whether some way reaches the end of the text.
    let config = dense::Config::new()
        .match_kind(MatchKind::All)
        .start_kind(StartKind::Anchored)
        .dfa_size_limit(Some(WORKING_BYTES))
        .determinize_size_limit(Some(WORKING_BYTES));
    let dfa = dense::Builder::new()
        .configure(config)
        .thompson(thompson::Config::new().nfa_size_limit(Some(WORKING_BYTES / 8)))
        .syntax(syntax::Config::new())
        .build(regex)
        .map_err(|error| refused(said(&error)))?;
    let start = dfa
        .start_state_forward(&Input::new("").anchored(Anchored::Yes))
        .map_err(|error| refused(error.to_string()))?;
    let next = |state, byte| {
        let next = dfa.next_state(state, byte);
        (!dfa.is_dead_state(next) && !dfa.is_quit_state(next)).then_some(next)
    };
    let accepts = |state| dfa.is_match_state(dfa.next_eoi_state(state));
    ByteAutomaton::explore(start, next, accepts).map_err(|error| refused(error.to_string()))
}

/// An error with its causes, which say what is wrong with an expression.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Model {
    /// The bytes of the model's tokens, made when first asked for.
    ///
    /// # Errors
    /// No tokenizer, or one whose decoder fails.
    fn vocabulary(&self) -> Result<Arc<Vocabulary>> {
        if let Some(made) = self.vocabulary.get() {
            return Ok(Arc::clone(made));
        }
        let tokenizer = self.tokenizer()?;
        let rows = self.config().vocab_size.min(tokenizer.vocab_size()) as u32;
        let bytes = (0..rows).map(|id| match tokenizer.is_special(id) {
            true => Ok(Vec::new()),
            false => tokenizer.bytes_of(id),
        });
        let made = Arc::new(Vocabulary::new(bytes.collect::<Result<Vec<_>, _>>()?));
        Ok(Arc::clone(self.vocabulary.get_or_init(|| made)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_all_of_a_text_or_nothing() {
        for (regex, yes, no) in [
            ("a|ab", &["a", "ab"][..], &["", "abc", "b"][..]),
            ("(?s).*", &["", "a\nb", "é🦀"], &[]),
            (".*", &["", "ab"], &["a\nb"]),
            ("^[a-c]+$", &["abc"], &["", "abd"]),
            ("a*?b", &["b", "aab"], &["a", "bb"]),
            ("[^x]", &["é", "🦀"], &["x", "ab"]),
            ("", &[""], &["a"]),
        ] {
            let automaton = automaton(regex).unwrap();
            yes.iter()
                .for_each(|text| assert!(automaton.accepts(text.as_bytes()), "{regex} {text}"));
            no.iter()
                .for_each(|text| assert!(!automaton.accepts(text.as_bytes()), "{regex} {text}"));
        }
        assert!(!automaton("(?s).*").unwrap().accepts(b"\xff"), "text is UTF-8");
    }

    #[test]
    fn an_expression_that_is_none_or_too_large_says_why() {
        let said = |regex: &str| automaton(regex).unwrap_err().to_string();
        assert!(said("a(b").contains("unclosed group"), "{}", said("a(b"));
        assert!(said(r"\bfoo\b").contains("word boundar"), "{}", said(r"\bfoo\b"));
        let large = said(r"(\w{50}x){400}");
        assert!(large.contains("limit") || large.contains("20000"), "{large}");
    }
}
