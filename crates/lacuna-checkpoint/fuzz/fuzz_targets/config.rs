//! Fuzzes `config.json`: what is accepted must survive writing and reading.
#![no_main]

use lacuna_checkpoint::Config;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(config) = Config::from_json(text) {
        let again = Config::from_json(&config.to_json()).expect("what is written is read");
        assert_eq!(again, config);
    }
});
