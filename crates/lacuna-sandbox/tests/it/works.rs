//! Runs what ordinary programs do, all of which has to work.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lacuna_sandbox::{End, Policy, Program};

use crate::support::{
    can_look_inside, can_run, errors, folder, installed, out, python, report, script,
};

/// Code that must run to its end in a profile.
fn works(policy: &Policy, cases: &[(&str, &str)]) {
    let Some(python) = python().filter(|_| can_run(policy)) else { return };
    for (name, code) in cases {
        if *name == MODES && !can_look_inside() {
            eprintln!("SKIPPED: root without CAP_SYS_PTRACE can't change modes for a program");
            continue;
        }
        let report = report(&script(&python, code), policy);
        assert!(report.succeeded(), "{name}: {report:?}\n{}", errors(&report));
    }
}

const MODES: &str = "modes and times";

const COMPUTES: &[(&str, &str)] = &[
    ("print", "print('hello')"),
    ("threads", "import threading; t = threading.Thread(target=lambda: None); t.start(); t.join()"),
    (
        "a pool of threads",
        "from concurrent.futures import ThreadPoolExecutor as P\nassert list(P(32).map(abs, range(-99, 0)))[0] == 99",
    ),
    (
        "the library",
        "import json, re, math, random, decimal, fractions, datetime, collections, itertools, functools, heapq, bisect, string, \
         hashlib, typing, dataclasses, enum, statistics, copy, operator, unittest, doctest, io, csv, zlib, base64, uuid, secrets, \
         struct, textwrap, pprint, contextlib, abc, inspect, ast, queue, sched, calendar, locale, time, sqlite3, subprocess, \
         multiprocessing, asyncio, socket, ssl, tempfile, shutil, pathlib, urllib.request, http.client, email, xml.etree.ElementTree, \
         logging, argparse, platform, ctypes\nplatform.machine(); uuid.uuid4(); random.random(); secrets.token_hex()",
    ),
    ("a date", "import datetime; datetime.datetime.now().astimezone()"),
    (
        "a zone",
        "import zoneinfo, os; zoneinfo.ZoneInfo('Europe/Berlin') if os.path.isdir('/usr/share/zoneinfo/Europe') else None",
    ),
    ("a large integer", "assert len(str(7 ** 5000)) > 4000"),
    (
        "deep recursion",
        "import sys; sys.setrecursionlimit(9999)\ndef f(n): return n and 1 + f(n - 1)\nassert f(5000) == 5000",
    ),
    (
        "the sink",
        "import os; open(os.devnull, 'w').write('x'); open(os.devnull, 'r+b'); open(os.devnull).read()",
    ),
    ("randomness", "import os; os.urandom(9); open('/dev/urandom', 'rb').read(9)"),
    (
        "an alarm",
        "import signal, time\ndef f(*a): raise TimeoutError\nsignal.signal(signal.SIGALRM, f); signal.setitimer(signal.ITIMER_REAL, 0.01)\n\
         try: time.sleep(5); assert False\nexcept TimeoutError: pass",
    ),
    (
        "a signal to itself",
        "import os, signal; signal.signal(10, lambda *a: None); os.kill(os.getpid(), 10); signal.raise_signal(10)",
    ),
    (
        "a lower limit",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29)); resource.getrlimit(0)",
    ),
    (
        "a pipe",
        "import os, select; r, w = os.pipe(); os.write(w, b'x'); assert select.select([r], [], [], 1)[0] and os.read(r, 1)",
    ),
    ("a map", "import mmap; m = mmap.mmap(-1, 9999); m[5] = 1"),
    (
        "another's file",
        "import sys, os; open(os.__file__).read(); os.stat(sys.executable); os.path.exists('/nowhere')",
    ),
    (
        "a database in memory",
        "import sqlite3; sqlite3.connect(':memory:').execute('create table t (x)')",
    ),
    ("the number of processors", "import os; assert os.cpu_count()"),
    ("nothing on the input", "import sys; assert sys.stdin.read() == ''"),
    (
        "an empty environment",
        "import os; assert not [k for k in os.environ if k != 'LC_CTYPE'], os.environ",
    ),
    (
        "default dispositions",
        "import signal; assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and not signal.pthread_sigmask(0, [])",
    ),
];

