//! Scripts a denoiser whose logits are a hash of all that a position may see.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use lacuna_samplers::{Denoiser, Draft, Event, Segment, Speculative, View};

pub(crate) const VOCAB: usize = 23;
pub(crate) const MASK: u32 = 5;
pub(crate) const EOS: u32 = 2;

/// The reason why the scripted denoiser failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// The failure of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// Its prefill.
    Prefill,
    /// Every pass that it takes part in, once so many tokens are committed.
    Denoise(usize),
    /// Its logits, which are NaN from then on.
    NotANumber(usize),
    /// Its logits, which are all -inf from then on.
    Nothing(usize),
    /// A commit that brings it beyond so many tokens.
    Commit(usize),
}

/// Logits at a position depend on (committed tokens, block content, position) and nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    seed: u64,
    /// A text the model tends to write, by absolute position.
    target: Vec<u32>,
    /// Of a hundred positions, how many favour eos, and how many favour MASK.
    eos_percent: u64,
    mask_percent: u64,
    /// Of a hundred positions, how many are sure of their favourite.
    sure_percent: u64,
    committed: HashMap<usize, Vec<u32>>,
    views: HashMap<usize, View>,
    pending: HashMap<usize, Vec<u32>>,
    failing: HashMap<usize, Failing>,
    /// (sequence, committed tokens, block) of every segment of every pass.
    pub(crate) seen: Vec<(usize, Vec<u32>, Vec<u32>)>,
    pub(crate) passes: usize,
    pub(crate) prefills: usize,
    pub(crate) commits: usize,
    pub(crate) widest: usize,
}

impl Scripted {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            target: Vec::new(),
            eos_percent: 0,
            mask_percent: 0,
            sure_percent: 25,
            committed: HashMap::new(),
            views: HashMap::new(),
            pending: HashMap::new(),
            failing: HashMap::new(),
            seen: Vec::new(),
            passes: 0,
            prefills: 0,
            commits: 0,
            widest: 0,
        }
    }

    pub(crate) fn with_eos(mut self, percent: u64) -> Self {
        self.eos_percent = percent;
        self
    }

    pub(crate) fn with_mask(mut self, percent: u64) -> Self {
        self.mask_percent = percent;
        self
    }

    pub(crate) fn with_target(mut self, target: &[u32]) -> Self {
        self.target = target.to_vec();
        self
    }

    pub(crate) fn with_sureness(mut self, percent: u64) -> Self {
        self.sure_percent = percent;
        self
    }

    pub(crate) fn with_failing(mut self, sequence: usize, failing: Failing) -> Self {
        self.failing.insert(sequence, failing);
        self
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    fn row(&self, committed: &[u32], block: &[u32], offset: usize) -> Vec<f32> {
        let position = committed.len() + offset;
        let mut state = mix(self.seed, position as u64);
        if self.target.is_empty() {
            for &token in committed {
                state = mix(state, u64::from(token));
            }
        }
        for &token in block {
            state = mix(state, u64::from(token) + 1000);
        }
        let mut row: Vec<f32> =
            (0..VOCAB as u64).map(|id| (mix(state, id) % 100_003) as f32 * 4e-5).collect();
        let draw = mix(state, 77) % 100;
        let favourite = if draw < self.eos_percent {
            EOS
        } else if draw < self.eos_percent + self.mask_percent {
            MASK
        } else if let Some(&token) = self.target.get(position) {
            token
        } else {
            (mix(state, 78) % VOCAB as u64) as u32
        };
        let sure = mix(state, 79) % 100 < self.sure_percent;
        row[favourite as usize] +=
            if sure { 14.0 } else { [1.0, 4.0, 8.0][(mix(state, 80) % 3) as usize] };
        row
    }

    /// The committed tokens of a sequence that was begun.
    fn of(&self, sequence: usize) -> &[u32] {
        self.committed.get(&sequence).expect("a sequence that was begun")
    }

    fn fails(&self, sequence: usize, how: fn(usize) -> Failing) -> bool {
        self.fails_at(sequence, self.committed.get(&sequence).map_or(0, Vec::len), how)
    }

    fn fails_at(&self, sequence: usize, tokens: usize, how: fn(usize) -> Failing) -> bool {
        (0..=tokens).any(|since| self.failing.get(&sequence) == Some(&how(since)))
    }

    fn failing_row(
        &self,
        sequence: usize,
        committed: &[u32],
        block: &[u32],
        at: usize,
    ) -> Vec<f32> {
        let mut row = self.row(committed, block, at);
        if self.fails_at(sequence, committed.len(), Failing::NotANumber) {
            row[7] = f32::NAN;
        } else if self.fails_at(sequence, committed.len(), Failing::Nothing) {
            row.fill(f32::NEG_INFINITY);
        }
        row
    }
}

