//! Draws what a decode looks like on the way: prompt, filled positions with their confidence,
//! masks.

use lacuna::TokenText;
use lacuna::samplers::Request;
use lacuna::samplers::trace::Line;
use lacuna::text::Tokenizer;

/// One position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Its token; of a mask, the one proposed for it.
    pub(crate) token: u32,
    pub(crate) state: State,
}

/// The state of a position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    Prompt,
    Masked,
    /// Filled, `fresh` if by the last refinement.
    Filled {
        confidence: f64,
        fresh: bool,
    },
    /// End of text, carried on to the end of its block.
    Ended,
}

/// All positions up to the end of the open block.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    pub(crate) cells: Vec<Cell>,
    prompt_len: usize,
}

impl Canvas {
    /// The prompt alone.
    pub(crate) fn new(settings: &Request) -> Self {
        let cell = |&token: &u32| Cell { token, state: State::Prompt };
        let cells: Vec<Cell> = settings.prompt.iter().map(cell).collect();
        Self { prompt_len: cells.len(), cells }
    }

    /// The new tokens.
    pub(crate) fn new_cells(&self) -> &[Cell] {
        self.cells.get(self.prompt_len..).unwrap_or_default()
    }

    /// Makes the change that a line of a trace stands for. It must be one that was just decoded or
    /// that a replay has verified.
    pub(crate) fn take(&mut self, line: &Line) {
        match line {
            Line::Header { .. } => {}
            Line::Refinement(refinement) => {
                for cell in &mut self.cells {
                    if let State::Filled { fresh, .. } = &mut cell.state {
                        *fresh = false;
                    }
                }
                for candidate in &refinement.candidates {
                    let (at, token) = (candidate.position, candidate.token);
                    let filled = refinement.filled.binary_search(&at).is_ok();
                    let confidence = candidate.confidence;
                    let state = if filled {
                        State::Filled { confidence, fresh: true }
                    } else {
                        State::Masked
                    };
                    match self.cells.get_mut(at) {
                        Some(cell) => *cell = Cell { token, state },
                        None => self.cells.push(Cell { token, state }),
                    }
                }
            }
            Line::Block { block_start, tokens, .. } => {
                let first = (*block_start).max(self.prompt_len);
                self.cells.truncate(first + tokens.len());
                for (cell, &token) in self.cells[first..].iter_mut().zip(tokens) {
                    if cell.state == State::Masked || cell.token != token {
                        *cell = Cell { token, state: State::Ended };
                    }
                }
            }
            Line::End { tokens, .. } => self.cells.truncate(self.prompt_len + tokens),
        }
    }
}

/// Text that one or more cells make together: a character may be cut between tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Of several cells: that of the last, and the lowest confidence.
    pub(crate) state: State,
    /// The position after its last cell.
    pub(crate) end: usize,
}

/// The sign of a position without text: a mask, or a character that is not whole yet.
const SHADE: &str = "▒";

/// The cells as text, whole characters in each piece.
pub(crate) fn pieces(cells: &[Cell], texts: Texts<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let (mut bytes, mut state) = (Vec::new(), None);
    let torn = |bytes: &mut Vec<u8>, state: &mut Option<State>, end| {
        let text = SHADE.to_owned();
        bytes.clear();
        state.take().map(|state| Piece { text, state, end })
    };
    for (at, cell) in cells.iter().enumerate() {
        if cell.state == State::Masked {
            pieces.extend(torn(&mut bytes, &mut state, at));
            pieces.push(Piece { text: SHADE.to_owned(), state: cell.state, end: at + 1 });
            continue;
        }
        bytes.extend(texts.bytes(cell.token));
        let joined = joined(state, cell.state);
        let open = std::str::from_utf8(&bytes).is_err_and(|e| e.error_len().is_none());
        if open {
            state = Some(joined);
            continue;
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut bytes)).into_owned();
        pieces.push(Piece { text, state: joined, end: at + 1 });
        state = None;
    }
    pieces.extend(torn(&mut bytes, &mut state, cells.len()));
    pieces
}

/// The state of a piece with one more cell.
fn joined(before: Option<State>, cell: State) -> State {
    match (before, cell) {
        (
            Some(State::Filled { confidence: a, fresh: x }),
            State::Filled { confidence: b, fresh: y },
        ) => State::Filled { confidence: a.min(b), fresh: x || y },
        (_, cell) => cell,
    }
}

/// The spelling of tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'a>(pub(crate) Option<&'a Tokenizer>);

impl Texts<'_> {
    /// The bytes of one token, special ones spelt out; `‹id›` where there is no tokenizer.
    pub(crate) fn bytes(self, id: u32) -> Vec<u8> {
        let bytes = self.0.and_then(|tokenizer| tokenizer.bytes_of(id).ok());
        bytes.filter(|b| !b.is_empty()).unwrap_or_else(|| format!("‹{id}›").into_bytes())
    }

    /// The tokens that continue a prompt as text, special ones left out.
    pub(crate) fn continued(self, prompt: &[u32], ids: &[u32]) -> String {
        let Some(tokenizer) = self.0 else {
            return ids.iter().map(|id| format!("‹{id}›")).collect();
        };
        let text = TokenText::new(tokenizer, prompt, &[]).and_then(|mut text| {
            text.push(ids)?;
            Ok(text.finish()?.0)
        });
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_of_several_tokens_is_one_piece_and_shaded_until_it_is_whole() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizer/tokenizer.json");
        let tokenizer = Tokenizer::from_file(file).expect("a fixture");
        let ids = tokenizer.encode("a🦀b").expect("a text");
        assert!(ids.len() > 3, "the character is cut");
        let filled = |&token: &u32| Cell { token, state: State::Prompt };
        let mut cells: Vec<Cell> = ids.iter().map(filled).collect();
        let shown = |cells: &[Cell]| -> Vec<String> {
            pieces(cells, Texts(Some(&tokenizer))).into_iter().map(|piece| piece.text).collect()
        };
        assert_eq!(shown(&cells), ["a", "🦀", "b"]);
        assert_eq!(shown(&cells[..2]), ["a", "▒"]);
        cells[2].state = State::Masked;
        let torn = shown(&cells);
        assert!(torn.starts_with(&["a".into(), "▒".into(), "▒".into()]), "{torn:?}");
        let end = pieces(&cells, Texts(Some(&tokenizer))).last().map(|piece| piece.end);
        assert_eq!(end, Some(cells.len()));
    }
}
