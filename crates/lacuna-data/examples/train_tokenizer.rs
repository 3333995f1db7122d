//! Trains a byte-level BPE tokenizer on the training part of a corpus.
//!
//! `cargo run --release -p lacuna-data --example train_tokenizer -- OUT VOCAB_SIZE INPUT…`
//!
//! `fixtures/tokenizer/tokenizer.json` is this with 4096 tokens and `fixtures/corpus`.

use lacuna_data::corpus::is_held_out;
use lacuna_data::{Corpus, CorpusOptions};
use lacuna_text::{SPECIAL_TOKENS, Tokenizer};

/// The part of the documents that no tokenizer and no model may see.
const HELD_OUT: f64 = 0.08;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, vocab_size, inputs @ ..] = arguments.as_slice() else {
        return Err("usage: train_tokenizer OUT VOCAB_SIZE INPUT…".into());
    };
    let options =
        CorpusOptions { extensions: vec!["py".into(), "rs".into()], ..CorpusOptions::default() };
    let (training, held_out) = Corpus::read(inputs, &options)?.split(HELD_OUT);
    assert!(training.iter().all(|document| !is_held_out(&document.path, HELD_OUT)));
    let texts = training.iter().map(|document| document.text.as_str());
    let tokenizer = Tokenizer::train_bpe(texts, vocab_size.parse()?, &SPECIAL_TOKENS)?;
    tokenizer.save(out)?;
    for (name, part) in [("training", training), ("held out", held_out)] {
        let bytes: usize = part.iter().map(|document| document.text.len()).sum();
        let mut tokens = 0;
        for document in &part {
            tokens += tokenizer.encode_ordinary(&document.text)?.len();
        }
        let per_token = bytes as f64 / tokens as f64;
        let documents = part.len();
        println!(
            "{name}: {documents} documents, {bytes} bytes, {tokens} tokens, {per_token:.3} bytes per token"
        );
    }
    Ok(())
}
