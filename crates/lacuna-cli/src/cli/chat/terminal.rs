//! Holds a conversation on a terminal: line editing, history, commands, and Ctrl-C for the answer
//! under way.

use anyhow::{Context, Result};
use lacuna::text::Message;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Behavior, Cmd, Config, Context as Line, Editor, Helper, KeyCode, KeyEvent, Modifiers,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Talk, Turns};
use crate::cli::progress::count;
use crate::cli::{said, screen, signals};

/// True if Ctrl-C was pressed since the answer began.
static STOP: AtomicBool = AtomicBool::new(false);

const HELP: &str = "\
/reset          begin anew; what --system or /system says stays
/undo           take the last message and its answer back
/retry          answer the last message again, with another seed
/system TEXT    what the model is told first; without TEXT, shows it
/help           this
/quit           end; also Ctrl-D, or Ctrl-C at the prompt

A line that ends in \\ goes on in the next, as does one after Alt-Enter; pasted
text may have many lines. Ctrl-C stops an answer, which stays as far as it is.";

/// Reads messages and answers them until the user ends it.
pub(super) fn converse(turns: &mut Turns<'_>, talk: &mut Talk, no_history: bool) -> Result<()> {
    // A second one while the first has not stopped anything ends the program.
    let handler = signals::on_interrupt(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            screen::restore();
            std::process::exit(130);
        }
    });
    handler.context("taking over Ctrl-C")?;
    turns.stopped = &|| STOP.load(Ordering::SeqCst);
    let mut editor = editor()?;
    let history = if no_history { None } else { history_file() };
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    let positions = turns.model.config().max_position_embeddings;
    note!(
        "{} positions; Ctrl-C stops an answer, Ctrl-D ends, /help lists commands",
        count(positions)
    );
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line.replace("\\\n", "\n"),
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
            Err(error) => return Err(error).context("reading the terminal"),
        };
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line);
        if let Some(path) = &history {
            // A conversation goes on without a history.
            let _ = editor.append_history(path);
        }
        let message = match command(line, turns, talk) {
            Next::Read => continue,
            Next::End => return Ok(()),
            Next::Say(message) => message,
        };
        STOP.store(false, Ordering::SeqCst);
        let failed = turns.answer(talk, message).err();
        if let Some(error) = failed {
            let closed = error.downcast_ref::<std::io::Error>().is_some();
            if closed {
                return Err(error);
            }
            note!("{}", said(&error));
        } else if STOP.load(Ordering::SeqCst) {
            note!("stopped");
        }
    }
}

enum Next {
    Read,
    Say(String),
    End,
}

/// The request in a line.
fn command(line: &str, turns: &mut Turns<'_>, talk: &mut Talk) -> Next {
    if !line.starts_with('/') {
        return Next::Say(line.to_owned());
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match (name, rest.trim()) {
        ("/help", "") => note!("{HELP}"),
        ("/quit" | "/exit", "") => return Next::End,
        ("/reset", "") => {
            talk.said.truncate(talk.instructions());
            note!("a new conversation");
        }
        ("/undo", "") => match talk.undo() {
            Some(message) => note!("taken back: {}", lacuna_files::printable(&message)),
            None => note!("nothing was said yet"),
        },
        ("/retry", "") => match talk.undo() {
            Some(message) => {
                turns.options.sampling.seed = turns.options.sampling.seed.wrapping_add(1);
                if turns.options.sampling.temperature == 0.0 {
                    note!("without --temperature every answer to the same is the same");
                }
                return Next::Say(message);
            }
            None => note!("nothing was said yet"),
        },
        ("/system", "") => match talk.said.iter().find(|message| message.role == "system") {
            Some(message) => note!("{}", lacuna_files::printable(&message.content)),
            None => note!("the model is told nothing first"),
        },
        ("/system", text) => {
            let message = Message::new("system", text);
            match talk.said.iter_mut().find(|message| message.role == "system") {
                Some(old) => *old = message,
                None => talk.said.insert(0, message),
            }
            note!("the model is told this first from now on; /reset begins anew with it");
        }
        _ => note!("there is no command {}; /help lists them", lacuna_files::printable(name)),
    }
    Next::Read
}

/// The place for what was typed: the platform's folder for state, else for data.
fn history_file() -> Option<PathBuf> {
    let folder = dirs::state_dir().or_else(dirs::data_local_dir)?.join("lacuna");
    lacuna_files::create_folder(&folder).ok()?;
    Some(folder.join("chat-history.txt"))
}

fn editor() -> Result<Editor<Lines, FileHistory>> {
    let config = Config::builder().behavior(Behavior::PreferTerm).max_history_size(1000);
    let config = config.and_then(|config| config.history_ignore_dups(true));
    let config = config.context("setting up the terminal")?.history_ignore_space(true).build();
    let mut editor = Editor::with_config(config).context("setting up the terminal")?;
    editor.set_helper(Some(Lines));
    editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
    Ok(editor)
}

/// A line that ends in a backslash is not the last one.
struct Lines;

impl Validator for Lines {
    fn validate(&self, line: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match line.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Lines {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Line<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let known = ["/help", "/quit", "/reset", "/retry", "/system ", "/undo"];
        let typed = &line[..at];
        let fits = |name: &&str| typed.starts_with('/') && name.starts_with(typed);
        Ok((0, known.iter().filter(|name| fits(name)).map(ToString::to_string).collect()))
    }
}

impl Highlighter for Lines {}

impl Hinter for Lines {
    type Hint = String;
}

impl Helper for Lines {}
