//! Drives programs into every limit, and looks for what is left of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lacuna_sandbox::{End, Limit, Policy, Report};

use crate::support::{
    can_run, errors, folder, installed, out, processes_with, python, report, script,
};

const KILLED: End = End::Signalled(libc::SIGKILL);

/// Runs code with limits of a test's own; nothing if this machine can't.
fn limited(policy: Policy, code: &str) -> Option<Report> {
    let python = python().filter(|_| can_run(&policy))?;
    Some(report(&script(&python, code), &policy))
}

fn function(change: impl FnOnce(&mut Policy), code: &str) -> Option<Report> {
    let mut policy = Policy::function();
    policy.limits.wall_time = Duration::from_secs(5);
    change(&mut policy);
    limited(policy, code)
}

fn spawn(folder: &Path, change: impl FnOnce(&mut Policy), code: &str) -> Option<Report> {
    let mut policy = Policy::spawn(folder);
    policy.limits.wall_time = Duration::from_secs(5);
    change(&mut policy);
    limited(policy, code)
}

/// Waits a moment for processes to vanish: a killed one is seen until it is buried.
fn remaining(word: &str) -> Vec<u32> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) && !processes_with(word).is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    processes_with(word)
}

#[test]
fn endless_output_is_cut_off_on_both_streams() {
    for stream in ["stdout", "stderr"] {
        let code = format!("import sys\nwhile True: sys.{stream}.write('x' * 999)");
        let Some(report) = function(|policy| policy.limits.output_bytes = 100_000, &code) else {
            return;
        };
        assert_eq!((report.end, report.limit), (KILLED, Some(Limit::Output)));
        assert_eq!(report.stdout.len() + report.stderr.len(), 100_000);
    }
}

#[test]
fn output_up_to_the_limit_comes_whole_from_both_streams_at_once() {
    let code = "import sys\nfor _ in range(1000): sys.stdout.write('o' * 500); sys.stderr.write('e' * 500)";
    let Some(report) = function(|_| {}, code) else { return };
    assert!(report.succeeded(), "{report:?}");
    assert_eq!((report.stdout.len(), report.stderr.len()), (500_000, 500_000));
}

#[test]
fn time_on_the_clock_ends_what_sleeps_stops_or_ignores() {
    for code in [
        "import time; time.sleep(99)",
        "import os; os.kill(os.getpid(), 19)",
        "import signal, time\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\nsignal.alarm(1); time.sleep(99)",
        "import os, time; os.close(0); os.close(1); os.close(2); time.sleep(99)",
    ] {
        let change = |policy: &mut Policy| policy.limits.wall_time = Duration::from_millis(300);
        let Some(report) = function(change, code) else { return };
        assert_eq!((report.end, report.limit), (KILLED, Some(Limit::WallTime)), "{code}");
        assert!(report.wall_time < Duration::from_secs(2), "{report:?}");
    }
}

#[test]
fn time_of_the_processor_is_counted_over_threads_and_signals_do_not_help() {
    let code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass";
    let change = |policy: &mut Policy| policy.limits.cpu_time = Duration::from_millis(200);
    let Some(report) = function(change, code) else { return };
    assert_eq!((report.end, report.limit), (KILLED, Some(Limit::CpuTime)));
    assert!(report.cpu_time < Duration::from_secs(2), "{report:?}");
}

#[test]
fn three_gigabytes_are_not_to_be_had() {
    let Some(report) = function(|_| {}, "b = bytearray(3 << 30); print('ACHIEVED')") else {
        return;
    };
    assert_eq!(report.end, End::Exited(1));
    assert!(errors(&report).contains("MemoryError"), "{report:?}");
    let Some(report) = function(|_| {}, "b = bytearray(200 << 20); print(len(b))") else { return };
    assert!(report.succeeded(), "{report:?}");
    let used = report.peak_memory_bytes >> 20;
    assert!((200..300).contains(&used), "{used} MiB");
}

#[test]
fn memory_of_processes_is_counted_together_whatever_kind_it_is() {
    let folder = folder();
    for code in [
        "import os, time\nfor _ in range(4):\n  if os.fork() == 0: b = bytearray(100 << 20); time.sleep(9)\ntime.sleep(9)",
        "import mmap, time\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1\ntime.sleep(9)",
    ] {
        let change = |policy: &mut Policy| policy.limits.memory_bytes = 256 << 20;
        let Some(report) = spawn(folder.path(), change, code) else { return };
        assert_eq!((report.end, report.limit), (KILLED, Some(Limit::Memory)), "{code}");
    }
}

