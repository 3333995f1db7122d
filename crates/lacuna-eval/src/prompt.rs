//! Asks a model for a task's solution, in the benchmark's own words.

use std::fmt;
use std::str::FromStr;

use lacuna_engine::{GenerateOptions, Model, Prompt};
use lacuna_text::chat::{Message, RenderOptions};
use lacuna_text::fim::Fim;

use crate::benchmark::{Benchmark, CHAT_STOPS};
use crate::error::{Error, Result, faulty};
use crate::task::{CompletionEnd, Task, Tests};

/// The form in which a model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// The text is gone on with, for base models.
    Plain,
    /// A message in the model's chat template, for instruct models.
    Chat,
}

impl FromStr for PromptForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "plain" => Ok(PromptForm::Plain),
            "chat" => Ok(PromptForm::Chat),
            _ => Err("expected plain or chat".into()),
        }
    }
}

impl fmt::Display for PromptForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PromptForm::Plain => "plain",
            PromptForm::Chat => "chat",
        })
    }
}

/// The words of a question, before a tokenizer has seen them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A text to go on with.
    Text(String),
    /// A text with a hole.
    Hole {
        /// The text before the hole.
        prefix: String,
        /// The text behind it.
        suffix: String,
    },
    /// A message, and the words that the answer begins with.
    Chat {
        /// The words of the user.
        message: String,
        /// The first words of the assistant.
        answer: String,
    },
    /// A message, what was answered to it, and what is to be said of that.
    Again {
        /// The words of the user.
        message: String,
        /// The words of the assistant.
        answer: String,
        /// The user's reply to them.
        reply: String,
    },
}

/// The words by which a benchmark asks for a task.
///
/// # Errors
/// If the benchmark has no such form.
pub fn question(benchmark: &Benchmark, task: &Task, form: PromptForm) -> Result<Question> {
    if form == PromptForm::Chat && !benchmark.has_chat {
        return Err(Error::Request(format!(
            "{} is asked by its plain prompt alone; leave out the chat form",
            benchmark.name
        )));
    }
    let instruction = task.instruction.as_deref().unwrap_or_default();
    if form == PromptForm::Plain && matches!(task.tests, Tests::Exercise { .. }) {
        return Err(Error::Request(format!(
            "{} is asked in a chat alone: --prompt-form chat",
            benchmark.name
        )));
    }
    Ok(match (form, &task.tests) {
        (_, Tests::Output { .. }) => shown(form, crux(OUTPUT, OUTPUTS, &task.prompt)),
        (_, Tests::Input { .. }) => shown(form, crux(INPUT, INPUTS, &task.prompt)),
        (_, Tests::Exercise { file, earlier, .. }) => {
            let message = format!(
                "{instruction}\n\n{}\n\n{file}\n```python\n{}\n```\n",
                benchmark.instruction,
                task.prompt.trim_end()
            );
            match earlier {
                None => Question::Chat { message, answer: String::new() },
                Some(earlier) => Question::Again {
                    message,
                    answer: earlier.answer.clone(),
                    reply: format!(
                        "{}\n\nThese tests fail, and they are right. Change {file} so that they pass, and answer in the same \
                         way.\n",
                        earlier.told.trim_end()
                    ),
                },
            }
        }
        (PromptForm::Plain, Tests::Together { .. }) => Question::Text(format!(
            "## Code Before:\n{}\n## Instruction:\n{instruction}\n## Code After:\n",
            task.prompt
        )),
        (PromptForm::Chat, Tests::Together { .. }) => Question::Chat {
            message: format!(
                "{}\n\n{instruction}\n\n```python\n{}\n```\n",
                benchmark.instruction,
                task.prompt.trim_end()
            ),
            answer: String::new(),
        },
        (PromptForm::Plain, _) => match &task.suffix {
            Some(suffix) => Question::Hole { prefix: task.prompt.clone(), suffix: suffix.clone() },
            // The language of a prompt says whether blanks at its ends mean something.
            None if matches!(task.tests, Tests::Behind { .. }) => {
                Question::Text(task.prompt.clone())
            }
            None => Question::Text(format!("{}\n", task.prompt.trim())),
        },
        (PromptForm::Chat, _) => Question::Chat {
            message: format!("{}\n```\n{}\n```\n", benchmark.instruction, task.prompt.trim()),
            answer: benchmark.prefill.unwrap_or_default().to_owned(),
        },
    })
}

