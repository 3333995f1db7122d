//! Bad input of every kind ends with an error that says what is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use lacuna_data::{
    Batches, ChatTemplate, Corpus, CorpusOptions, Dataset, Error, Fim, Packer, Remainder, Sample,
    ShardOptions, ShardWriter, Tokenizer, corpus::Reason,
};
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

fn says(error: Error, expected: &str) {
    let message = error.to_string();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    assert!(!message.ends_with('.') && !message.contains('\n'), "{message:?}");
}

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
    let whole = fs::read_to_string(&path).unwrap();
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
fn broken_tokenizers_say_how() {
    let bytes = fs::read(fixture("tokenizer/tokenizer.json")).unwrap();
    says(Tokenizer::from_bytes(&bytes[..bytes.len() / 2]).unwrap_err(), "ends in the middle");
    says(Tokenizer::from_bytes(b"").unwrap_err(), "the file is empty");
    says(Tokenizer::from_bytes(b"GGUF\x03").unwrap_err(), "not JSON");
    says(Tokenizer::from_bytes(b"{\"a\": 1}").unwrap_err(), "not a tokenizer.json");
    let missing = Tokenizer::from_file("no/such/tokenizer.json").unwrap_err();
    says(missing, "no/such/tokenizer.json: cannot read");
    let empty = r#"{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}"#;
    says(Tokenizer::from_bytes(empty.as_bytes()).unwrap_err(), "vocabulary is empty");
}

/// A tokenizer of the tokens `a`, `b` and `!!b`, with one of its parts replaced.
fn small_tokenizer(part: &str) -> String {
    let model = r#"{"type":"BPE","vocab":{"a":0,"b":1,"!!b":2},"merges":[]}"#;
    let parts = if part.starts_with("\"model\"") {
        part.to_owned()
    } else {
        format!("\"model\":{model},{part}")
    };
    format!("{{\"version\":\"1.0\",{parts}}}")
}

