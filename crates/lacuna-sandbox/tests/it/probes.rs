//! Runs inside of the sandbox, or as a caller of its own, when another test starts this program again.

use lacuna_sandbox::{Policy, Program, run};

use crate::support::folder;

/// Calls that reach beyond a program, or into the kernel's less trodden parts.
const FORBIDDEN: &[(&str, libc::c_long)] = &[
    ("acct", libc::SYS_acct),
    ("add_key", libc::SYS_add_key),
    ("adjtimex", libc::SYS_adjtimex),
    ("bind", libc::SYS_bind),
    ("bpf", libc::SYS_bpf),
    ("capset", libc::SYS_capset),
    ("chroot", libc::SYS_chroot),
    ("clock_settime", libc::SYS_clock_settime),
    ("connect", libc::SYS_connect),
    ("delete_module", libc::SYS_delete_module),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("fchmod", libc::SYS_fchmod),
    ("fchmodat", libc::SYS_fchmodat),
    ("fchmodat2", libc::SYS_fchmodat2),
    ("fchown", libc::SYS_fchown),
    ("fchownat", libc::SYS_fchownat),
    ("fgetxattr", libc::SYS_fgetxattr),
    ("finit_module", libc::SYS_finit_module),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsetxattr", libc::SYS_fsetxattr),
    ("fsmount", libc::SYS_fsmount),
    ("fsopen", libc::SYS_fsopen),
    ("get_mempolicy", libc::SYS_get_mempolicy),
    ("init_module", libc::SYS_init_module),
    ("inotify_init1", libc::SYS_inotify_init1),
    ("io_setup", libc::SYS_io_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("ioprio_set", libc::SYS_ioprio_set),
    ("kcmp", libc::SYS_kcmp),
    ("kexec_load", libc::SYS_kexec_load),
    ("keyctl", libc::SYS_keyctl),
    ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
    ("listen", libc::SYS_listen),
    ("lookup_dcookie", libc::SYS_lookup_dcookie),
    ("memfd_create", libc::SYS_memfd_create),
    ("memfd_secret", libc::SYS_memfd_secret),
    ("migrate_pages", libc::SYS_migrate_pages),
    ("mincore", libc::SYS_mincore),
    ("mknodat", libc::SYS_mknodat),
    ("mlock", libc::SYS_mlock),
    ("mount", libc::SYS_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("move_mount", libc::SYS_move_mount),
    ("move_pages", libc::SYS_move_pages),
    ("mq_open", libc::SYS_mq_open),
    ("msgget", libc::SYS_msgget),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("open_tree", libc::SYS_open_tree),
    ("openat2", libc::SYS_openat2),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("personality", libc::SYS_personality),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    ("pivot_root", libc::SYS_pivot_root),
    ("prctl", libc::SYS_prctl),
    ("process_madvise", libc::SYS_process_madvise),
    ("process_mrelease", libc::SYS_process_mrelease),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("ptrace", libc::SYS_ptrace),
    ("quotactl", libc::SYS_quotactl),
    ("reboot", libc::SYS_reboot),
    ("request_key", libc::SYS_request_key),
    ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo),
    ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("sched_setscheduler", libc::SYS_sched_setscheduler),
    ("seccomp", libc::SYS_seccomp),
    ("semget", libc::SYS_semget),
    ("setdomainname", libc::SYS_setdomainname),
    ("setgid", libc::SYS_setgid),
    ("setgroups", libc::SYS_setgroups),
    ("sethostname", libc::SYS_sethostname),
    ("setns", libc::SYS_setns),
    ("setpriority", libc::SYS_setpriority),
    ("setresgid", libc::SYS_setresgid),
    ("setresuid", libc::SYS_setresuid),
    ("settimeofday", libc::SYS_settimeofday),
    ("setuid", libc::SYS_setuid),
    ("setxattr", libc::SYS_setxattr),
    ("shmget", libc::SYS_shmget),
    ("socket", libc::SYS_socket),
    ("splice", libc::SYS_splice),
    ("swapon", libc::SYS_swapon),
    ("symlinkat", libc::SYS_symlinkat),
    ("syslog", libc::SYS_syslog),
    ("tee", libc::SYS_tee),
    ("truncate", libc::SYS_truncate),
    ("umount2", libc::SYS_umount2),
    ("unshare", libc::SYS_unshare),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("utimensat", libc::SYS_utimensat),
    ("vhangup", libc::SYS_vhangup),
    ("vmsplice", libc::SYS_vmsplice),
];

/// Arguments that no call can do anything with.
const NONSENSE: libc::c_long = -1;

#[test]
#[ignore = "runs inside of the sandbox"]
fn makes_forbidden_calls() {
    for (name, call) in FORBIDDEN {
        // SAFETY: no call accepts these arguments.
        let answer = unsafe {
            libc::syscall(*call, NONSENSE, NONSENSE, NONSENSE, NONSENSE, NONSENSE, NONSENSE)
        };
        let error = std::io::Error::last_os_error();
        let is_refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS));
        if answer != -1 || !is_refused {
            println!("REACHED {name}: {answer}, {error}");
        }
    }
    println!("CALLS MADE");
}

/// The number of `getpid` in the tables of 32-bit programs, and in that of 64-bit programs with short pointers.
#[cfg(target_arch = "x86_64")]
const OTHER_TABLES: (u32, libc::c_long) = (20, 0x4000_0000 | libc::SYS_getpid);

#[test]
#[ignore = "runs inside of the sandbox"]
#[cfg(target_arch = "x86_64")]
fn makes_calls_by_other_tables() {
    // SAFETY: the call takes no arguments.
    let answer = unsafe { libc::syscall(OTHER_TABLES.1) };
    println!("SHORT POINTERS {answer}");
    let mut number = OTHER_TABLES.0;
    // SAFETY: the call takes no arguments and changes this register alone.
    unsafe { std::arch::asm!("int 0x80", inout("eax") number) };
    println!("REACHED the table of 32-bit programs: {number}");
}

#[test]
#[ignore = "is a caller that another test kills"]
fn waits_for_a_program_that_sleeps() {
    let folder = folder();
    let variable = |name| std::env::var(name).expect("given by the test");
    let policy = match variable("PROFILE").as_str() {
        "spawn" => Policy::spawn(folder.path()),
        _ => Policy::function(),
    };
    let seconds = variable("SECONDS");
    let program = match variable("PROFILE").as_str() {
        "spawn" => {
            let script = format!("(setsid /bin/sleep {seconds} &); /bin/sleep {seconds}");
            Program::new("/bin/sh").args(["-c".to_owned(), script])
        }
        _ => Program::new("/bin/sleep").args([seconds]),
    };
    run(&program, &policy).expect("it can be started");
}
