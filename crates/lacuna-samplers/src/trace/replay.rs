//! Derives a request's text from its trace, and checks it against what the trace says.

use super::{Line, Mode, Replayed};
use crate::fill::quota;
use crate::request::{Refinement, Request};

/// The state of one request in a replay.
pub(super) struct Replay {
    mode: Mode,
    /// True if a rule may have left out what did not agree with a candidate that ranks higher.
    pub(super) is_constrained: bool,
    canvas: Vec<u32>,
    /// The start of the open block, and its masked positions (absolute), ascending.
    block_start: usize,
    holes: Vec<usize>,
    masked: usize,
    refinement: usize,
    out: Replayed,
}

pub(super) type Check<T = ()> = std::result::Result<T, String>;

impl Replay {
    pub(super) fn new(request: usize, mode: Mode, settings: &Request) -> Check<Self> {
        // A trace may come from anywhere: nothing in it may ask for more memory than it holds.
        settings.validate().map_err(|error| error.to_string())?;
        let size = settings.block_size().get();
        let mut replay = Self {
            mode,
            is_constrained: false,
            canvas: settings.prompt.clone(),
            block_start: settings.prompt.len() / size * size,
            holes: Vec::new(),
            masked: 0,
            refinement: 0,
            out: Replayed {
                request,
                settings: settings.clone(),
                tokens: Vec::new(),
                text_len: usize::MAX,
                finish: None,
                refinements: 0,
            },
        };
        replay.open_block(None);
        Ok(replay)
    }

    /// Opens the block at `block_start`; its holes are known once its first refinement is.
    fn open_block(&mut self, first: Option<&Refinement>) {
        self.refinement = 0;
        self.holes = first.map_or(Vec::new(), |first| {
            first.candidates.iter().map(|candidate| candidate.position).collect()
        });
        self.masked = self.holes.len();
    }

    /// The positions that the first refinement of the open block must propose for.
    fn are_the_holes(&self, positions: &[usize]) -> bool {
        let Request { prompt, max_new_tokens, mask_id, .. } = &self.out.settings;
        let block_size = self.out.settings.block_size();
        let end = prompt.len() + max_new_tokens;
        let end = self.block_start.saturating_add(block_size.get()).min(end);
        let prompt_holes = (self.block_start..prompt.len().min(end))
            .filter(|&at| self.mode == Mode::Reference && prompt[at] == *mask_id);
        let new = self.block_start.max(prompt.len())..end;
        prompt_holes.chain(new).eq(positions.iter().copied())
    }

    pub(super) fn take(&mut self, line: &Line) -> Check {
        if self.out.finish.is_some() {
            return Err(format!("request {} has ended already", self.out.request));
        }
        match line {
            Line::Header { .. } => Ok(()),
            Line::Refinement(refinement) => self.refine(refinement),
            Line::Block { block_start, tokens, .. } => self.block(*block_start, tokens),
            Line::End { finish, tokens, text_len, .. } => {
                let new = self.block_start.saturating_sub(self.start());
                if *tokens > new || text_len > tokens {
                    return Err(format!(
                        "{tokens} tokens remain of {new}, {text_len} of them text"
                    ));
                }
                self.canvas.truncate(self.start() + tokens);
                self.out.finish = Some(*finish);
                self.out.text_len = *text_len;
                Ok(())
            }
        }
    }

    fn start(&self) -> usize {
        self.out.settings.prompt.len()
    }

    fn refine(&mut self, refinement: &Refinement) -> Check {
        let Refinement { block_start, refinement: number, candidates, filled, .. } = refinement;
        let positions: Vec<usize> = candidates.iter().map(|c| c.position).collect();
        if *number == 0 && self.refinement == 0 && self.are_the_holes(&positions) {
            self.open_block(Some(refinement));
            let end = positions.last().map_or(0, |last| last + 1);
            let mask_id = self.out.settings.mask_id;
            self.canvas.resize(end.max(self.canvas.len()), mask_id);
        }
        if *block_start != self.block_start || *number != self.refinement {
            return Err(format!(
                "refinement {number} of block {block_start}: expected refinement {} of block {}",
                self.refinement, self.block_start
            ));
        }
        if positions != self.holes || positions.is_empty() {
            return Err(format!("candidates at {positions:?}: the holes are {:?}", self.holes));
        }
        let settings = &self.out.settings;
        let count = quota(self.masked, settings.steps_per_block(), *number);
        let mut chosen = settings.fill.ranked(candidates, count);
        if self.is_constrained {
            // The one that ranks highest is filled whatever the rule says of others.
            let first = chosen[0];
            chosen.retain(|&at| at == first || filled.contains(&candidates[at].position));
        }
        chosen.sort_unstable();
        let derived: Vec<usize> = chosen.iter().map(|&index| candidates[index].position).collect();
        if derived != *filled {
            return Err(format!("filled {filled:?}: the rule fills {derived:?}"));
        }
        for &index in &chosen {
            self.canvas[candidates[index].position] = candidates[index].token;
        }
        let (mode, canvas) = (self.mode, &self.canvas);
        self.holes.retain(|at| {
            !derived.contains(at) || (mode == Mode::Reference && canvas[*at] == settings.mask_id)
        });
        self.refinement += 1;
        self.out.refinements += 1;
        Ok(())
    }

    fn block(&mut self, block_start: usize, tokens: &[u32]) -> Check {
        if block_start != self.block_start || self.refinement == 0 {
            return Err(format!("block {block_start} is not the one that was refined"));
        }
        let Request { eos_ids, stop_ids, .. } = &self.out.settings;
        let first = self.block_start.max(self.start());
        let mut derived = self.canvas[first..].to_vec();
        let open = self.holes.first().copied().unwrap_or(self.canvas.len());
        let ends = |id: &u32| eos_ids.contains(id) || stop_ids.contains(id);
        let end = derived.iter().position(ends).filter(|at| first + at < open);
        let left = self.mode == Mode::Reference && !self.holes.is_empty();
        match end.filter(|_| !left) {
            Some(at) if eos_ids.contains(&derived[at]) => {
                let eos = derived[at];
                derived[at..].fill(eos);
            }
            Some(at) => derived.truncate(at + 1),
            None if self.holes.is_empty() || left => {}
            None => return Err(format!("block {block_start} ends with holes at {:?}", self.holes)),
        }
        if derived != tokens {
            return Err(format!("block {block_start} holds {tokens:?}: derived {derived:?}"));
        }
        self.canvas.truncate(first);
        self.canvas.extend_from_slice(tokens);
        self.block_start = self.canvas.len();
        self.open_block(None);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Replayed {
        // Of a block that was not finished nothing counts.
        self.canvas.truncate(self.block_start.max(self.start()));
        self.out.tokens = self.canvas.split_off(self.start());
        self.out.text_len = self.out.text_len.min(self.out.tokens.len());
        self.out
    }
}
