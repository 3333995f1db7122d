//! A denoiser whose logits are a hash of all that a position may see.

#![allow(dead_code, reason = "every test file uses its own part of this")]

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, bail};
use lacuna_samplers::{Denoiser, Lane};

pub(crate) const VOCAB: usize = 23;
pub(crate) const MASK: u32 = 5;
pub(crate) const EOS: u32 = 2;

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
    pending: HashMap<usize, Vec<u32>>,
    /// (sequence, committed tokens, block) of every lane of every pass.
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
            pending: HashMap::new(),
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

    fn of(&self, sequence: usize) -> &[u32] {
        self.committed.get(&sequence).map_or(&[], Vec::as_slice)
    }
}

fn mix(state: u64, word: u64) -> u64 {
    let mut x = state.rotate_left(17) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn tensor(rows: Vec<Vec<f32>>) -> Result<Tensor> {
    Tensor::new(rows, &Device::Cpu)
}

impl Denoiser for Scripted {
    fn prefill(&mut self, sequence: usize, tokens: &[u32], block_size: usize) -> Result<()> {
        assert!(!tokens.is_empty() && tokens.len().is_multiple_of(block_size));
        assert!(!self.committed.contains_key(&sequence), "prefill of a used sequence");
        self.prefills += 1;
        self.committed.insert(sequence, tokens.to_vec());
        Ok(())
    }

    fn denoise(&mut self, lanes: &[Lane<'_>]) -> Result<Tensor> {
        self.passes += 1;
        self.widest = self.widest.max(lanes.len());
        let mut rows = Vec::new();
        for lane in lanes {
            assert!(!lane.rows.is_empty() && lane.rows.is_sorted());
            assert!(!self.pending.contains_key(&lane.sequence), "a draft is pending");
            let committed = self.of(lane.sequence).to_vec();
            rows.extend(lane.rows.iter().map(|&row| self.row(&committed, lane.block, row)));
            self.seen.push((lane.sequence, committed, lane.block.to_vec()));
        }
        tensor(rows)
    }

    fn commit(&mut self, sequence: usize, block: &[u32]) -> Result<()> {
        self.commits += 1;
        self.committed.entry(sequence).or_default().extend_from_slice(block);
        Ok(())
    }

    fn speculate(
        &mut self,
        sequence: usize,
        draft: &[u32],
        block_size: usize,
        mask_id: u32,
    ) -> Result<Tensor> {
        assert!(!draft.is_empty() && draft.len().is_multiple_of(block_size));
        self.passes += 1;
        let mut committed = self.of(sequence).to_vec();
        let masked = vec![mask_id; block_size];
        let mut rows = Vec::new();
        for block in draft.chunks(block_size) {
            rows.extend((0..block_size).map(|row| self.row(&committed, &masked, row)));
            committed.extend_from_slice(block);
        }
        self.pending.insert(sequence, draft.to_vec());
        tensor(rows)
    }

    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<()> {
        let Some(draft) = self.pending.remove(&sequence) else { bail!("no draft is pending") };
        self.committed.entry(sequence).or_default().extend_from_slice(&draft[..tokens]);
        Ok(())
    }

    fn release(&mut self, sequence: usize) {
        self.committed.remove(&sequence);
        self.pending.remove(&sequence);
    }
}
