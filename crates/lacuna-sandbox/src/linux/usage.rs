//! Reads from /proc how much processes use.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::sys;

/// The use that processes make of the machine, at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// Threads of all of them.
    pub(super) tasks: u64,
    /// Memory that is theirs: touched or swapped out, with the tables that it takes. Pages that two of them share
    /// count twice.
    pub(super) memory_bytes: u64,
    /// The most that one of them held so far, with the files that it mapped.
    pub(super) peak_memory_bytes: u64,
    /// Time of the processor, of those too that a parent has waited for.
    pub(super) cpu_time: Duration,
}

impl Usage {
    /// Adds another process.
    fn add(&mut self, other: Usage) {
        self.tasks += other.tasks;
        self.memory_bytes += other.memory_bytes;
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
        self.cpu_time += other.cpu_time;
    }
}

/// Tells whether /proc answers what is asked of it here.
pub(super) fn is_readable() -> bool {
    fs::read_to_string("/proc/thread-self/children").is_ok()
        && fs::read_to_string("/proc/thread-self/status").is_ok()
}

/// The memory that this process has in its page tables, all of it counted.
pub(super) fn own_resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * sys::page_bytes()
}

/// Usage of a process; nothing if it has ended.
pub(super) fn of_process(pid: i32) -> Usage {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let held = ["RssAnon", "RssShmem", "VmPTE", "VmSwap"].map(value);
    Usage {
        tasks: value("Threads"),
        memory_bytes: held.iter().sum::<u64>() * 1024,
        peak_memory_bytes: value("VmHWM") * 1024,
        cpu_time: cpu_times(pid).iter().sum(),
    }
}

/// Usage of everything that descends from a process, not its own.
pub(super) fn of_descendants(pid: i32) -> Usage {
    let [_, _, waited_user, waited_system] = cpu_times(pid);
    let mut usage = Usage { cpu_time: waited_user + waited_system, ..Usage::default() };
    let (mut seen, mut queue) = (BTreeSet::new(), children(pid));
    while let Some(next) = queue.pop() {
        if seen.insert(next) {
            usage.add(of_process(next));
            queue.extend(children(next));
        }
    }
    usage
}

/// Children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    let mut found = Vec::new();
    for list in lists.flatten() {
        found.extend(list.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
    found
}

/// Time of the processor in the program and in the kernel, and the same of children that were waited for.
fn cpu_times(pid: i32) -> [Duration; 4] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything, follow the state and numbers.
    let numbers = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut times = numbers.split_whitespace().skip(11).map(|ticks| ticks.parse().unwrap_or(0));
    let second = sys::ticks_per_second();
    std::array::from_fn(|_| Duration::from_millis(times.next().unwrap_or(0) * 1000 / second))
}

/// Threads of all processes of a user.
pub(super) fn tasks_of_user(uid: u32) -> u64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let own = processes.flatten().filter(|entry| entry.metadata().is_ok_and(|m| m.uid() == uid));
    let pids = own.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(|pid: i32| of_process(pid).tasks).sum()
}