/// A prompt with examples goes to both kinds of models.
fn shown(form: PromptForm, text: String) -> Question {
    match form {
        PromptForm::Plain => Question::Text(text),
        PromptForm::Chat => {
            let message = text.trim_end().trim_end_matches("[ANSWER]").trim_end().to_owned();
            Question::Chat { message, answer: "[ANSWER]\n".into() }
        }
    }
}

const OUTPUT: &str = "Each assertion below calls the Python function above it. Replace ?? with the value that the \
                      call returns, written as a literal, without calls or arithmetic. Answer with the whole \
                      assertion between [ANSWER] and [/ANSWER], and with nothing else.";

const OUTPUTS: [(&str, &str); 2] = [
    ("def f(x):\n    return x\nassert f(3) == ??", "assert f(3) == 3"),
    (
        "def f(word):\n    return word[::-1] + \"!\"\nassert f(\"abc\") == ??",
        "assert f(\"abc\") == \"cba!\"",
    ),
];

const INPUT: &str = "Each assertion below says what the Python function above it returns. Replace ?? with arguments \
                     for which that is true; any will do. Answer with the whole assertion between [ANSWER] and \
                     [/ANSWER], and with nothing else.";

const INPUTS: [(&str, &str); 2] = [
    ("def f(x):\n    return x + 2\nassert f(??) == 5", "assert f(3) == 5"),
    (
        "def f(a, b):\n    return [a] * b\nassert f(??) == [\"x\", \"x\"]",
        "assert f(\"x\", 2) == [\"x\", \"x\"]",
    ),
];

/// The frame of CRUXEval's prompts, in words and with examples of our own.
fn crux(instruction: &str, examples: [(&str, &str); 2], asked: &str) -> String {
    let example = |(program, answer): (&str, &str)| {
        format!("[PYTHON]\n{program}\n[/PYTHON]\n[ANSWER]\n{answer}\n[/ANSWER]\n\n")
    };
    let examples: String = examples.into_iter().map(example).collect();
    format!("{instruction}\n\n{examples}[PYTHON]\n{asked}\n[/PYTHON]\n[ANSWER]\n")
}

/// A question as one model takes it: its tokens, and options with the texts and tokens that end an answer.
///
/// # Errors
/// If the model has no tokenizer, no chat template, or no marks for a hole.
pub(crate) fn prompt(
    model: &Model,
    benchmark: &Benchmark,
    task: &Task,
    form: PromptForm,
    options: &GenerateOptions,
) -> Result<(Prompt, GenerateOptions)> {
    let tokenizer = model.tokenizer()?;
    let mut options = options.clone();
    let own = match form {
        PromptForm::Chat if benchmark.prefill.is_some() => CHAT_STOPS,
        _ => benchmark.stops,
    };
    options.stop.extend(own.iter().map(|stop| (*stop).to_owned()));
    if let Tests::Behind { end: CompletionEnd::Before(stops), .. } = &task.tests {
        options.stop.extend(stops.iter().cloned());
    }
    let tokens = match question(benchmark, task, form)? {
        Question::Text(text) => tokenizer.encode_with_special_tokens(&text)?,
        Question::Hole { prefix, suffix } => {
            let fim = Fim::from_tokenizer(tokenizer)?;
            options
                .eos_ids
                .get_or_insert_with(|| [model.ends_of_text(), fim.ends.clone()].concat());
            fim.prompt_text(tokenizer, &prefix, &suffix)?
        }
        Question::Chat { message, answer } => {
            let mut tokens = chat(model, &mut options, &[Message::new("user", message)])?;
            tokens.extend(tokenizer.encode_ordinary(&answer)?);
            tokens
        }
        Question::Again { message, answer, reply } => {
            let turns = [("user", message), ("assistant", answer), ("user", reply)];
            let turns = turns.map(|(role, words)| Message::new(role, words));
            chat(model, &mut options, &turns)?
        }
    };
    let positions = model.config().max_position_embeddings;
    if tokens.len() >= positions {
        let reason =
            format!("a prompt of {} tokens, and the model has {positions} positions", tokens.len());
        return Err(faulty(&task.id, reason));
    }
    Ok((Prompt::Ids(tokens), options))
}

/// A conversation in the model's own format, up to where the assistant begins, and the tokens that end what it says.
fn chat(model: &Model, options: &mut GenerateOptions, turns: &[Message]) -> Result<Vec<u32>> {
    let format = model.chat_format()?;
    options.eos_ids.get_or_insert_with(|| model.answer_ends(&format));
    let rendering = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    Ok(format.encode(model.tokenizer()?, turns, &rendering)?)
}
