//! Compares with what others recorded, and with what this crate once wrote and must write again.

use lacuna_data::corpus::{Reason, is_held_out};
use lacuna_data::{Corpus, CorpusOptions, Dataset, Packer, Remainder, pack, stats};
use lacuna_test::fixtures;
use lacuna_text::{SPECIAL_TOKENS, Tokenizer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// As in `examples/train_tokenizer.rs`.
const HELD_OUT: f64 = 0.08;

fn corpus() -> Corpus {
    let options =
        CorpusOptions { extensions: vec!["py".into(), "rs".into()], ..Default::default() };
    Corpus::read(&[fixtures().join("corpus")], &options).unwrap()
}

#[test]
fn training_again_gives_the_shipped_tokenizer_byte_for_byte() {
    let (mut training, held_out) = corpus().split(HELD_OUT);
    assert!(held_out.iter().all(|document| is_held_out(&document.path, HELD_OUT)));
    assert!(held_out.iter().all(|document| document.is_held_out(HELD_OUT)));
    let shipped = std::fs::read_to_string(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    // Neither the documents' order nor the process' hash seeds may show.
    training.reverse();
    let texts = training.iter().map(|document| document.text.as_str());
    let trained = Tokenizer::train_bpe(texts, 4096, &SPECIAL_TOKENS).unwrap();
    assert!(trained.to_json() == shipped, "another tokenizer than fixtures/tokenizer");
}

#[test]
fn the_shipped_corpus_is_what_its_records_say() {
    let root = fixtures().join("corpus");
    let sums = std::fs::read_to_string(root.join("SHA256SUMS")).unwrap();
    let mut listed: BTreeMap<&str, &str> = BTreeMap::new();
    for line in sums.lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        listed.insert(path, sum);
    }
    // Packages have the same licences.
    let all = CorpusOptions { take_duplicates: true, ..CorpusOptions::default() };
    let everything = Corpus::read(&[&root], &all).unwrap();
    let skipped: Vec<_> = everything.skipped.counts().collect();
    assert_eq!(skipped, [(Reason::Hidden, 1)], "but .gitattributes, nothing is passed over");
    let mut of_package: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for document in &everything.documents {
        if !document.path.contains('/') {
            continue;
        }
        let sum = format!("{:x}", Sha256::digest(&document.text));
        assert_eq!(listed.remove(document.path.as_str()), Some(sum.as_str()), "{}", document.path);
        let folder: Vec<_> = document.path.split('/').take(2).collect();
        if !document.path.contains("LICENSE") {
            let (files, bytes) = of_package.entry(folder.join("/")).or_default();
            *files += 1;
            *bytes += document.text.len() as u64;
        }
    }
    assert!(listed.is_empty(), "listed but not there: {listed:?}");
    let origin = std::fs::read_to_string(root.join("ORIGIN.tsv")).unwrap();
    for line in origin.lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        let (files, bytes) = of_package.remove(columns[0]).unwrap();
        assert_eq!((columns[5], columns[6]), (&*files.to_string(), &*bytes.to_string()));
        for license in columns[7].split(' ') {
            assert!(root.join(columns[0]).join(license).is_file(), "{line}");
        }
    }
    assert!(of_package.is_empty(), "without a line in ORIGIN.tsv: {of_package:?}");
}

#[test]
fn the_baselines_of_the_shipped_corpus_stay_where_they_are() {
    let tokenizer = Tokenizer::from_file(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    let (training, held_out) = corpus().split(HELD_OUT);
    let packer = |remainder| Packer::new(256.try_into().unwrap(), remainder);
    let training = pack(&training, &tokenizer, 2, packer(Remainder::Drop)).unwrap();
    let held_out = pack(&held_out, &tokenizer, 2, packer(Remainder::Pad(1))).unwrap();
    let training = Dataset::from_packed(training, 4096).unwrap();
    let held_out = Dataset::from_packed(held_out, 4096).unwrap();
    let lengths = tokenizer.token_bytes();
    let unigram = stats::Unigram::count(&training).unwrap();
    let bigram = stats::Bigram::count(&training).unwrap();
    let one = stats::score(&held_out, &lengths, |_, token| unigram.probability(token)).unwrap();
    let two =
        stats::score(&held_out, &lengths, |previous, token| bigram.probability(previous, token));
    let two = two.unwrap();
    assert!((one.nats_per_token() - 6.2760).abs() < 0.001, "{one:?}");
    assert!((two.nats_per_token() - 4.1033).abs() < 0.001, "{two:?}");
}

#[test]
fn probabilities_sum_to_one_after_any_token() {
    let mut packer = Packer::new(10.try_into().unwrap(), Remainder::Pad(1));
    for start in 10..40 {
        packer.push(&[start, start + 1, start, 60, start % 7 + 10, start + 2], 2);
    }
    let dataset = Dataset::from_packed(packer.finish(), 64).unwrap();
    let unigram = stats::Unigram::count(&dataset).unwrap();
    let bigram = stats::Bigram::count(&dataset).unwrap();
    let close = |sum: f64| assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    close((0..64).map(|token| unigram.probability(token)).sum());
    for previous in 0..64 {
        close((0..64).map(|token| bigram.probability(Some(previous), token)).sum());
        assert!((0..64).all(|token| bigram.probability(Some(previous), token) > 0.0));
    }
}
