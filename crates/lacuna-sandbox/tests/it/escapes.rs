//! Tries to get out, in every way of a table, and looks at the world afterwards.

use std::path::Path;
use std::time::Duration;

use lacuna_sandbox::Policy;

use crate::support::{SECRET, World, can_run, errors, folder, out, python, report, script};

/// Attempts that print `ACHIEVED` or change the world if they succeed. An attempt may fail in any way it likes.
const ATTEMPTS: &[(&str, &str)] = &[
    ("write a new file", "open(outside + '/new', 'w').write('x')"),
    ("append to a file", "open(outside + '/kept', 'a').write('x')"),
    ("write in /tmp", "open('/tmp/lacuna-sandbox-x', 'w'); print('ACHIEVED')"),
    ("write in /var/tmp", "open('/var/tmp/lacuna-sandbox-x', 'w'); print('ACHIEVED')"),
    ("write in /dev/shm", "open('/dev/shm/lacuna-sandbox-x', 'w'); print('ACHIEVED')"),
    ("empty a file while reading it", "os.open(outside + '/kept', os.O_RDONLY | os.O_TRUNC)"),
    ("empty a file in no mode", "os.open(outside + '/kept', 3 | os.O_TRUNC)"),
    ("truncate a file", "os.truncate(outside + '/kept', 0)"),
    ("delete a file", "os.unlink(outside + '/kept')"),
    (
        "delete by a reloaded module",
        "import importlib, posix; importlib.reload(posix).unlink(outside + '/kept')",
    ),
    ("delete by the C library", "libc().unlink((outside + '/kept').encode())"),
    ("delete by number of the call", "libc().syscall(263, -100, (outside + '/kept').encode(), 0)"),
    ("rename a file", "os.rename(outside + '/kept', outside + '/gone')"),
    (
        "rename by the newer call",
        "libc().syscall(316, -100, (outside + '/kept').encode(), -100, (outside + '/new').encode(), 0)",
    ),
    ("make a folder", "os.mkdir(outside + '/new')"),
    ("remove everything", "import shutil; shutil.rmtree(outside)"),
    ("change a mode", "os.chmod(outside + '/kept', 0o600)"),
    (
        "change a mode by the newer call",
        "libc().syscall(452, -100, (outside + '/kept').encode(), 0o600, 0)",
    ),
    ("change a time", "os.utime(outside + '/kept', (0, 0))"),
    ("change an owner", "os.chown(outside + '/kept', os.getuid(), os.getgid()); print('ACHIEVED')"),
    ("set an attribute", "os.setxattr(outside + '/kept', 'user.x', b'x'); print('ACHIEVED')"),
    (
        "lock a file",
        "import fcntl; fcntl.flock(os.open(outside + '/kept', os.O_RDONLY), 2); print('ACHIEVED')",
    ),
    ("read a file", "print(open(outside + '/secret').read())"),
    ("read by descriptors", "print(os.read(os.open(outside + '/secret', os.O_RDONLY), 99))"),
    (
        "read by the C library",
        "f = libc().open((outside + '/secret').encode(), 0); print(os.read(f, 99))",
    ),
    (
        "read through a descriptor without rights",
        "f = os.open(outside + '/secret', os.O_PATH); print(open('/proc/self/fd/%d' % f).read())",
    ),
    (
        "read through a folder's descriptor",
        "f = os.open(outside, os.O_PATH); print(os.read(os.open('secret', 0, dir_fd=f), 99))",
    ),
    (
        "read from the parent's root",
        "print(open('/proc/%s/root%s/secret' % (caller, outside)).read())",
    ),
    ("read the users", "open('/etc/passwd').read(); print('ACHIEVED')"),
    ("list the root", "os.listdir('/'); print('ACHIEVED')"),
    ("list the home", "os.listdir(os.path.expanduser('~')); print('ACHIEVED')"),
    ("list a folder", "os.listdir(outside); print('ACHIEVED')"),
    (
        "find the caller's variables",
        "print('ACHIEVED' if 'PATH' in os.environ or 'CARGO' in os.environ else '')",
    ),
    ("read its own variables' origin", "open('/proc/self/environ').read(); print('ACHIEVED')"),
    (
        "read the parent's variables",
        "open('/proc/%d/environ' % os.getppid()).read(); print('ACHIEVED')",
    ),
    ("read the caller's variables", "open('/proc/%s/environ' % caller).read(); print('ACHIEVED')"),
    ("read another's memory map", "open('/proc/%s/maps' % victim).read(); print('ACHIEVED')"),
    ("write into another's memory", "open('/proc/%s/mem' % victim, 'r+b'); print('ACHIEVED')"),
    ("list processes", "os.listdir('/proc'); print('ACHIEVED')"),
    ("read a process's command", "open('/proc/%s/cmdline' % victim).read(); print('ACHIEVED')"),
    ("connect by TCP", "import socket; socket.create_connection(('127.0.0.1', port))"),
    ("listen by TCP", "import socket; socket.create_server(('127.0.0.1', 0)); print('ACHIEVED')"),
    (
        "send by UDP",
        "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', port)); print('ACHIEVED')",
    ),
    ("open a raw socket", "import socket; socket.socket(17, 3); print('ACHIEVED')"),
    ("open a netlink socket", "import socket; socket.socket(16, 3); print('ACHIEVED')"),
    ("open a socket of the hypervisor", "import socket; socket.socket(40, 1); print('ACHIEVED')"),
    (
        "connect to a socket in the file system",
        "import socket; socket.socket(1, 1).connect(outside + '/socket')",
    ),
    ("connect to an abstract socket", "import socket; socket.socket(1, 1).connect('\\0' + hidden)"),
    (
        "send a datagram from a pair",
        "import socket; a, b = socket.socketpair(1, 2); a.sendto(b'x', outside + '/datagrams')",
    ),
    (
        "send a datagram by message from a pair",
        "import socket; a, b = socket.socketpair(1, 2); a.sendmsg([b'x'], [], 0, outside + '/datagrams')",
    ),
    (
        "reach a name from a stream's end",
        "import socket; a, b = socket.socketpair(); a.sendto(b'x', outside + '/datagrams')",
    ),
    (
        "reach a name from an end of packets",
        "import socket; a, b = socket.socketpair(1, 5); a.sendto(b'x', outside + '/datagrams')",
    ),
    (
        "reach a name by message from an end of packets",
        "import socket; a, b = socket.socketpair(1, 5); a.sendmsg([b'x'], [], 0, outside + '/datagrams')",
    ),
    ("signal the parent", "os.kill(os.getppid(), 0); print('ACHIEVED')"),
    ("signal the caller", "os.kill(int(caller), 0); print('ACHIEVED')"),
    ("end another process", "os.kill(int(victim), 9)"),
    ("end another thread", "libc().syscall(200, int(victim), 9)"),
    ("end another's thread", "libc().syscall(234, int(victim), int(victim), 9)"),
    ("end by a handle", "signal.pidfd_send_signal(os.pidfd_open(int(victim)), 9)"),
    ("queue a signal", "libc().sigqueue(int(victim), 9, 0)"),
    (
        "end the whole user",
        "os.kill(-1, 0) if not spawns else None; print('ACHIEVED' if not spawns else '')",
    ),
    (
        "have the kernel signal another on input",
        "import fcntl; r, w = os.pipe(); fcntl.fcntl(r, 10, 9); fcntl.fcntl(r, 8, int(victim));\n\
         fcntl.fcntl(r, 4, os.O_ASYNC); os.write(w, b'x'); time.sleep(0.05)",
    ),
    ("renice another", "os.setpriority(0, int(victim), 19); print('ACHIEVED')"),
    ("move another to one core", "os.sched_setaffinity(int(victim), {0}); print('ACHIEVED')"),
    (
        "limit another",
        "import resource; resource.prlimit(int(victim), 7, (1, 1)); print('ACHIEVED')",
    ),
    ("become root", "os.setuid(0); print('ACHIEVED')"),
    ("take a group", "os.setgroups([0]); print('ACHIEVED')"),
    ("keep a group", "print('ACHIEVED' if os.getuid() == 65534 and os.getgroups() else '')"),
    (
        "keep a capability",
        "import struct; h = ctypes.create_string_buffer(struct.pack('Ii', 0x20080522, 0)); d = (ctypes.c_uint32 * 6)()\n\
                           print('ACHIEVED' if libc().capget(h, d) or any(d[:5]) else '')",
    ),
    ("live on after the caller", "print('' if libc().prctl(1, 0, 0, 0, 0) else 'ACHIEVED')"),
    ("raise a limit", "import resource; resource.setrlimit(7, (4096, 4096)); print('ACHIEVED')"),
    ("trace itself", "print('' if libc().ptrace(0, 0, 0, 0) else 'ACHIEVED')"),
    ("trace another", "print('' if libc().ptrace(16, int(victim), 0, 0) else 'ACHIEVED')"),
    (
        "read another's memory",
        "b = ctypes.create_string_buffer(8); print('ACHIEVED' if libc().syscall(310, int(victim), 0, 0, 0, 0, 0) >= 0 else '')",
    ),
    ("make a file of memory", "print('ACHIEVED' if os.memfd_create('x') else '')"),
    (
        "run a file of memory",
        "f = os.memfd_create('x'); os.write(f, open('/bin/true', 'rb').read()); os.execve(f, ['true'], {})",
    ),
    ("make a device", "os.mknod('device', 0o20666, 0x103); print('ACHIEVED')"),
    (
        "ask what is asked",
        "print('ACHIEVED' if libc().syscall(425, 8, ctypes.create_string_buffer(120)) >= 0 else '')",
    ),
    ("become a namespace's root", "print('' if libc().unshare(0x10000000) else 'ACHIEVED')"),
    ("change the root", "os.chroot('.'); print('ACHIEVED')"),
    ("mount", "print('' if libc().mount(b'x', b'/usr', b'tmpfs', 0, None) else 'ACHIEVED')"),
    ("make a shared segment", "print('ACHIEVED' if libc().shmget(0, 4096, 0o1600) >= 0 else '')"),
    ("make a semaphore", "print('ACHIEVED' if libc().semget(0, 1, 0o1600) >= 0 else '')"),
    ("make a queue", "print('ACHIEVED' if libc().msgget(0, 0o1600) >= 0 else '')"),
    (
        "make a key",
        "print('ACHIEVED' if libc().syscall(248, b'user', b'x', b'y', 1, -3) >= 0 else '')",
    ),
    (
        "type into the terminal",
        "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('ACHIEVED')",
    ),
    ("open the terminal", "os.open('/dev/tty', os.O_RDWR); print('ACHIEVED')"),
    (
        "find an inherited file",
        "import resource\nfor fd in range(3, 9999):\n  try: os.fstat(fd); print('ACHIEVED', fd)\n  except OSError: pass",
    ),
    ("run again what was run first", "os.execve(64, ['x'], {}); print('ACHIEVED')"),
];

