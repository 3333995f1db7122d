//! What a decode looks like on the way: prompt, filled positions with their confidence, masks.

use lacuna::data::Tokenizer;
use lacuna::samplers::Request;
use lacuna::samplers::trace::Line;

/// One position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Its token; of a mask, the one proposed for it.
    pub(crate) token: u32,
    pub(crate) state: State,
}

/// How a position stands.
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

    /// What a line of a trace changes. It must be one that was just decoded or that a replay has verified.
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

/// How tokens are spelt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'a>(pub(crate) Option<&'a Tokenizer>);

impl Texts<'_> {
    /// One token as text, special ones spelt out; `‹id›` where there is no tokenizer.
    pub(crate) fn one(self, id: u32) -> String {
        let text = self.0.and_then(|tokenizer| {
            // Some decoders leave a text's first space out: the second of two is spelt whole.
            let once = tokenizer.decode_with_special_tokens(&[id]).ok()?;
            let twice = tokenizer.decode_with_special_tokens(&[id, id]).ok()?;
            twice.strip_prefix(&once).map(str::to_owned).or(Some(once))
        });
        text.filter(|text| !text.is_empty()).unwrap_or_else(|| format!("‹{id}›"))
    }

    /// Tokens as text, special ones left out.
    pub(crate) fn joined(self, ids: &[u32]) -> String {
        match self.0 {
            Some(tokenizer) => tokenizer.decode(ids).unwrap_or_default(),
            None => ids.iter().map(|id| self.one(*id)).collect(),
        }
    }
}
