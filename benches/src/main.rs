//! `cargo xtask bench`.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    lacuna_benches::run()
}
