//! Bounds a template's source: what the engine reads and compiles by recursion, it must not read
//! deeply.

use crate::error::{Error, Result};
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::Limits;

/// Refuses a source that would take the stack. Faults of other kinds are the compiler's to report.
pub(super) fn check(source: &str, syntax: &SyntaxConfig, limits: &Limits) -> Result<()> {
    let &Limits { words_in_a_tag, elifs: most_elifs, source_bytes, .. } = limits;
    if source.len() > source_bytes {
        let held = source.len();
        return Err(Error::Template(format!("{held} bytes, at most {source_bytes} are expected")));
    }
    let (mut in_tag, mut elifs) = (0, 0);
    for token in tokenize(source, false, syntax.clone()) {
        let Ok((token, span)) = token else { break };
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => in_tag = 0,
            Token::Ident("elif") => elifs += 1,
            _ => in_tag += 1,
        }
        if in_tag > words_in_a_tag {
            let line = span.start_line;
            let reason = format!("over {words_in_a_tag} words in one tag (line {line})");
            return Err(Error::Template(reason));
        }
    }
    if elifs > most_elifs {
        return Err(Error::Template(format!("{elifs} times elif, at most {most_elifs}")));
    }
    Ok(())
}
