//! Packs a corpus and, in turn, lets the tokenizers crate encode the same documents in one batch: bytes of text a
//! second of both, and how they compare.
//!
//! `cargo run --release -p lacuna-data --example pack_speed -- TOKENIZER.json WINDOW PAIRS INPUT…`
//!
//! What is packed is read from the disk, filtered, tokenized and written; what is encoded stands in memory already, and
//! its ids stay there.

use lacuna_data::{Corpus, CorpusOptions, PackOptions, pack_corpus};
use lacuna_text::Tokenizer;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, window, pairs, inputs @ ..] = arguments.as_slice() else {
        return Err("give TOKENIZER.json WINDOW PAIRS INPUT…".into());
    };
    let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
    let tokenizer = Tokenizer::from_file(file)?;
    let options = PackOptions::new(&tokenizer, 2, window.parse()?);
    let corpus = CorpusOptions::default();
    let place = tempfile::tempdir()?;
    for pair in 0..pairs.parse::<usize>()? {
        let began = Instant::now();
        let out = place.path().join(format!("{pair}"));
        let report = pack_corpus(&inputs, &corpus, &options, &out, &mut |_| {})?;
        let ours = report.text_bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
        std::fs::remove_dir_all(out)?;

        let mut theirs = tokenizers::Tokenizer::from_file(file).map_err(|e| e.to_string())?;
        theirs.set_encode_special_tokens(true);
        let documents = Corpus::read(&inputs, &corpus)?.documents;
        let texts: Vec<String> = documents.into_iter().map(|document| document.text).collect();
        let bytes: usize = texts.iter().map(String::len).sum();
        let began = Instant::now();
        let encodings = theirs.encode_batch_fast(texts, false).map_err(|e| e.to_string())?;
        let theirs = bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
        let tokens: usize = encodings.iter().map(|encoding| encoding.len()).sum();
        assert_eq!(tokens as u64 + report.documents as u64, report.tokens, "other tokens");
        println!(
            "pair {pair}: {:.1} MB, {tokens} tokens; packed {ours:.2} MB/s, encoded {theirs:.2} MB/s, \
             {:.2} times as fast",
            bytes as f64 / 1e6,
            ours / theirs
        );
    }
    Ok(())
}
