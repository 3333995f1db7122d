//! Stands on older kernels: the same program with fewer of Landlock's rights.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use super::{SCOPES_ABI, run_with, sys};
use crate::policy::NOBODY;
use crate::{Error, Missing, Policy, Program, Report};

const PYTHON: &str = "/usr/bin/python3";

/// Runs code with a version of Landlock; nothing where there is no Python or no Landlock of that version.
fn report(policy: &Policy, abi: u32, code: &str, args: &[&Path]) -> Option<Report> {
    if !Path::new(PYTHON).exists() || sys::landlock_abi() < abi || policy.check().is_err() {
        eprintln!("SKIPPED: no {PYTHON}, or no Landlock of version {abi}");
        return None;
    }
    let program = Program::new(PYTHON).args(["-I", "-c", code]).args(args.iter().copied());
    Some(run_with(&program, policy, abi).expect("it can be started"))
}

fn given(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    let _ = chown(path, Some(NOBODY.uid), Some(NOBODY.gid)); // root alone can, and needs to
}

#[test]
fn older_versions_of_landlock_keep_files_as_they_are() {
    let outside = tempfile::tempdir().expect("a folder");
    let file = outside.path().join("kept");
    fs::write(&file, "kept").expect("ours");
    given(&file, 0o666);
    given(outside.path(), 0o777);
    let code = "\
import os, sys
f = sys.argv[1]
for attempt in (
  lambda: open(f, 'a').write('x'),
  lambda: os.open(f, os.O_RDONLY | os.O_TRUNC),
  lambda: os.open(f, 3 | os.O_TRUNC),
  lambda: os.truncate(f, 0),
  lambda: os.unlink(f),
  lambda: os.rename(f, f + 'x'),
  lambda: os.link(f, f + 'x'),
  lambda: os.kill(os.getppid(), 0) or os.unlink(f),
  lambda: open(f + 'x', 'w'),
):
  try: attempt(); print('ACHIEVED')
  except OSError: pass";
    for abi in 1..=SCOPES_ABI {
        let folder = tempfile::tempdir().expect("a folder");
        given(folder.path(), 0o777);
        for policy in [Policy::function(), Policy::files(folder.path())] {
            let Some(report) = report(&policy, abi, code, &[&file]) else { return };
            assert!(report.succeeded() && report.stdout.is_empty(), "version {abi}: {report:?}");
            assert_eq!(fs::read_to_string(&file).expect("kept"), "kept", "version {abi}");
        }
    }
    assert_eq!(fs::read_dir(outside.path()).expect("kept").count(), 1);
}

#[test]
fn without_scopes_programs_that_start_others_need_to_be_insisted_on_and_end_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    given(folder.path(), 0o777);
    let mut policy = Policy::spawn(folder.path());
    policy.limits.wall_time = Duration::from_secs(5);
    let refused = run_with(&Program::new("/bin/true"), &policy, SCOPES_ABI - 1);
    assert!(matches!(refused, Err(Error::Missing { .. })), "{refused:?}");
    let code = "\
import os, time
for i in range(3):
  if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
      os.close(1); os.close(2); open('pid%d' % i, 'w').write(str(os.getpid())); time.sleep(99)
    os._exit(0)
while len(os.listdir('.')) < 3 or not all(os.path.getsize(p) for p in os.listdir('.')): time.sleep(0.01)";
    let insisted = policy.unsafe_execution();
    let Some(report) = report(&insisted, SCOPES_ABI - 1, code, &[]) else { return };
    assert!(report.succeeded(), "{report:?}");
    assert_eq!(report.not_enforced, [Missing::LandlockScopes { abi: SCOPES_ABI - 1 }]);
    for entry in fs::read_dir(folder.path()).expect("ours") {
        let pid = fs::read_to_string(entry.expect("ours").path()).expect("ours");
        assert!(!Path::new("/proc").join(&pid).exists(), "{pid} still runs");
    }
}
