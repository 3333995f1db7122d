//! Puts the compiled kernels into the crate: the file that `LACUNA_FATBIN` names, which `cargo xtask cuda build` makes, or
//! nothing.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LACUNA_FATBIN");
    let place = PathBuf::from(std::env::var("OUT_DIR")?).join("kernels.fatbin");
    match std::env::var_os("LACUNA_FATBIN").map(PathBuf::from) {
        Some(file) => {
            println!("cargo::rerun-if-changed={}", file.display());
            std::fs::copy(&file, place).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        None => std::fs::write(place, [])?,
    }
    Ok(())
}
