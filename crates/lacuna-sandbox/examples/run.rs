//! Runs any program in the sandbox and says how it ended:
//! `cargo run -p lacuna-sandbox --example run -- [--files DIR | --spawn DIR] [--readable PATH]… PROGRAM [ARGUMENT]…`.

use std::io::{Read, Write};
use std::process::ExitCode;

use lacuna_sandbox::{Policy, Program, run};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    let mut policy = Policy::function();
    while let Some(flag) = args.next_if(|arg| arg.as_encoded_bytes().starts_with(b"--")) {
        let Some(value) = args.next() else { break };
        policy = match flag.to_str() {
            Some("--files") => Policy::files(value),
            Some("--spawn") => Policy::spawn(value),
            _ => policy.readable(value),
        };
    }
    let Some(path) = args.next() else {
        eprintln!("usage: run [--files DIR | --spawn DIR] [--readable PATH]… PROGRAM [ARGUMENT]…");
        return ExitCode::from(2);
    };
    let mut stdin = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut stdin) {
        eprintln!("standard input: {error}");
        return ExitCode::FAILURE;
    }
    match run(&Program::new(path).args(args).stdin(stdin), &policy) {
        Ok(report) => {
            let _ = std::io::stdout().write_all(&report.stdout);
            let _ = std::io::stderr().write_all(&report.stderr);
            eprintln!(
                "{:?}, limit {:?}, {:?} on the clock, {:?} of the processor, {} KiB at most",
                report.end,
                report.limit,
                report.wall_time,
                report.cpu_time,
                report.peak_memory_bytes / 1024
            );
            if report.succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
