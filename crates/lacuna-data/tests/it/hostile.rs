//! Gives this crate bad input of every kind: it ends with an error that says what is wrong.

use lacuna_data::{
    Batches, Corpus, CorpusOptions, Dataset, Error, Packer, Remainder, Sample, ShardOptions,
    ShardWriter, corpus::Reason,
};
use lacuna_test::says;
use std::fs;
use std::path::Path;

fn options(vocab_size: usize) -> ShardOptions {
    ShardOptions {
        window_len: 8.try_into().unwrap(),
        remainder: Remainder::Pad(1),
        vocab_size,
        tokenizer: "none".to_owned(),
        shard_tokens: 32,
    }
}

/// Four shards of 32 tokens, the last with padding and flags.
fn shards() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), options(500)).unwrap();
    for id in 10..30 {
        writer.push(&[id; 5], 2, 5).unwrap();
    }
    let manifest = writer.finish().unwrap();
    assert_eq!((manifest.shards.len(), manifest.windows, manifest.padding), (4, 15, 0));
    folder
}

/// Opens and reads everything; the error, if there is one.
fn open(folder: &Path) -> Option<Error> {
    Dataset::open(folder).and_then(|dataset| dataset.verify()).err()
}

fn damage(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Error {
    let path = folder.join("shard-00001.bin");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    open(folder).expect("damage shows")
}

/// Damages the header and seals it again, as only an attacker would.
fn forge(at: usize, field: &[u8]) -> Error {
    let folder = shards();
    damage(folder.path(), |bytes| {
        bytes[at..at + field.len()].copy_from_slice(field);
        let seal = *blake3::hash(&bytes[..96]).as_bytes();
        bytes[96..128].copy_from_slice(&seal);
    })
}

#[test]
fn whole_shards_open() {
    assert!(open(shards().path()).is_none());
}

#[test]
fn a_shortened_shard_says_how_many_tokens_are_there() {
    let error = damage(shards().path(), |bytes| bytes.truncate(128 + 60));
    says(error, "header says 32 tokens, file holds 30");
}

#[test]
fn every_shortened_length_is_an_error() {
    let folder = shards();
    let path = folder.path().join("shard-00001.bin");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Dataset::open(folder.path()).is_err(), "{length} bytes of {}", whole.len());
    }
    fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
    says(open(folder.path()).unwrap(), "bytes of document starts and flags, file holds");
}

#[test]
fn every_changed_byte_is_found() {
    let folder = shards();
    let path = folder.path().join("shard-00001.bin");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        assert!(open(folder.path()).is_some(), "byte {at}");
    }
}

#[test]
fn another_file_is_not_taken_for_a_shard() {
    says(damage(shards().path(), |bytes| bytes[0] = b'L'), "not a lacuna shard");
    says(damage(shards().path(), |bytes| bytes[20] ^= 1), "the header is damaged");
    says(damage(shards().path(), |bytes| bytes[130] ^= 1), "do not match its hash");
}

#[test]
fn sealed_lies_are_found_too() {
    says(forge(8, &2u32.to_le_bytes()), "version 2, this program reads 1");
    says(forge(12, &3u32.to_le_bytes()), "no such format");
    says(forge(12, &4u32.to_le_bytes()), "header says 32 tokens, file holds");
    for huge in [1 << 31, 1 << 32, 1 << 61, 1 << 63, u64::MAX - 7] {
        says(forge(16, &(huge & !7).to_le_bytes()), "");
        says(forge(32, &huge.to_le_bytes()), "do not fit");
        says(forge(24, &huge.to_le_bytes()), "do not fit");
    }
    says(forge(24, &0u64.to_le_bytes()), "do not fit");
    says(forge(24, &16u64.to_le_bytes()), "the manifest says");
    says(forge(40, &9u32.to_le_bytes()), "the manifest says");
    says(forge(44, &2u32.to_le_bytes()), "no such format");
    says(forge(64, &[7; 32]), "its hash is not the manifest's");
}

