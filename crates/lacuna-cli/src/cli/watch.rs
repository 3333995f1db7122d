//! Shows the denoising on a terminal: masks as ▒, tokens coloured by confidence.

use anyhow::{Context, Result};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen};
use crossterm::{cursor, execute, queue};
use std::io::{IsTerminal, Write};
use std::sync::Once;
use std::sync::atomic::Ordering;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

use lacuna_files::is_moving;

use super::canvas::{Canvas, State, Texts, pieces};
use super::screen::{TAKEN, give_back, restore, restore_on_panic};
use super::{Usage, signals};

/// The terminal while it belongs to us; given back when dropped, on a panic and on every signal that ends the
/// program: Ctrl-C, a closed terminal, a shutdown.
#[derive(Debug)]
pub(crate) struct Screen(());

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
        restore_on_panic();
        SAFEGUARDS.call_once(|| {
            // A command with a handler of its own for Ctrl-C gives the terminal back itself.
            let _ = signals::on_interrupt(|| {
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
        let status: String = status.chars().map(visible).take(width - 1).collect();
        queue!(out, cursor::MoveTo(0, last), SetAttribute(Attribute::Dim), Print(status))?;
        queue!(out, SetAttribute(Attribute::Reset), terminal::EndSynchronizedUpdate)?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&out)?;
        Ok(stdout.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// One character on the screen, as its reader sees it: with its accents, of one or two columns.
#[derive(Clone, Debug, PartialEq)]
struct Glyph {
    text: String,
    width: usize,
    state: State,
}

/// The canvas as rows of at most `width` columns.
fn rows(canvas: &Canvas, texts: Texts<'_>, width: usize) -> Vec<Vec<Glyph>> {
    const TAB: usize = 4;
    let pieces = pieces(&canvas.cells, texts);
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    let mut states = pieces.iter().scan(0, |end, piece| {
        *end += piece.text.len();
        Some((*end, piece.state))
    });
    let mut current = states.next();
    let (mut rows, mut row, mut column) = (Vec::new(), Vec::new(), 0);
    for (at, cluster) in text.grapheme_indices(true) {
        while current.is_some_and(|(end, _)| end <= at) {
            current = states.next();
        }
        let Some((_, state)) = current else { break };
        if cluster.ends_with('\n') {
            rows.push(std::mem::take(&mut row));
            column = 0;
            continue;
        }
        let text = match cluster {
            "\t" => " ".repeat(TAB - column % TAB),
            _ => cluster.chars().map(visible).collect(),
        };
        let wide = text.width();
        if column + wide > width && column > 0 {
            rows.push(std::mem::take(&mut row));
            column = 0;
        }
        column += wide;
        row.push(Glyph { text, width: wide, state });
    }
    rows.push(row);
    rows
}

/// The character, or a dot for one that would command the terminal.
pub(crate) fn visible(char: char) -> char {
    if is_moving(char) || char.is_control() { '·' } else { char }
}

fn draw_row(out: &mut impl Write, row: &[Glyph]) -> std::io::Result<()> {
    for run in row.chunk_by(|a, b| a.state == b.state) {
        let text: String = run.iter().map(|glyph| glyph.text.as_str()).collect();
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
            rows.iter().map(|row| row.iter().map(|glyph| glyph.text.as_str()).collect()).collect()
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
        let moving = ['\u{1b}', '\u{7}', '\r', '\u{9b}', '\u{202e}'];
        assert!(moving.map(visible).iter().all(|c| *c == '·'));
    }

    #[test]
    fn rows_count_columns_and_no_character_is_torn_at_their_ends() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizer/tokenizer.json");
        let tokenizer = lacuna::text::Tokenizer::from_file(file).expect("a fixture");
        let shown = |text: &str, width: usize| -> Vec<String> {
            let ids = tokenizer.encode(text).expect("a text");
            let canvas = Canvas::new(&Request::new(ids, 1, NonZeroUsize::MIN, 5));
            let rows = rows(&canvas, Texts(Some(&tokenizer)), width);
            for row in &rows {
                assert!(row.iter().map(|glyph| glyph.width).sum::<usize>() <= width, "{row:?}");
            }
            rows.iter().map(|row| row.iter().map(|glyph| glyph.text.as_str()).collect()).collect()
        };
        assert_eq!(shown("漢字🦀", 5), ["漢字", "🦀"]);
        assert_eq!(shown("abe\u{301}f", 3), ["abe\u{301}", "f"], "an accent stays with its letter");
        assert_eq!(shown("👩\u{200d}💻x", 2), ["👩\u{200d}💻", "x"]);
        assert_eq!(shown("a\r\nb\tc", 80), ["a", "b   c"]);
    }
}
