//! Bounds on a template's source: what the engine reads and compiles by recursion, it must not read deeply.

use crate::error::{Error, Result};
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// Words and marks of one `{{ … }}` or `{% … %}`: every operator, filter or index in a row nests the expression once
/// more, and the engine bounds brackets alone. Real templates have some dozens.
const MOST_IN_A_TAG: usize = 1024;
/// Each `elif` nests in the one before it.
const MOST_ELIFS: usize = 128;

/// Refuses a source that would take the stack. Faults of other kinds are the compiler's to report.
pub(super) fn check(source: &str, syntax: &SyntaxConfig) -> Result<()> {
    let (mut in_tag, mut elifs) = (0, 0);
    for token in tokenize(source, false, syntax.clone()) {
        let Ok((token, span)) = token else { break };
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => in_tag = 0,
            Token::Ident("elif") => elifs += 1,
            _ => in_tag += 1,
        }
        if in_tag > MOST_IN_A_TAG {
            let line = span.start_line;
            let reason = format!("over {MOST_IN_A_TAG} words in one tag (line {line})");
            return Err(Error::Template(reason));
        }
    }
    if elifs > MOST_ELIFS {
        return Err(Error::Template(format!("{elifs} times elif, at most {MOST_ELIFS}")));
    }
    Ok(())
}
