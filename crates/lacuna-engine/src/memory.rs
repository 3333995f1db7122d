//! Knows what memory the machine has to give, and whether a model fits.

use lacuna_checkpoint::{
    CachePrecision, MemoryEstimate, StorageDtype, Weights, Workload, shown_size as size,
};
use std::path::{Path, PathBuf};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::advice::Knob;
use crate::error::{Error, Result};

/// The memory that a model may plan with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The memory that the machine has available now ([`available_bytes`]); no limit where that is
    /// not known.
    #[default]
    Available,
    /// This many bytes.
    Bytes(u64),
    /// No check.
    Unlimited,
}

impl MemoryLimit {
    /// The number, if there is one.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::Available => available_bytes(),
            Self::Bytes(bytes) => Some(bytes),
            Self::Unlimited => None,
        }
    }
}

/// Refuses, with the numbers, what does not fit.
pub(crate) fn check(
    path: &Path,
    weights: &Weights,
    dtype: Option<StorageDtype>,
    work: Workload,
    limit: MemoryLimit,
) -> Result<()> {
    let Some(limit_bytes) = limit.bytes() else { return Ok(()) };
    let needed = weights.memory(dtype, work);
    if needed.total() <= limit_bytes {
        return Ok(());
    }
    let MemoryEstimate { weights: held, cache, activations, program } = needed;
    let smaller = [StorageDtype::Q8_0, StorageDtype::Q4K].into_iter().find_map(|dtype| {
        let total = weights.memory(Some(dtype), work).total();
        (total <= limit_bytes)
            .then(|| format!("{} {dtype} needs about {}; ", Knob::Dtype, size(total)))
    });
    let packed = CachePrecision::ALL.into_iter().find_map(|cache| {
        let total = weights.memory(dtype, Workload { cache, ..work }).total();
        (total <= limit_bytes)
            .then(|| format!("{} {cache} needs about {}; ", Knob::CachePrecision, size(total)))
    });
    let reason = format!(
        "needs about {}: {} of weights, {} of keys and values for {} tokens, {} of activations, {} of program and \
         tokenizer; {} {}; \
         {}{}{} unlimited tries it all the same",
        size(needed.total()),
        size(held),
        size(cache),
        work.context,
        size(activations),
        size(program),
        size(limit_bytes),
        if limit == MemoryLimit::Available { "are available" } else { "are allowed" },
        smaller.unwrap_or_default(),
        packed.unwrap_or_default(),
        Knob::Memory,
    );
    let (path, reason) = (path.to_owned(), reason.into());
    Err(Error::TooLarge { path, needed: needed.total(), limit: limit_bytes, reason })
}

/// Bytes that can be had without swapping: what the system says, and what the control groups that this process
/// is in still allow. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let bytes = System::new_with_specifics(what).available_memory();
    // Groups by ourselves: sysinfo counts pages of files, and so mapped weights, as lost.
    let groups = lacuna_files::read_text("/proc/self/cgroup".as_ref(), MOST_BYTES);
    let groups = groups.unwrap_or_default();
    let limits = control_groups(&groups).into_iter().filter_map(|dir| group_bytes(&dir));
    (bytes > 0).then(|| limits.fold(bytes, u64::min))
}

/// The directories of the process' memory control groups, each with its parents.
fn control_groups(text: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let root = match parts.next() {
            Some("") => "/sys/fs/cgroup",
            Some(kinds) if kinds.split(',').any(|kind| kind == "memory") => "/sys/fs/cgroup/memory",
            _ => continue,
        };
        let inner = parts.next().unwrap_or("/").trim_start_matches('/');
        // Inside a container the path is one of the host's, and its own group is the root.
        let below = Path::new(inner).ancestors().map(|part| Path::new(root).join(part));
        directories.extend(below);
    }
    directories
}

/// The memory that a group still allows. Pages of files count as used there although they can be
/// dropped.
fn group_bytes(dir: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        lacuna_files::read_text(&dir.join(name), MOST_BYTES).ok()?.trim().parse().ok()
    };
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = lacuna_files::read_text(&dir.join("memory.stat"), MOST_BYTES).unwrap_or_default();
    let field = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let droppable = field("inactive_file ").unwrap_or(0) + field("active_file ").unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(droppable)))
}

/// Of a text of the system's.
const MOST_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn control_groups_are_found_in_both_versions_with_their_parents() {
        let both = "12:cpu,memory:/a/b\n3:cpu:/x\n0::/user.slice/u\n";
        let paths: Vec<String> =
            control_groups(both).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/memory/a/b",
                "/sys/fs/cgroup/memory/a",
                "/sys/fs/cgroup/memory/",
                "/sys/fs/cgroup/user.slice/u",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup/",
            ]
        );
    }

    #[test]
    fn a_group_allows_its_limit_less_what_cannot_be_dropped() {
        let dir = std::env::temp_dir().join(format!("lacuna-group-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory");
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("room");
        write("memory.current", "700\n");
        write("memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n");
        write("memory.max", "max\n");
        assert_eq!(group_bytes(&dir), None);
        write("memory.max", "1000\n");
        assert_eq!(group_bytes(&dir), Some(600));
        fs::remove_dir_all(&dir).expect("it is ours");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_what_it_has() {
        let bytes = available_bytes().expect("Linux says so");
        assert!(bytes > 1 << 20, "{bytes}");
    }
}
