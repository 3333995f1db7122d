//! Writes traces to a file while a model decodes.

use lacuna_files::Log;
use lacuna_samplers::trace::Line;
use std::io;
use std::path::{Path, PathBuf};

use crate::Completion;

/// The trace of one request after the other, for `replay`: a conversation's turns are requests 0, 1, ….
///
/// Blocks that were decoded before a crash can be replayed: whole blocks are written at once, and a
/// reader passes over a last line that was cut off. Errors are the system's own; whoever records
/// says what for.
#[derive(Debug)]
pub struct TraceFile {
    path: PathBuf,
    log: Option<Log>,
    /// Lines of a block that is not whole yet.
    waiting: String,
    requests: usize,
}

impl TraceFile {
    /// A trace that is to be kept at `path`; the file is made, and an older one emptied, when the first request begins.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), log: None, waiting: String::new(), requests: 0 }
    }

    /// The path at which it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, before the first request.
    ///
    /// # Errors
    /// The system's reason.
    pub fn open(&mut self) -> io::Result<()> {
        if self.log.is_none() {
            self.log = Some(Log::create(&self.path)?);
        }
        Ok(())
    }

    /// Begins a request with its header.
    ///
    /// # Errors
    /// The system's reason.
    pub fn begin(&mut self, header: &Line) -> io::Result<()> {
        self.open()?;
        self.requests += 1;
        self.write(header.clone())
    }

    /// Takes a line of the request that was begun last.
    ///
    /// # Errors
    /// The system's reason.
    pub fn write(&mut self, mut line: Line) -> io::Result<()> {
        let number = self.requests.saturating_sub(1);
        match &mut line {
            Line::Header { request, .. } | Line::Block { request, .. } => *request = number,
            Line::End { request, .. } => *request = number,
            Line::Refinement(refinement) => refinement.request = number,
        }
        self.waiting.push_str(&line.to_json());
        self.waiting.push('\n');
        match line {
            Line::Refinement(_) => Ok(()),
            _ => self.flush(),
        }
    }

    /// Ends the request that was begun last.
    ///
    /// # Errors
    /// The system's reason.
    pub fn end(&mut self, completion: &Completion) -> io::Result<()> {
        self.write(completion.trace_end())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open()?;
        if let Some(log) = &mut self.log {
            log.append(self.waiting.as_bytes())?;
        }
        self.waiting.clear();
        Ok(())
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        if !self.waiting.is_empty() {
            // Best effort: of a request that failed, what was decoded.
            let _ = self.flush();
        }
    }
}
