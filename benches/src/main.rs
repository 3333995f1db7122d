//! `cargo xtask bench` runs this program.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    lacuna_benches::run()
}
