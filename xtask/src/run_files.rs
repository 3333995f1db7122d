//! Reads what a run leaves and no clock has a part in, to compare two runs byte by byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The numbers of a line that no run has twice.
const TIMED: [&str; 2] = ["tokens_per_second", "machine"];

/// The weights and the scores of a run as they stand, and the lines of some of its logs without their times.
pub(crate) fn timeless(
    run: &Path,
    logs: &[&'static str],
) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for name in ["final/model.safetensors", "results.json"] {
        found.insert(name, fs::read(run.join(name)).context(name)?);
    }
    for name in logs.iter().copied() {
        let text = fs::read_to_string(run.join(name)).context(name)?;
        let mut kept = String::new();
        for line in text.lines() {
            let mut object: serde_json::Value = serde_json::from_str(line)?;
            for timed in TIMED {
                object.as_object_mut().context("a line is no object")?.remove(timed);
            }
            kept.push_str(&object.to_string());
            kept.push('\n');
        }
        found.insert(name, kept.into_bytes());
    }
    Ok(found)
}