fn mix(state: u64, word: u64) -> u64 {
    let mut x = state.rotate_left(17) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Denoiser for Scripted {
    type Error = Broken;

    fn prefill(&mut self, sequence: usize, tokens: &[u32], view: View) -> Result<(), Broken> {
        assert!(tokens.len().is_multiple_of(view.block_size().get()));
        assert!(!self.committed.contains_key(&sequence), "prefill of a used sequence");
        self.prefills += 1;
        if self.failing.get(&sequence) == Some(&Failing::Prefill) {
            return Err(Broken("no room for the prompt"));
        }
        self.committed.insert(sequence, tokens.to_vec());
        self.views.insert(sequence, view);
        Ok(())
    }

    fn denoise(
        &mut self,
        segments: &[Segment<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Broken> {
        self.passes += 1;
        self.widest = self.widest.max(segments.len());
        for segment in segments {
            let Segment { sequence, view, rows, .. } = *segment;
            assert!(!rows.is_empty() && rows.is_sorted());
            assert!(!self.pending.contains_key(&sequence), "a draft is pending");
            assert_eq!(self.views[&sequence], view);
            let committed = self.of(sequence).to_vec();
            // The token that follows under the causal view is what stands in a masked block of one.
            let block = match view {
                View::Blocks { .. } | View::CausalBlocks { .. } => segment.block,
                View::Causal => {
                    assert!(segment.block.is_empty() && rows == [0] && !committed.is_empty());
                    &[MASK]
                }
            };
            if self.fails(sequence, Failing::Denoise) {
                return Err(Broken("the pass is too long"));
            }
            for &row in rows {
                read(&self.failing_row(sequence, &committed, block, row));
            }
            self.seen.push((sequence, committed, block.to_vec()));
        }
        Ok(())
    }

    fn commit(&mut self, sequence: usize, tokens: &[u32]) -> Result<(), Broken> {
        self.commits += 1;
        let committed = self.committed.get_mut(&sequence).expect("a sequence that was begun");
        committed.extend_from_slice(tokens);
        match self.failing.get(&sequence) {
            Some(Failing::Commit(most)) if committed.len() > *most => Err(Broken("no room left")),
            _ => Ok(()),
        }
    }

    fn release(&mut self, sequence: usize) {
        self.committed.remove(&sequence);
        self.views.remove(&sequence);
        self.pending.remove(&sequence);
    }
}

impl Speculative for Scripted {
    fn speculate(
        &mut self,
        segments: &[Segment<'_>],
        drafts: &[Draft<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Broken> {
        self.denoise(segments, read)?;
        self.widest = self.widest.max(segments.len() + drafts.len());
        for Draft { sequence, view, tokens, .. } in drafts {
            let block_size = view.block_size().get();
            assert_eq!(self.views[sequence], *view);
            assert!(!tokens.is_empty() && tokens.len().is_multiple_of(block_size));
            assert!(!self.pending.contains_key(sequence), "a draft is pending");
            let last = self.of(*sequence).len() + tokens.len() - block_size;
            if self.fails_at(*sequence, last, Failing::Denoise) {
                return Err(Broken("the pass is too long"));
            }
            let mut committed = self.of(*sequence).to_vec();
            let masked = vec![MASK; block_size];
            for block in tokens.chunks(block_size) {
                for row in 0..block_size {
                    read(&self.failing_row(*sequence, &committed, &masked, row));
                }
                committed.extend_from_slice(block);
            }
        }
        for draft in drafts {
            self.pending.insert(draft.sequence, draft.tokens.to_vec());
        }
        Ok(())
    }

    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<(), Broken> {
        let draft = self.pending.remove(&sequence).ok_or(Broken("no draft is pending"))?;
        let committed = self.committed.get_mut(&sequence).expect("a sequence that was begun");
        committed.extend_from_slice(&draft[..tokens]);
        Ok(())
    }
}

/// Goes on whatever happens.
pub(crate) fn go_on(_: Event<'_>) -> ControlFlow<usize> {
    ControlFlow::Continue(())
}

/// A size of blocks.
pub(crate) fn size(block_size: usize) -> NonZeroUsize {
    NonZeroUsize::new(block_size).expect("not zero")
}
