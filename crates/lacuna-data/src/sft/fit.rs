//! Lets samples share windows without cutting them.

use super::{ChatOptions, ChatPacking};
use crate::error::Result;
use crate::packing::{Packer, Sample};
use crate::shard::ShardWriter;

/// The windows that wait for samples which fit into the rest of them.
const OPEN: usize = 64;

/// The place that samples are written into, one behind the other.
pub(super) trait Sink {
    fn push_sample(&mut self, sample: &Sample, text_bytes: usize) -> Result<()>;
    fn fill_window(&mut self, pad: u32) -> Result<()>;
}

impl Sink for Packer {
    fn push_sample(&mut self, sample: &Sample, _: usize) -> Result<()> {
        Packer::push_sample(self, sample)
    }

    fn fill_window(&mut self, pad: u32) -> Result<()> {
        Packer::fill_window(self, pad);
        Ok(())
    }
}

impl Sink for ShardWriter {
    fn push_sample(&mut self, sample: &Sample, text_bytes: usize) -> Result<()> {
        ShardWriter::push_sample(self, sample, text_bytes)
    }

    fn fill_window(&mut self, pad: u32) -> Result<()> {
        ShardWriter::fill_window(self, pad)
    }
}

/// Samples on their way into windows: each goes into the first open window that has room for it.
pub(super) struct Fitter<S> {
    sink: S,
    packing: ChatPacking,
    window_len: usize,
    pad: u32,
    open: Vec<Window>,
}

#[derive(Default)]
struct Window {
    samples: Vec<(Sample, usize)>,
    tokens: usize,
}

impl<S: Sink> Fitter<S> {
    pub(super) fn new(sink: S, options: &ChatOptions<'_>) -> Self {
        let ChatOptions { packing, window_len, pad, .. } = *options;
        Self { sink, packing, window_len: window_len.get(), pad, open: vec![] }
    }

    /// Takes a sample, which is no longer than a window unless it may be cut.
    pub(super) fn push(&mut self, sample: Sample, text_bytes: usize) -> Result<()> {
        let tokens = sample.tokens.len();
        if self.packing == ChatPacking::RunOn {
            return self.sink.push_sample(&sample, text_bytes);
        }
        if tokens > self.window_len {
            // Every window that was written is full, so it begins one.
            self.sink.push_sample(&sample, text_bytes)?;
            return self.sink.fill_window(self.pad);
        }
        let has_room = |window: &Window| window.tokens + tokens <= self.window_len;
        let at = match self.open.iter().position(has_room) {
            Some(at) => at,
            None => {
                if self.open.len() == OPEN {
                    self.close_fullest()?;
                }
                self.open.push(Window::default());
                self.open.len() - 1
            }
        };
        self.open[at].tokens += tokens;
        self.open[at].samples.push((sample, text_bytes));
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<S> {
        for window in std::mem::take(&mut self.open) {
            self.write(&window)?;
        }
        Ok(self.sink)
    }

    fn close_fullest(&mut self) -> Result<()> {
        let fullest = (0..self.open.len()).rev().max_by_key(|at| self.open[*at].tokens);
        let window = self.open.remove(fullest.expect("a window is open"));
        self.write(&window)
    }

    fn write(&mut self, window: &Window) -> Result<()> {
        for (sample, text_bytes) in &window.samples {
            self.sink.push_sample(sample, *text_bytes)?;
        }
        self.sink.fill_window(self.pad)
    }
}
