//! Makes system calls that no program may make, by their numbers.

use lacuna_sandbox::{End, Policy, Program, Report};

use crate::support::{can_run, folder, out, report};

/// Runs a test of `probes` inside of the sandbox; nothing if this machine can't.
fn probe(policy: Policy, name: &str) -> Option<Report> {
    can_run(&policy).then(|| {
        let myself = std::env::current_exe().expect("running");
        let args = ["--ignored", "--exact", "--nocapture", "--test-threads=1", name];
        report(&Program::new(myself).args(args), &policy)
    })
}

#[test]
fn no_profile_lets_a_forbidden_call_through() {
    let folder = folder();
    for policy in [Policy::function(), Policy::files(folder.path()), Policy::spawn(folder.path())] {
        let Some(report) = probe(policy.clone(), "probes::makes_forbidden_calls") else { return };
        let text = out(&report);
        assert!(text.contains("CALLS MADE"), "{policy:?}: {report:?}");
        let reached: Vec<_> = text.lines().filter(|line| line.contains("REACHED")).collect();
        assert_eq!(reached, [""; 0], "{policy:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_tables_of_other_kinds_of_programs_are_closed() {
    let Some(report) = probe(Policy::function(), "probes::makes_calls_by_other_tables") else {
        return;
    };
    let text = out(&report);
    assert!(text.contains("SHORT POINTERS -1"), "{text}");
    assert!(!text.contains("REACHED"), "{text}");
    // A kernel without that table answers with a fault, which the program does not survive either.
    let ends = [End::Signalled(libc::SIGSYS), End::Signalled(libc::SIGSEGV)];
    assert!(ends.contains(&report.end), "{report:?}");
}
