//! The denoising on a terminal: masks as ▒, tokens coloured by confidence.

use anyhow::{Context, Result};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};
use std::io::{IsTerminal, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Usage;
use super::canvas::{Canvas, State, Texts};

/// The terminal while it belongs to us; given back when dropped, on Ctrl-C and on a panic.
#[derive(Debug)]
pub(crate) struct Screen(());

/// Whether the terminal is ours.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Screen {
    /// Takes the terminal.
    pub(crate) fn open(flag: &str) -> Result<Self> {
        static SAFEGUARDS: Once = Once::new();
        let mut out = std::io::stdout();
        if !out.is_terminal() {
            let message = format!(
                "{flag} needs a terminal, and stdout is none; --trace FILE records instead"
            );
            return Err(Usage(message).into());
        }
        SAFEGUARDS.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                give_back(&mut std::io::stdout());
                report(info);
            }));
            // A command that has its own handler for Ctrl-C never watches.
            let _ = ctrlc::set_handler(|| {
                // Locked to the end: nobody draws any more.
                let mut out = std::io::stdout().lock();
                give_back(&mut out);
                std::process::exit(130);
            });
        });
        TAKEN.store(true, Ordering::SeqCst);
        let screen = Self(());
        execute!(out, EnterAlternateScreen, cursor::Hide).context("taking the terminal")?;
        Ok(screen)
    }

    /// Shows the newest rows of a canvas that fit, and a line about it.
    pub(crate) fn draw(&mut self, canvas: &Canvas, texts: Texts<'_>, status: &str) -> Result<()> {
        // A terminal that does not know its size says 0.
        let size = terminal::size().ok().filter(|(width, height)| *width > 1 && *height > 2);
        let (width, height) = size.map_or((80, 24), |(w, h)| (usize::from(w), usize::from(h)));
        let rows = rows(canvas, texts, width);
        let shown = &rows[rows.len().saturating_sub(height - 2)..];
        let mut out = Vec::new();
        queue!(out, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for row in shown {
            draw_row(&mut out, row)?;
            queue!(out, Clear(ClearType::UntilNewLine), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        let last = u16::try_from(height - 1).unwrap_or(u16::MAX);
        let status: String = status.chars().take(width - 1).collect();
        queue!(out, cursor::MoveTo(0, last), SetAttribute(Attribute::Dim), Print(status))?;
        queue!(out, SetAttribute(Attribute::Reset), terminal::EndSynchronizedUpdate)?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&out)?;
        Ok(stdout.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(&mut std::io::stdout());
    }
}

/// Leaves the terminal as it was found; does nothing the second time.
fn give_back(out: &mut impl Write) {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Where the terminal is gone there is nothing to give back.
        let _ = execute!(out, ResetColor, cursor::Show, LeaveAlternateScreen);
    }
}

/// One character on the screen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Glyph {
    char: char,
    state: State,
}

/// The canvas as rows of at most `width` characters.
fn rows(canvas: &Canvas, texts: Texts<'_>, width: usize) -> Vec<Vec<Glyph>> {
    const TAB: usize = 4;
    let mut rows = vec![Vec::new()];
    for cell in &canvas.cells {
        let state = cell.state;
        let text = if state == State::Masked { "▒".to_owned() } else { texts.one(cell.token) };
        for char in text.chars() {
            let row: &mut Vec<Glyph> = rows.last_mut().expect("there is always a row");
            match char {
                '\n' => rows.push(Vec::new()),
                '\t' => {
                    let blanks = TAB - row.len() % TAB;
                    row.extend(std::iter::repeat_n(Glyph { char: ' ', state }, blanks));
                }
                _ => row.push(Glyph { char: visible(char), state }),
            }
            if rows.last().is_some_and(|row| row.len() >= width) {
                rows.push(Vec::new());
            }
        }
    }
    rows
}

/// Text from a model must not command the terminal.
fn visible(char: char) -> char {
    if char.is_control() { '·' } else { char }
}

fn draw_row(out: &mut impl Write, row: &[Glyph]) -> std::io::Result<()> {
    for run in row.chunk_by(|a, b| a.state == b.state) {
        let text: String = run.iter().map(|glyph| glyph.char).collect();
        match run[0].state {
            State::Prompt => queue!(out, Print(text))?,
            State::Masked | State::Ended => {
                queue!(out, SetForegroundColor(Color::DarkGrey), Print(text), ResetColor)?;
            }
            State::Filled { confidence, fresh } => {
                let weight = if fresh { Attribute::Bold } else { Attribute::Reset };
                queue!(out, SetAttribute(weight), SetForegroundColor(colour(confidence)))?;
                queue!(out, Print(text), ResetColor, SetAttribute(Attribute::Reset))?;
            }
        }
    }
    Ok(())
}

/// The steps of the HTML page's legend.
fn colour(confidence: f64) -> Color {
    match confidence {
        c if c >= 0.9 => Color::Green,
        c if c >= 0.7 => Color::Cyan,
        c if c >= 0.5 => Color::Yellow,
        c if c >= 0.3 => Color::Magenta,
        _ => Color::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::samplers::trace::Line;
    use lacuna::samplers::{Candidate, Refinement, Request};
    use std::num::NonZeroUsize;

    fn candidate(position: usize, token: u32, confidence: f64) -> Candidate {
        Candidate { position, token, confidence, margin: 0.0, entropy: 0.0, uniform: 0.0 }
    }

    #[test]
    fn masks_are_shaded_until_filled_and_rows_are_no_wider_than_the_screen() {
        let four = NonZeroUsize::new(4).expect("not zero");
        let mut canvas = Canvas::new(&Request::new(vec![7, 8], 6, four, 5));
        let plain = |canvas: &Canvas, width: usize| -> Vec<String> {
            let rows = rows(canvas, Texts(None), width);
            rows.iter().map(|row| row.iter().map(|glyph| glyph.char).collect()).collect()
        };
        assert_eq!(plain(&canvas, 80), ["‹7›‹8›"]);
        canvas.take(&Line::Refinement(Refinement {
            request: 0,
            block_start: 0,
            refinement: 0,
            candidates: vec![candidate(2, 9, 0.2), candidate(3, 10, 0.8)],
            filled: vec![3],
        }));
        assert_eq!(plain(&canvas, 80), ["‹7›‹8›▒‹10›"]);
        assert_eq!(plain(&canvas, 6), ["‹7›‹8›", "▒‹10›"]);
        assert_eq!(canvas.cells[3].state, State::Filled { confidence: 0.8, fresh: true });
    }

    #[test]
    fn nothing_that_a_model_writes_commands_the_terminal() {
        assert!(['\u{1b}', '\u{7}', '\r', '\u{9b}'].map(visible).iter().all(|c| *c == '·'));
    }
}
