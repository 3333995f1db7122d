//! Measures what a program takes longer in the sandbox than out of it, in pairs:
//! `cargo run --release -p lacuna-sandbox --example cost -- [PROGRAM [ARGUMENT]…]`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use lacuna_sandbox::{Error, Policy, Program, run};

const PAIRS: usize = 101;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args: Vec<_> = std::env::args().skip(1).collect();
    if args.is_empty() {
        args = ["/usr/bin/python3", "-I", "-c", "pass"].map(String::from).to_vec();
    }
    let folder = tempfile::tempdir()?;
    #[cfg(unix)]
    let _ = std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534));
    println!("{}: medians of {PAIRS} pairs, in turn", args.join(" "));
    let profiles = [
        ("function", Policy::function()),
        ("files", Policy::files(folder.path())),
        ("spawn", Policy::spawn(folder.path())),
    ];
    for (name, policy) in profiles {
        let (mut outside, mut inside, mut more) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let without = plain_ms(Path::new(&args[0]), &args[1..])?;
            let within = sandboxed_ms(&args, &policy)?;
            outside.push(without);
            inside.push(within);
            more.push(within - without);
        }
        let [outside, inside, more] = [outside, inside, more].map(median);
        println!("{name:<10}{outside:6.2} ms outside, {inside:6.2} ms inside, {more:5.2} ms more");
    }
    Ok(())
}

fn plain_ms(program: &Path, args: &[String]) -> std::io::Result<f64> {
    let start = Instant::now();
    Command::new(program).args(args).env_clear().stdin(Stdio::null()).output()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn sandboxed_ms(args: &[String], policy: &Policy) -> Result<f64, Error> {
    let program = Program::new(&args[0]).args(&args[1..]);
    let start = Instant::now();
    run(&program, policy)?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