/// Attempts for which starting others is an escape.
const PROCESSES: &[(&str, &str)] = &[
    ("fork", "os.fork(); print('ACHIEVED')"),
    (
        "fork two hundred times",
        "for i in range(200):\n  if os.fork() == 0: time.sleep(9)\nprint('ACHIEVED')",
    ),
    ("start a shell", "os.system('echo ACHIEVED')"),
    ("start a program", "import subprocess; subprocess.run(['/bin/echo', 'ACHIEVED'])"),
    ("become a shell", "os.execv('/bin/sh', ['sh', '-c', 'echo ACHIEVED'])"),
    (
        "become a program by its loader",
        "os.execv('/lib64/ld-linux-x86-64.so.2', ['ld.so', '/bin/echo', 'ACHIEVED'])",
    ),
    (
        "start another Python",
        "import multiprocessing as m; m.Process(target=print, args=('ACHIEVED',)).start()",
    ),
    (
        "clone without a thread",
        "print('ACHIEVED' if libc().syscall(56, 17, 0, 0, 0, 0) >= 0 else '')",
    ),
    ("make a folder here", "os.mkdir('new'); print('ACHIEVED')"),
];

/// Attempts on whoever reads the folder afterwards.
const TRAPS: &[(&str, &str)] = &[
    ("lay a link", "os.symlink('/etc/passwd', 'link'); print('ACHIEVED')"),
    ("lay a hard link to the outside", "os.link(outside + '/secret', 'link'); print('ACHIEVED')"),
    ("move a file in", "os.rename(outside + '/kept', 'kept')"),
    ("move a file out", "open('x', 'w'); os.rename('x', outside + '/new')"),
    ("copy over a file outside", "open('x', 'w'); os.replace('x', outside + '/kept')"),
    ("lay a pipe", "os.mkfifo('pipe'); print('ACHIEVED')"),
    ("lay a socket", "import socket; socket.socket(1, 1).bind('socket'); print('ACHIEVED')"),
    (
        "make a file with a set-id bit",
        "os.open('x', os.O_CREAT | os.O_WRONLY, 0o4777); print('ACHIEVED')",
    ),
    ("set a set-id bit", "open('x', 'w'); os.chmod('x', 0o4777); print('ACHIEVED')"),
    ("make a file without a name", "os.open('.', os.O_TMPFILE | os.O_RDWR); print('ACHIEVED')"),
    (
        "set a set-id bit by descriptor",
        "os.fchmod(os.open('x', os.O_CREAT | os.O_RDWR), 0o2777); print('ACHIEVED')",
    ),
    (
        "change modes outside from here",
        "for p in (outside, os.path.relpath(outside), '/proc/self/cwd/' + os.path.relpath(outside)):\n\
         \x20 for f in (os.chmod, lambda p, m: os.utime(p, (0, 0))):\n\
         \x20   try: f(p + '/kept', 0o600)\n\
         \x20   except OSError: pass",
    ),
    (
        "change a mode outside by a descriptor",
        "os.chmod('kept', 0o600, dir_fd=os.open(outside, os.O_PATH))",
    ),
    (
        "change the mode of a place outside",
        "os.utime(os.open(outside + '/kept', os.O_PATH), (0, 0))",
    ),
    ("write by a link of the caller's", "open('caller', 'w')"),
    ("change a mode by a link of the caller's", "os.chmod('caller', 0o600)"),
    (
        "swap the path while it is looked at",
        "import threading\nopen('a', 'w'); b = ctypes.create_string_buffer(99); i = ['a', outside + '/kept']; e = time.time() + 0.5\n\
         def swap():\n\
         \x20 while time.time() < e:\n\
         \x20   for p in i: b.value = p.encode()\n\
         t = threading.Thread(target=swap); t.start(); c = libc()\n\
         while time.time() < e: c.chmod(b, 0o600)\n\
         t.join()",
    ),
    ("go up", "open('../lacuna-sandbox-x', 'w'); print('ACHIEVED')"),
];

