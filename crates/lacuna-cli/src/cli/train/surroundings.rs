//! Says what a run's record tells of the program and the machine.

use candle_core::Device;
use lacuna::train::{Machine, Surroundings, measured_peak};
use std::time::{SystemTime, UNIX_EPOCH};

/// The surroundings of a run on a device of this name, whose peak is measured now.
pub(super) fn of(name: &str, device: &Device) -> Surroundings {
    let mut machine = machine(name);
    machine.peak_flop_per_second = measured_peak(device).ok();
    Surroundings { machine, now, unix_seconds, peak_memory_bytes, memory_bytes }
}

/// The program and the machine.
pub(super) fn machine(device: &str) -> Machine {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_cpu(sysinfo::CpuRefreshKind::nothing())
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram()),
    );
    let processor = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Machine {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("LACUNA_COMMIT").map(str::to_owned),
        system: sysinfo::System::long_os_version().unwrap_or_else(|| std::env::consts::OS.into()),
        architecture: std::env::consts::ARCH.to_owned(),
        processor: processor.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into()),
        cores: system.cpus().len(),
        threads: std::env::var("RAYON_NUM_THREADS")
            .ok()
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0)
            .unwrap_or(threads),
        memory_bytes: system.total_memory(),
        device: device.to_owned(),
        peak_flop_per_second: None,
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Now, in universal time, to the second: `2026-11-26T01:06:22Z`.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// The most memory that this process has held; where the system keeps no such record, what it holds now.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    in_status("VmHWM:").or_else(memory_of_process)
}

/// The memory that this process holds now.
fn memory_bytes() -> Option<u64> {
    in_status("VmRSS:").or_else(memory_of_process)
}

/// A line of Linux' record of this process, in bytes.
fn in_status(name: &str) -> Option<u64> {
    let status = lacuna_files::read_text("/proc/self/status".as_ref(), 1 << 20).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn memory_of_process() -> Option<u64> {
    let this = sysinfo::get_current_pid().ok()?;
    let mut system = sysinfo::System::new();
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[this]), true);
    system.process(this).map(sysinfo::Process::memory)
}