#[test]
fn what_would_bring_the_tokenizer_library_down_is_refused() {
    let bpe =
        |rest: &str| format!(r#""model":{{"type":"BPE","vocab":{{"a":0,"b":1,"!!b":2}},{rest}}}"#);
    let template = |single: &str| {
        format!(
            r#""post_processor":{{"type":"TemplateProcessing","single":[{single}],"pair":[],
               "special_tokens":{{}}}}"#
        )
    };
    let nested = r#""normalizer":{"type":"Sequence","normalizers":[{"type":"Sequence","normalizers":
        [{"type":"Precompiled","precompiled_charsmap":"/////w=="}]}]}"#;
    let cases = [
        (bpe(r#""merges":["a b"]"#), "\"ab\" is not in the vocabulary"),
        (bpe(r#""merges":[["a","b"]]"#), "\"ab\" is not in the vocabulary"),
        (bpe(r#""merges":["c a"]"#), "\"c\" is not in the vocabulary"),
        (
            bpe(r#""continuing_subword_prefix":"!!","merges":["a b"]"#),
            "\"b\" does not start with \"!!\"",
        ),
        (
            r#""normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}"#.into(),
            "Precompiled",
        ),
        (nested.into(), "Precompiled"),
        (r#""pre_tokenizer":{"type":"FixedLength","length":0}"#.into(), "pieces of 0 characters"),
        (template(r#"{"SpecialToken":{"id":"<q>","type_id":0}}"#), "names \"<q>\""),
        (template(r#"{"Sequence":{"id":"B","type_id":0}}"#), "names a second"),
    ];
    for (part, words) in cases {
        says(Tokenizer::from_bytes(small_tokenizer(&part).as_bytes()).unwrap_err(), words);
    }
    // The library would read every model in a file and take the last.
    let twice = format!("{0},{0}", bpe(r#""merges":[]"#));
    says(Tokenizer::from_bytes(small_tokenizer(&twice).as_bytes()).unwrap_err(), "duplicate field");
}

#[test]
fn errors_name_the_file_that_a_tokenizer_or_template_came_from() {
    let file = Path::new("m/tokenizer.json");
    let tokenizer = small_tokenizer(r#""decoder":null"#);
    assert_eq!(Tokenizer::of_model(tokenizer.as_bytes(), 3, file).unwrap().vocab_size(), 3);
    let error = Tokenizer::of_model(tokenizer.as_bytes(), 2, file).unwrap_err();
    says(error, "m/tokenizer.json: the tokenizer has 3 tokens, the model embeds 2");
    says(Tokenizer::check(b"{", 2, file).unwrap_err(), "m/tokenizer.json: the file ends");

    let folder = tempfile::tempdir().unwrap();
    let template = |text: &str| {
        fs::write(folder.path().join("tokenizer_config.json"), text).unwrap();
        ChatTemplate::from_folder(folder.path()).unwrap_err()
    };
    says(
        template(r#"{"chat_template":[{"name":"rag","template":"x"}]}"#),
        "tokenizer_config.json: none",
    );
    says(template(r#"{"chat_template":"{{"}"#), "tokenizer_config.json: ");
    says(template(r#"{"chat_template":7}"#), "neither text nor a list");
    says(template(r#"["#), "tokenizer_config.json: not a tokenizer_config.json");
    fs::write(folder.path().join("chat_template.jinja"), "{% if").unwrap();
    says(template("{}"), "chat_template.jinja: ");
}

#[test]
fn what_a_tokenizer_holds_is_checked_wherever_it_stands_in_the_file() {
    let model = |fields: &str| small_tokenizer(&format!(r#""model":{{"type":"BPE",{fields}}}"#));
    let vocab = r#""vocab":{"a":0,"b":1,"ab":2}"#;
    let read = |text: String| Tokenizer::from_bytes(text.as_bytes());
    for merges in
        [r#""merges":["a b"]"#, r#""merges":[["a","b"]]"#, r##""merges":["#version: 2","a b"]"##]
    {
        for fields in [format!("{vocab},{merges}"), format!("{merges},{vocab}")] {
            let tokenizer = read(model(&fields)).unwrap();
            assert_eq!(tokenizer.encode("abb").unwrap(), [2, 1], "{fields}");
        }
    }
    for (fields, words) in [
        (format!(r#"{vocab},"merges":["b a"]"#), "merge 0: \"ba\" is not"),
        (format!(r#""merges":["b a"],{vocab}"#), "merge 0: \"ba\" is not"),
        (
            format!(r#"{vocab},"merges":["a b"],"continuing_subword_prefix":"a""#),
            "\"b\" does not start",
        ),
        (format!(r#"{vocab},"merges":["a"]"#), "expected a merge"),
        (format!(r#"{vocab},"merges":[["a","b","a"]]"#), "expected a merge"),
        (format!(r#"{vocab},"merges":[["a",7]]"#), "expected a token"),
        (format!(r#"{vocab},{vocab},"merges":[]"#), "duplicate field"),
        (r#""vocab":{"a":0,"b":0},"merges":[]"#.into(), "\"b\" has id 0, as another"),
        (r#""vocab":{"a":4294967295},"merges":[]"#.into(), "over 524288 tokens"),
        (r#""vocab":{"a":-1},"merges":[]"#.into(), "not a tokenizer.json"),
        (vocab.into(), "no merges"),
    ] {
        says(read(model(&fields)).unwrap_err(), words);
    }
    let added = |id: u32| {
        let flags = r#""single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true"#;
        small_tokenizer(&format!(r#""added_tokens":[{{"id":{id},"content":"<m>",{flags}}}]"#))
    };
    let of = |text: String| Tokenizer::of_model(text.as_bytes(), 4, Path::new("f"));
    assert!(of(added(3)).unwrap().is_special(3));
    says(of(added(9)).unwrap_err(), "has 10 tokens, the model embeds 4");
    for around in [
        r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"q","type_id":0}}],"pair":[],
           "special_tokens":{"q":{"id":"q","ids":[4000000000],"tokens":["q"]}}}"#,
        r#"{"type":"RobertaProcessing","sep":["x",99999],"cls":["a",0],"trim_offsets":true,"add_prefix_space":true}"#,
    ] {
        let text = small_tokenizer(&format!(r#""post_processor":{around}"#));
        says(of(text).unwrap_err(), "around texts, which the model does not embed");
    }
}

#[test]
fn a_tokenizer_needs_room_and_text() {
    let texts = || ["def f(): pass"; 3].into_iter();
    says(Tokenizer::train_bpe(texts(), 200, &["<s>"]).unwrap_err(), "alone are 257");
    says(Tokenizer::train_bpe(texts(), 4096, &["<s>"]).unwrap_err(), "the text gives only");
    // No room is made for tokens that no text of this length has.
    for vocab_size in [1_000_000_000, usize::MAX] {
        let told = Tokenizer::train_bpe(texts(), vocab_size, &["<s>"]).unwrap_err();
        says(told, "the text gives only");
    }
}

#[test]
fn a_tokenizer_without_hole_marks_says_so() {
    let tokenizer = Tokenizer::from_file(fixture("tokenizer/byte-fallback.json")).unwrap();
    says(Fim::from_tokenizer(&tokenizer).unwrap_err(), "<fim_prefix>");
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
    let options = CorpusOptions { extensions, max_document_bytes: 1000, ..Default::default() };
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
