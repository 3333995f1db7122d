//! Lists the system calls that programs may make, by profile. Whatever is not listed is refused.
//!
//! A call is here because ordinary programs make it *and* because it reaches nothing outside of the program that
//! Landlock does not confine. Landlock does not confine modes, owners, times and attributes of files: so `chown` and
//! `setxattr` are not here, and `chmod` and `utimensat` only for `modes` to carry out. Nor are calls that hide memory (`memfd_create`, `shmget`), that reach other
//! processes (`ptrace`, `process_vm_readv`, `pidfd_getfd`, `kcmp`), that make the kernel work on its own (`io_uring_setup`,
//! `bpf`, `userfaultfd`), that outlive the program (`keyctl`, `mq_open`, `semget`), or that name a socket.

use libc::*;

/// The calls of a program that reads files, computes and waits.
#[rustfmt::skip] // a column of names is no easier to read
pub(super) const ALWAYS: &[c_long] = &[
    // Open files.
    SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_write, SYS_writev, SYS_pwrite64,
    SYS_pwritev, SYS_pwritev2, SYS_close, SYS_close_range, SYS_lseek, SYS_fstat, SYS_newfstatat,
    SYS_statx, SYS_statfs, SYS_fstatfs, SYS_faccessat, SYS_faccessat2, SYS_readlinkat,
    SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_dup, SYS_dup3, SYS_pipe2, SYS_sendfile,
    SYS_fadvise64, SYS_umask,
    // Memory.
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_msync,
    // Threads.
    SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_set_tid_address, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_getcpu, SYS_membarrier, SYS_exit, SYS_exit_group,
    SYS_restart_syscall,
    // Signals of its own.
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_signalfd4,
    // Waiting.
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2,
    SYS_eventfd2, SYS_nanosleep, SYS_clock_nanosleep, SYS_setitimer, SYS_getitimer,
    SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_timer_create,
    SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, SYS_wait4,
    SYS_waitid,
    // Questions.
    SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_times, SYS_getrusage, SYS_sysinfo,
    SYS_uname, SYS_getpid, SYS_getppid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid,
    SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_getpgid, SYS_getsid,
    SYS_getpriority, SYS_getrandom, SYS_getrlimit, SYS_capget,
];

/// Calls of older programs on x86-64; newer processors only have the general forms.
#[cfg(target_arch = "x86_64")]
pub(super) const ALWAYS_HERE: &[c_long] = &[
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_getdents,
    SYS_dup2,
    SYS_pipe,
    SYS_poll,
    SYS_select,
    SYS_epoll_create,
    SYS_epoll_wait,
    SYS_eventfd,
    SYS_signalfd,
    SYS_alarm,
    SYS_pause,
    SYS_time,
    SYS_getpgrp,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const ALWAYS_HERE: &[c_long] = &[];

/// The calls of a program that has a folder: Landlock says which names they may use.
#[rustfmt::skip] // a column of names is no easier to read
pub(super) const FILES: &[c_long] = &[
    SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_linkat, SYS_ftruncate, SYS_fallocate, SYS_fsync,
    SYS_fdatasync, SYS_copy_file_range, SYS_flock, SYS_mkdirat,
    // Both ends of a connection of its own; see `filter::sockets`.
    SYS_recvfrom, SYS_recvmsg, SYS_sendmsg, SYS_shutdown, SYS_getsockname, SYS_getpeername,
    SYS_getsockopt, SYS_setsockopt,
];

#[cfg(target_arch = "x86_64")]
pub(super) const FILES_HERE: &[c_long] = &[SYS_unlink, SYS_rmdir, SYS_rename, SYS_link, SYS_mkdir];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const FILES_HERE: &[c_long] = &[];

/// Calls that change modes and times of files, which the caller carries out in a program's folder.
pub(super) const MODES: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    SYS_chmod,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2,
    SYS_utimensat,
];

/// The calls of programs that start others. Signals reach their own kind alone, by Landlock's scope.
pub(super) const SPAWN: &[c_long] =
    &[SYS_execve, SYS_kill, SYS_tkill, SYS_tgkill, SYS_setpgid, SYS_setsid, SYS_pidfd_open];

#[cfg(target_arch = "x86_64")]
pub(super) const SPAWN_HERE: &[c_long] = &[SYS_fork, SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const SPAWN_HERE: &[c_long] = &[];

/// Requests of `ioctl`: is it a terminal, and of which size; how much is there to read; two flags.
pub(super) const IOCTLS: &[Ioctl] =
    &[TCGETS, TCGETS2, TIOCGWINSZ, TIOCGPGRP, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX];

/// Commands of `fcntl`. Not here: owners of signals (`F_SETOWN` sends `SIGIO`, or any signal, to another process), leases
/// (which make others wait), and the sizes of pipes.
pub(super) const FCNTLS: &[c_int] =
    &[F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETPIPE_SZ];

/// Commands of `fcntl` that lock parts of files, as databases do.
pub(super) const LOCKS: &[c_int] =
    &[F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW];

/// Options of `prctl` that only name things or ask. `PR_SET_PDEATHSIG` would let a program outlive its caller.
pub(super) const PRCTLS: &[c_int] =
    &[PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, PR_CAPBSET_READ];