const WRITES: &[(&str, &str)] = &[
    (
        "a file",
        "open('a', 'w').write('x'); assert open('a').read() == 'x'; open('a', 'a').write('y'); open('a', 'r+').truncate(1)",
    ),
    (
        "names",
        "import os; open('b', 'w'); os.rename('b', 'c'); os.mkdir('d'); os.replace('c', 'd/c'); os.remove('d/c'); os.rmdir('d')",
    ),
    ("a tree", "import shutil, os; os.makedirs('e/f/g'); open('e/f/h', 'w'); shutil.rmtree('e')"),
    (
        "a temporary file",
        "import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')\nwith tempfile.TemporaryFile() as f: f.write(b'x')",
    ),
    (
        "a temporary folder",
        "import tempfile, os\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w')\nassert not os.path.exists(d)",
    ),
    (
        "a database",
        "import sqlite3; c = sqlite3.connect('db'); c.execute('create table t (x)'); c.commit(); c.execute('pragma journal_mode=delete')",
    ),
    (
        "an archive",
        "import zipfile; z = zipfile.ZipFile('z', 'w'); z.writestr('x', 'y'); z.close(); assert zipfile.ZipFile('z').read('x') == b'y'",
    ),
    (
        "an event loop",
        "import asyncio\nasync def f(): await asyncio.sleep(0); return 7\nassert asyncio.run(f()) == 7",
    ),
    (
        "a pair",
        "import socket; a, b = socket.socketpair(); a.sendall(b'x'); assert b.recv(1) == b'x'; a.shutdown(2)",
    ),
    (
        "a pair of packets, by which Rust's library starts programs",
        "import socket; a, b = socket.socketpair(1, 5); a.send(b'xy'); a.send(b'z'); assert b.recv(9) == b'xy'",
    ),
];

#[test]
fn functions_compute_as_they_do_outside() {
    works(&Policy::function(), COMPUTES);
}

#[test]
fn programs_with_files_write_in_their_folder() {
    let folder = folder();
    works(&Policy::files(folder.path()), COMPUTES);
    works(&Policy::files(folder.path()), WRITES);
}

#[test]
fn programs_that_start_others_do() {
    let folder = folder();
    let policy = Policy::spawn(folder.path());
    works(&policy, COMPUTES);
    works(&policy, WRITES);
    works(
        &policy,
        &[
            (
                "a child",
                "import os; p = os.fork() or os._exit(7); assert os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) == 7",
            ),
            (
                "a program",
                "import subprocess; assert subprocess.check_output(['/bin/echo', 'x']) == b'x\\n'",
            ),
            (
                "a shell",
                "import subprocess; assert subprocess.check_output('echo a | tr a b', shell=True, env={'PATH': '/usr/bin:/bin'}) == b'b\\n'",
            ),
            (
                "an end to it",
                "import subprocess; p = subprocess.Popen(['/bin/sleep', '9']); p.terminate(); assert p.wait() == -15",
            ),
            (
                "another session",
                "import subprocess; subprocess.run(['/bin/true'], start_new_session=True, check=True)",
            ),
        ],
    );
}

#[test]
fn input_comes_whole_whether_it_is_read_or_not() {
    let Some(python) = python().filter(|_| can_run(&Policy::function())) else { return };
    let bytes = vec![b'x'; 1 << 20];
    let mut policy = Policy::function();
    policy.limits.output_bytes = 1 << 21;
    let echo =
        script(&python, "import sys; sys.stdout.write(sys.stdin.read())").stdin(bytes.clone());
    assert_eq!(report(&echo, &policy).stdout, bytes);
    let deaf = script(&python, "import os; os.close(0); print('done')").stdin(bytes);
    assert_eq!(out(&report(&deaf, &policy)), "done\n");
}

#[test]
fn arguments_and_variables_arrive_and_no_others() {
    let Some(env) = installed(&["/usr/bin/env"]).filter(|_| can_run(&Policy::function())) else {
        return;
    };
    let report = report(&Program::new(env).env("A", "1").env("B", "x=y"), &Policy::function());
    assert_eq!(out(&report), "A=1\nB=x=y\n");
}

#[test]
fn what_a_compiler_wrote_runs_without_processes_of_its_own() {
    let folder = folder();
    let policy = Policy::spawn(folder.path());
    let Some(compiler) = installed(&["/usr/bin/gcc", "/usr/bin/cc"]).filter(|_| can_run(&policy))
    else {
        return;
    };
    let code = "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 5; }\n";
    fs::write(folder.path().join("main.c"), code).expect("ours");
    let compile = Program::new(compiler)
        .args(["main.c", "-o", "main"])
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", folder.path());
    let compiled = report(&compile, &policy);
    assert!(compiled.succeeded(), "{compiled:?}\n{}", errors(&compiled));
    if !can_look_inside() {
        let runnable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path().join("main"), runnable).expect("ours");
    }
    let ran = report(&Program::new(folder.path().join("main")), &Policy::files(folder.path()));
    assert_eq!((ran.end, out(&ran).as_str()), (End::Exited(5), "compiled\n"));
}

#[test]
fn many_programs_at_once_do_not_disturb_each_other() {
    let Some(python) = python().filter(|_| can_run(&Policy::function())) else { return };
    std::thread::scope(|scope| {
        for index in 0..8 {
            let python = &python;
            scope.spawn(move || {
                for _ in 0..4 {
                    let report =
                        report(&script(python, &format!("print({index})")), &Policy::function());
                    assert_eq!(out(&report), format!("{index}\n"));
                }
            });
        }
    });
}
