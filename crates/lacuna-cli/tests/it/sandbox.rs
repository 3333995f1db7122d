//! Runs `sandbox`: programs with their own output and status, and what they may not do.

use std::process::{Command, Output};

use crate::support::{lacuna, said};

/// Tells whether this machine can contain programs, and says so aloud if not.
fn can_contain() -> bool {
    let checked = lacuna_sandbox::Policy::spawn(std::env::temp_dir()).check();
    checked.inspect_err(|error| eprintln!("SKIPPED: {error}")).is_ok()
}

fn sandbox(args: &[&str]) -> Output {
    lacuna(&[&["sandbox"], args].concat())
}

#[test]
fn output_errors_and_status_are_the_program_s_own() {
    if !can_contain() {
        return;
    }
    let ended =
        sandbox(&["--profile", "spawn", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(ended.status.code(), Some(7));
    let json = sandbox(&["--json", "--", "echo", "ä"]);
    let read: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((read["stdout"].as_str(), read["status"].as_i64()), (Some("ä\n"), Some(0)));
}

#[test]
fn a_program_that_goes_on_too_long_ends_with_124_and_a_signal_is_told() {
    if !can_contain() {
        return;
    }
    let ended = sandbox(&["--time", "0.3", "--", "sleep", "60"]);
    assert_eq!(ended.status.code(), Some(124), "{}", said(&ended));
    assert!(said(&ended).contains("too long"), "{}", said(&ended));
    let ended = sandbox(&["--profile", "spawn", "--", "sh", "-c", "kill -SEGV $$"]);
    assert_eq!(ended.status.code(), Some(128 + 11), "{}", said(&ended));
}

#[test]
fn files_that_the_command_line_names_are_read_and_no_others() {
    if !can_contain() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("named"), "seen").unwrap();
    std::fs::write(folder.path().join("other"), "secret").unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        command.current_dir(folder.path()).arg("sandbox").args(args).output().unwrap()
    };
    assert_eq!(run(&["--", "cat", "named"]).stdout, b"seen");
    let other = folder.path().join("other");
    let script = format!("cat {}", other.display());
    let refused = run(&["--profile", "spawn", "--", "sh", "-c", &script]);
    assert!(!refused.status.success() && refused.stdout.is_empty());
}

#[test]
fn a_program_writes_into_a_folder_of_its_own_which_is_gone_afterwards() {
    if !can_contain() {
        return;
    }
    let script = "pwd; echo x > here && cat here; ls";
    let ended = sandbox(&["--profile", "spawn", "--", "sh", "-c", script]);
    let told = String::from_utf8(ended.stdout).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[1..], ["x", "here"], "{told}");
    assert!(!std::path::Path::new(lines[0]).exists(), "{told}");
}

#[test]
fn what_can_t_be_run_is_said_with_a_status_of_its_own() {
    let unknown = sandbox(&["--", "no-such-program"]);
    assert_eq!(unknown.status.code(), Some(125));
    assert!(said(&unknown).contains("no program `no-such-program`"), "{}", said(&unknown));
    let folder = sandbox(&["--folder", "/tmp", "--", "true"]);
    assert_eq!(folder.status.code(), Some(2), "{}", said(&folder));
    assert_eq!(sandbox(&[]).status.code(), Some(2));
}