#[test]
fn ids_outside_the_vocabulary_never_reach_a_window() {
    let folder = shards();
    let path = folder.path().join("shard-00001.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[128..130].copy_from_slice(&500u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    // Headers and sizes are right; reading the window finds it.
    let dataset = Dataset::open(folder.path()).unwrap();
    says(dataset.window(4).unwrap_err(), "token 0 is 500, outside the vocabulary of 500");
    assert!(dataset.window(3).is_ok() && dataset.window(5).is_ok());

    let mut writer = ShardWriter::create(folder.path().join("new"), options(12)).unwrap();
    says(writer.push(&[3, 12], 2, 2).unwrap_err(), "document 0: token 1 is 12, outside");
    let mut packer = Packer::new(2.try_into().unwrap(), Remainder::Drop);
    packer.push(&[99], 2);
    says(Dataset::from_packed(packer.finish(), 50).unwrap_err(), "outside the vocabulary of 50");
}

#[test]
fn document_starts_must_ascend() {
    let folder = shards();
    let path = folder.path().join("shard-00001.bin");
    let mut bytes = fs::read(&path).unwrap();
    bytes[128 + 64..128 + 72].copy_from_slice(&31u64.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    says(open(folder.path()).unwrap(), "not ascending");
}

#[test]
fn manifests_are_checked() {
    let folder = shards();
    let path = folder.path().join("manifest.json");
    let sealed = fs::read_to_string(&path).unwrap();
    // As only an attacker would: one without a seal is that of an earlier version.
    let whole = format!("{}\n}}\n", sealed.split_once(",\n  \"seal\"").unwrap().0);
    let change = |from: &str, to: &str, expected: &str| {
        assert!(whole.contains(from));
        fs::write(&path, whole.replace(from, to)).unwrap();
        says(open(folder.path()).unwrap(), expected);
    };
    change("lacuna-shards", "parquet", "expected \"lacuna-shards\" version 1");
    change("\"windows\": 15", "\"windows\": 16", "do not add up");
    change("\"window_len\": 8", "\"window_len\": 0", "not a manifest");
    change("\"window_len\": 8", "\"window_len\": 4", "the manifest says");
    change("\"windows\": 4", "\"windows\": 18446744073709551615", "do not add up");
    change("}", "", "not a manifest");
    change("\"padding\": 0", "\"padding\": 8", "says 8 tokens of padding");
    change("\"documents\": 20", "\"documents\": 129", "129 documents, which 120 tokens");
    change("\"vocab_size\": 500", "\"vocab_size\": 0", "0 tokens in the vocabulary");
    change("\"vocab_size\": 500", "\"vocab_size\": 4294967296", "4294967296 tokens");
    fs::write(&path, &whole).unwrap();
    fs::copy(folder.path().join("shard-00001.bin"), folder.path().join("shard-00004.bin")).unwrap();
    says(open(folder.path()).unwrap(), "files of two packings");
    fs::remove_file(&path).unwrap();
    says(open(folder.path()).unwrap(), "manifest.json: cannot read");
}

#[test]
fn every_flipped_bit_of_a_manifest_is_named() {
    let folder = shards();
    let path = folder.path().join("manifest.json");
    let whole = fs::read(&path).unwrap();
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let error = open(folder.path()).expect("damage shows").to_string();
        assert!(error.contains("manifest.json"), "bit {bit}: {error}");
    }
    fs::write(&path, whole).unwrap();
    assert!(open(folder.path()).is_none());
}

#[test]
fn a_missing_shard_is_named() {
    let folder = shards();
    fs::remove_file(folder.path().join("shard-00002.bin")).unwrap();
    says(open(folder.path()).unwrap(), "shard-00002.bin: cannot read");
    fs::write(folder.path().join("shard-00002.bin"), "").unwrap();
    says(open(folder.path()).unwrap(), "shard-00002.bin: cannot read");
}

#[test]
fn an_unfinished_writer_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), options(500)).unwrap();
    for id in 10..30 {
        writer.push(&[id; 5], 2, 5).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let nothing = ShardWriter::create(folder.path(), options(500)).unwrap().finish();
    says(nothing.unwrap_err(), "0 tokens do not fill one window of 8");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_dataset_is_never_overwritten() {
    let folder = shards();
    says(ShardWriter::create(folder.path(), options(500)).unwrap_err(), "already holds shards");
}

#[test]
fn too_little_text_for_a_window_is_an_error() {
    let mut packer = Packer::new(100.try_into().unwrap(), Remainder::Drop);
    packer.push(&[1, 2, 3], 2);
    let dataset = Dataset::from_packed(packer.finish(), 10).unwrap();
    says(Batches::new(dataset, 0).unwrap_err(), "does not fill one window of 100");
}

#[test]
fn flags_must_match_tokens() {
    let mut packer = Packer::new(4.try_into().unwrap(), Remainder::Drop);
    let sample = Sample { tokens: vec![1, 2], supervised: vec![true] };
    says(packer.push_sample(&sample).unwrap_err(), "a sample of 2 tokens has 1 flags");
}

#[test]
fn all_kinds_of_input_give_their_documents() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let lines = "{\"text\": \"one\"}\n\n{\"content\": \"two\", \"id\": 7}\n";
    fs::create_dir_all(root.join("tree/b")).unwrap();
    fs::write(root.join("tree/b/z.py"), "z").unwrap();
    fs::write(root.join("tree/b/skipped.py"), "s").unwrap();
    fs::write(root.join("tree/b/.gitignore"), "skipped.py\n").unwrap();
    fs::write(root.join("tree/a.py"), "a").unwrap();
    fs::write(root.join("tree/empty.py"), "").unwrap();
    fs::write(root.join("tree/binary.py"), "x\0y").unwrap();
    fs::write(root.join("tree/latin.py"), b"caf\xe9").unwrap();
    fs::write(root.join("tree/large.py"), "x".repeat(2000)).unwrap();
    fs::write(root.join("tree/notes.md"), "not asked for").unwrap();
    fs::write(root.join("p.jsonl"), lines).unwrap();
    fs::write(root.join("z.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, lines.as_bytes()).unwrap();
    fs::write(root.join("g.jsonl.gz"), gz.finish().unwrap()).unwrap();
    let gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    tar.append_dir_all("t", root.join("tree/b")).unwrap();
    fs::write(root.join("t.tar.gz"), tar.into_inner().unwrap().finish().unwrap()).unwrap();

    let names = ["tree", "p.jsonl", "z.jsonl.zst", "g.jsonl.gz", "t.tar.gz", "tree/notes.md"];
    let extensions = vec!["py".into()];
    let options = CorpusOptions {
        extensions,
        max_document_bytes: 1000,
        take_duplicates: true,
        ..Default::default()
    };
    let corpus = Corpus::read(&names.map(|name| root.join(name)), &options).unwrap();
    let mut found: Vec<_> =
        corpus.documents.iter().map(|d| (d.path.as_str(), d.text.as_str())).collect();
    // The archive keeps the order in which the file system listed the folder.
    found[8..10].sort_unstable();
    let expected = [
        ("a.py", "a"),
        ("b/z.py", "z"),
        ("p.jsonl#1", "one"),
        ("p.jsonl#3", "two"),
        ("z.jsonl.zst#1", "one"),
        ("z.jsonl.zst#3", "two"),
        ("g.jsonl.gz#1", "one"),
        ("g.jsonl.gz#3", "two"),
        ("t/skipped.py", "s"),
        ("t/z.py", "z"),
        ("notes.md", "not asked for"),
    ];
    assert_eq!(found, expected);
    let skipped: Vec<_> = corpus.skipped.counts().collect();
    let expected = [
        (Reason::TooLarge, 1),
        (Reason::Binary, 1),
        (Reason::NotUtf8, 1),
        (Reason::Empty, 1),
        // notes.md in the folder; .gitignore in the archive.
        (Reason::OtherEnding, 2),
        // .gitignore in the folder, and what it names.
        (Reason::Hidden, 1),
        (Reason::Ignored, 1),
    ];
    assert_eq!(skipped, expected);
}

#[test]
fn corpora_without_text_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let read = |path: &Path| Corpus::read(&[path], &CorpusOptions::default()).unwrap_err();
    says(read(&folder.path().join("nowhere")), "nowhere: cannot read");
    says(read(folder.path()), "no documents in");
    fs::write(folder.path().join("a.bin"), [0; 9]).unwrap();
    says(read(folder.path()), "passed over 1 binary");
    let none: [&Path; 0] = [];
    let error = Corpus::read(&none, &CorpusOptions::default()).unwrap_err();
    says(error, "no documents in no inputs");
}

#[test]
fn broken_lines_and_archives_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        Corpus::read(&[path], &CorpusOptions { max_document_bytes: 100, ..Default::default() })
    };
    says(read("a.jsonl", b"\n{\"body\": 1}").unwrap_err(), "a.jsonl: line 2");
    // One line of two is passed over, and named.
    let corpus = read("a.jsonl", b"{\"text\": \"x\"}\n{\"body\": 1}").unwrap();
    assert_eq!(corpus.documents.len(), 1);
    assert_eq!(corpus.skipped.places(Reason::NoText), ["a.jsonl:2 (it has body)"]);
    says(read("b.jsonl", b"{\"text\": 3}\n").unwrap_err(), "line 1: a JSON object is expected");
    says(read("c.jsonl.gz", b"not gzip").unwrap_err(), "c.jsonl.gz: cannot read");
    says(read("d.jsonl.zst", b"not zstd").unwrap_err(), "d.jsonl.zst: cannot read");
    says(read("e.tar.gz", b"not gzip").unwrap_err(), "e.tar.gz: cannot read the archive");
    // A line beyond any limit is passed over without being held.
    let long = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"short\"}}\n", "x".repeat(200_000));
    let corpus = read("f.jsonl", long.as_bytes()).unwrap();
    assert_eq!((corpus.documents.len(), corpus.skipped.count(Reason::TooLarge)), (1, 1));
    assert_eq!(corpus.documents[0].path, "f.jsonl#2");
}
