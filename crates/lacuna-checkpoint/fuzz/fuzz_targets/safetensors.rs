//! Fuzzes the header of a safetensors file.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let _ = lacuna_checkpoint::check_safetensors(file);
});
