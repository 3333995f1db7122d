//! Fuzzes the header, the configuration and the tokenizer of a GGUF file.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let _ = lacuna_checkpoint::check_gguf(file);
});
