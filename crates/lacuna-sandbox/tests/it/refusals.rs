//! Asks for what can't be done, and expects a reason and nothing run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lacuna_sandbox::{Error, Policy, Program, run};

use crate::support::{can_run, folder, is_root};

/// The reason for which a program is not run.
fn refusal(program: &Program, policy: &Policy) -> String {
    run(program, policy).expect_err("it must not run").to_string()
}

fn truth() -> Program {
    Program::new("/bin/true")
}

#[test]
fn what_is_not_there_is_named() {
    if !can_run(&Policy::function()) {
        return;
    }
    let told = refusal(&Program::new("/nowhere/program"), &Policy::function());
    assert!(told.starts_with("/nowhere/program: can't be opened: No such file"), "{told}");
    let told = refusal(&truth(), &Policy::files("/nowhere/folder"));
    assert!(told.starts_with("/nowhere/folder: can't be opened"), "{told}");
    let told = refusal(&truth(), &Policy::function().readable("/nowhere/library"));
    assert!(told.starts_with("/nowhere/library: can't be opened"), "{told}");
    let told = refusal(&truth().args(["a\0b"]), &Policy::function());
    assert!(told.contains("zero byte"), "{told}");
}

#[test]
fn a_script_or_a_text_is_no_program() {
    let folder = folder();
    let policy = Policy::files(folder.path());
    if !can_run(&policy) {
        return;
    }
    for (text, mode) in [("#!/bin/sh\necho x\n", 0o755), ("text", 0o755), ("text", 0o644)] {
        let path = folder.path().join("script");
        fs::write(&path, text).expect("ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let told = refusal(&Program::new(&path), &policy);
        assert!(
            told.starts_with("could not run the program") && told.contains("interpreter"),
            "{told}"
        );
    }
}

#[test]
fn a_folder_that_the_programs_user_can_not_write_is_refused() {
    let folder = folder();
    let inside = folder.path().join("closed");
    fs::create_dir(&inside).expect("ours");
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o555)).expect("ours");
    for policy in [Policy::files(&inside), Policy::spawn(&inside)] {
        if can_run(&policy) {
            let told = refusal(&truth(), &policy);
            assert!(
                told.starts_with("could not use the folder") && told.contains("chown"),
                "{told}"
            );
        }
    }
}

#[test]
fn nobody_stays_root_and_only_root_chooses() {
    if !can_run(&Policy::function()) {
        return;
    }
    let told = refusal(&truth(), &Policy::function().user(0, 0));
    assert!(told.contains("user 0 is root"), "{told}");
    let chosen = run(&truth(), &Policy::function().user(12_345, 12_345));
    if is_root() {
        assert!(chosen.is_ok_and(|report| report.succeeded()));
    } else {
        assert!(chosen.is_err_and(|error| error.to_string().contains("only root can choose")));
    }
}

#[test]
fn insisting_changes_nothing_where_all_can_be_enforced() {
    let policy = Policy::function().unsafe_execution();
    match Policy::function().check() {
        Ok(()) => assert_eq!(run(&truth(), &policy).expect("it runs").not_enforced, []),
        Err(error) => {
            assert!(matches!(error, Error::Missing { .. }), "{error}");
            assert!(error.to_string().contains("unsafe_execution"), "{error}");
        }
    }
}