const PREAMBLE: &str = "\
import os, sys, time, signal, ctypes
outside, caller, victim, hidden = (os.environ[k] for k in ('OUTSIDE', 'CALLER', 'VICTIM', 'HIDDEN'))
port = int(os.environ['PORT'])
libc = lambda: ctypes.CDLL(None, use_errno=True)
";

/// Runs each attempt, and returns those that came through.
fn escaped(
    attempts: &[&[(&str, &str)]],
    policy: &Policy,
    folder: Option<&Path>,
    spawns: bool,
) -> Vec<String> {
    let Some(python) = python().filter(|_| can_run(policy)) else { return Vec::new() };
    let mut policy = policy.clone();
    policy.limits.wall_time = Duration::from_secs(5);
    let (mut world, mut escaped) = (World::new(), Vec::new());
    // A descriptor that a fork and a program inherit.
    // SAFETY: a number.
    let inherited = unsafe { libc::dup(2) };
    for (name, code) in attempts.iter().copied().flatten() {
        let code = format!("{PREAMBLE}spawns = {}\n{code}", if spawns { "True" } else { "False" });
        if let Some(folder) = folder {
            let link = folder.join("caller");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(world.path("kept"), link).expect("ours");
        }
        let report = report(&world.shown_to(script(&python, &code)), &policy);
        let text = out(&report);
        let mut effects = world.changes();
        if text.contains("ACHIEVED") || text.contains(SECRET) {
            effects.push(text);
        }
        assert!(!errors(&report).contains("SyntaxError"), "{name}: {}", errors(&report));
        if !effects.is_empty() {
            escaped.push(format!("{name}: {effects:?}"));
            world = World::new();
        }
    }
    // SAFETY: a descriptor of our own.
    unsafe { libc::close(inherited) };
    escaped
}