#[test]
fn a_file_ends_at_its_limit() {
    let folder = folder();
    let mut policy = Policy::files(folder.path());
    policy.limits.file_bytes = 1 << 20;
    let write =
        "with open('large', 'wb', buffering=0) as f:\n  while True: f.write(bytes(1 << 16))";
    let Some(report) = limited(policy.clone(), write) else { return };
    assert!(errors(&report).contains("File too large"), "{report:?}");
    assert_eq!(fs::metadata(folder.path().join("large")).expect("written").len(), 1 << 20);
    let unprotected =
        format!("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n{write}");
    let Some(report) = limited(policy, &unprotected) else { return };
    assert_eq!(report.limit, Some(Limit::FileSize), "{report:?}");
}

#[test]
fn a_folder_ends_a_program_that_fills_it() {
    for code in [
        "i = 0\nwhile True:\n  i += 1; open(str(i), 'wb').write(bytes(1 << 20))",
        "import os\ni = 0\nwhile True:\n  i += 1; os.mkdir(str(i))",
        "import os, time\nos.mkdir('a'); open('a/b', 'wb').write(bytes(9 << 20)); time.sleep(9)",
    ] {
        let folder = folder();
        let mut policy = Policy::files(folder.path());
        policy.limits.folder_bytes = 8 << 20;
        policy.limits.folder_entries = 500;
        policy.limits.wall_time = Duration::from_secs(5);
        let Some(report) = limited(policy, code) else { return };
        assert_eq!((report.end, report.limit), (KILLED, Some(Limit::Folder)), "{code}");
    }
}

#[test]
fn a_thousand_threads_end_a_program() {
    let code = "import threading, time\nthreading.stack_size(65536)\n\
                for _ in range(1000): threading.Thread(target=time.sleep, args=(9,)).start()";
    let Some(report) = function(|_| {}, code) else { return };
    assert_eq!((report.end, report.limit), (KILLED, Some(Limit::Tasks)), "{}", errors(&report));
}

#[test]
fn a_fork_bomb_ends_and_leaves_nothing() {
    let folder = folder();
    // Were there no sandbox around it, it would end by itself; not too soon, since on a busy machine a watcher waits its
    // turn beside as many processes.
    let code = "import os, time\nend = time.time() + 20\nwhile time.time() < end:\n  try: os.fork(); os.setsid()\n  except OSError: pass # bomb-7f3a";
    let Some(report) = spawn(folder.path(), |_| {}, code) else { return };
    assert_eq!(report.limit, Some(Limit::Tasks), "{report:?}");
    assert_eq!(remaining("bomb-7f3a"), [0; 0]);
}

#[test]
fn daemons_end_with_the_program_that_started_them() {
    let folder = folder();
    let code = "\
import os, signal, time
# daemon-51c2
for s in range(1, 65):
  try: signal.signal(s, signal.SIG_IGN)
  except (OSError, ValueError): pass
for _ in range(5):
  if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
      os.setsid() if os.getpgid(0) != os.getpid() else None
      time.sleep(99)
    os._exit(0)
print('started')";
    let Some(report) = spawn(folder.path(), |_| {}, code) else { return };
    assert!(report.succeeded(), "{report:?}");
    assert_eq!(out(&report), "started\n");
    assert!(report.wall_time < Duration::from_secs(3), "nobody waits for them: {report:?}");
    assert_eq!(remaining("daemon-51c2"), [0; 0]);
}

#[test]
fn a_program_that_ends_itself_is_reported_as_such_and_leaves_no_core() {
    let folder = folder();
    let files = || Policy::files(folder.path());
    let Some(report) = limited(files(), "import os; os._exit(3)") else { return };
    assert_eq!((report.end, report.limit), (End::Exited(3), None));
    let Some(report) = limited(files(), "import os; os.abort()") else { return };
    assert_eq!((report.end, report.limit), (End::Signalled(libc::SIGABRT), None));
    let Some(report) = limited(Policy::spawn(folder.path()), "import os; os.abort()") else {
        return;
    };
    assert_eq!((report.end, report.limit), (End::Signalled(libc::SIGABRT), None));
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}

#[test]
fn programs_end_when_their_caller_is_killed() {
    for profile in ["function", "spawn"] {
        let Some(_) = installed(&["/bin/sleep"]) else { return };
        let word = format!("7{}.5", if profile == "spawn" { 31 } else { 32 });
        let myself = std::env::current_exe().expect("running");
        let mut caller = std::process::Command::new(myself)
            .args(["--ignored", "--exact", "probes::waits_for_a_program_that_sleeps"])
            .env("PROFILE", profile)
            .env("SECONDS", &word)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("ourselves");
        let start = Instant::now();
        let sleeps = || !processes_with(&word).is_empty();
        while start.elapsed() < Duration::from_secs(5) && !sleeps() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let began = sleeps();
        caller.kill().expect("ours");
        caller.wait().expect("ours");
        assert!(began || !can_run(&Policy::function()), "{profile}");
        assert_eq!(remaining(&word), [0; 0], "{profile}");
    }
}