#[test]
fn a_function_reaches_nothing_outside() {
    assert_eq!(escaped(&[ATTEMPTS, PROCESSES], &Policy::function(), None, false), [""; 0]);
}

#[test]
fn a_program_with_files_reaches_nothing_outside_and_lays_no_traps() {
    let folder = folder();
    let processes = &PROCESSES[..PROCESSES.len() - 1];
    let escaped = escaped(
        &[ATTEMPTS, processes, TRAPS],
        &Policy::files(folder.path()),
        Some(folder.path()),
        false,
    );
    assert_eq!(escaped, [""; 0]);
}

#[test]
fn programs_that_start_others_reach_nothing_outside() {
    let folder = folder();
    let policy = Policy::spawn(folder.path());
    assert_eq!(escaped(&[ATTEMPTS, TRAPS], &policy, Some(folder.path()), true), [""; 0]);
}

/// The attempts are worth something only if they come through where nobody stops them.
#[test]
#[ignore = "does harm to this machine: only by hand, in a container"]
fn most_attempts_come_through_without_the_sandbox() {
    use std::os::unix::process::CommandExt;
    let Some(python) = python() else { return };
    for (name, code) in [ATTEMPTS, PROCESSES, TRAPS].into_iter().flatten() {
        let (folder, mut world) = (folder(), World::new());
        let mut command = std::process::Command::new(&python);
        command.args(["-I", "-c", &format!("{PREAMBLE}spawns = True\n{code}")]);
        command.current_dir(folder.path()).envs(world.variables());
        if crate::support::is_root() {
            command.uid(crate::support::NOBODY).gid(crate::support::NOBODY);
        }
        let output = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let came_through = text.contains("ACHIEVED") || text.contains(SECRET);
        if !came_through && world.changes().is_empty() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("stopped anyhow: {name}: {}", errors.lines().last().unwrap_or_default());
        }
    }
}
