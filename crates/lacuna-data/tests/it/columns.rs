//! Reads Parquet files, whole and damaged ones.

use crate::packs::TOKENIZER;
use lacuna_data::corpus::Reason;
use lacuna_data::{ChatOptions, Corpus, CorpusOptions, Error, PackedChat, pack_chat};
use lacuna_text::ChatTemplate;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The values of a column of one row group, with their definition and repetition levels.
type Values = (Vec<ByteArray>, Vec<i16>, Vec<i16>);

/// A Parquet file of a schema: of each row group, the values of each column.
fn write(schema: &str, groups: &[Vec<Values>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut file = SerializedFileWriter::new(vec![], schema, Arc::new(properties)).unwrap();
    for columns in groups {
        let mut group = file.next_row_group().unwrap();
        for (values, definitions, repetitions) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let writer = column.typed::<ByteArrayType>();
            let (definitions, repetitions) = (definitions.as_slice(), repetitions.as_slice());
            writer.write_batch(values, Some(definitions), Some(repetitions)).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    file.into_inner().unwrap()
}

/// A column of texts beside another, in several row groups.
pub(crate) fn strings(name: &str, texts: &[String]) -> Vec<u8> {
    let schema = format!(
        "message rows {{ OPTIONAL BYTE_ARRAY before (UTF8); OPTIONAL BYTE_ARRAY {name} (UTF8); }}"
    );
    let group = |texts: &[String]| {
        let values = texts.iter().map(|text| ByteArray::from(text.as_str())).collect::<Vec<_>>();
        let ones = vec![1; texts.len()];
        let none = vec![0; texts.len()];
        vec![(vec![], none.clone(), none.clone()), (values, ones, none)]
    };
    let groups: Vec<_> = texts.chunks(25).map(group).collect();
    write(&schema, &groups, Compression::SNAPPY)
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn read(path: &Path) -> Result<Corpus, Error> {
    Corpus::read(&[path], &CorpusOptions::default())
}

#[test]
fn rows_are_records_and_what_is_no_text_is_named() {
    let place = tempfile::tempdir().unwrap();
    let schema = "message rows { OPTIONAL BYTE_ARRAY text (UTF8); OPTIONAL BYTE_ARRAY content; }";
    let bytes = |texts: &[&[u8]]| texts.iter().map(|t| ByteArray::from(t.to_vec())).collect();
    let columns = vec![
        (bytes(&[b"one", b""]), vec![1, 0, 0, 1], vec![0; 4]),
        (bytes(&[b"two", b"caf\xe9"]), vec![0, 1, 1, 0], vec![0; 4]),
    ];
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(Default::default()),
    ] {
        let written = write(schema, &[columns.clone(), columns.clone()], compression);
        let corpus = read(&file(place.path(), "a.parquet", &written)).unwrap();
        let found: Vec<_> =
            corpus.documents.iter().map(|d| (d.path.as_str(), d.text.as_str())).collect();
        assert_eq!(found, [("a.parquet#1", "one"), ("a.parquet#2", "two")]);
        assert!(corpus.documents.iter().all(|document| document.is_record));
        assert_eq!(corpus.skipped.places(Reason::NotUtf8)[0], "a.parquet#3 (not UTF-8)");
        assert_eq!(corpus.skipped.places(Reason::Empty), ["a.parquet#4", "a.parquet#8"]);
        assert_eq!(corpus.skipped.count(Reason::Duplicate), 2);
    }
}

#[test]
fn a_file_without_a_text_says_which_columns_it_has() {
    let place = tempfile::tempdir().unwrap();
    let bytes = strings("body", &["x".to_owned()]);
    let path = file(place.path(), "tree/a.parquet", &bytes);
    let error = read(&path).unwrap_err().to_string();
    for words in ["a.parquet", "\"text\" or \"content\"", "it has before, body", "data.text_fields"]
    {
        assert!(error.contains(words), "{error}");
    }
    let options = CorpusOptions { text_fields: vec!["body".into()], ..CorpusOptions::default() };
    assert_eq!(Corpus::read(&[&path], &options).unwrap().documents[0].text, "x");
    file(place.path(), "tree/b.py", b"x = 1\n");
    let corpus = read(&place.path().join("tree")).unwrap();
    assert_eq!(corpus.skipped.places(Reason::NoText), ["a.parquet (it has before, body)"]);
    assert!(
        read(&file(place.path(), "c.parquet", b"not one"))
            .unwrap_err()
            .to_string()
            .contains("c.parquet")
    );
}

/// The smallest file with text, changed in every way that fits into a test.
#[test]
fn no_damage_of_a_file_does_worse_than_an_error() {
    let place = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|n| format!("text number {n}")).collect();
    let whole = strings("text", &texts);
    assert_eq!(read(&file(place.path(), "a.parquet", &whole)).unwrap().documents.len(), 40);
    // Whoever panics inside is caught, and needs no report.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut refused = 0;
    for at in 0..whole.len() {
        let cut = read(&file(place.path(), "a.parquet", &whole[..at]));
        assert!(cut.is_err(), "{at} of {} bytes", whole.len());
        for bit in [0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            let path = file(place.path(), "a.parquet", &bytes);
            if let Err(error) = read(&path) {
                refused += 1;
                assert!(error.to_string().contains("a.parquet"), "{error}");
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(refused > whole.len() / 4, "{refused} of {}", 2 * whole.len());
}

#[test]
fn conversations_in_columns_are_those_in_lines() {
    let place = tempfile::tempdir().unwrap();
    let schema = "message rows { REQUIRED GROUP messages (LIST) { REPEATED GROUP list { OPTIONAL GROUP element { \
                  OPTIONAL BYTE_ARRAY content (UTF8); OPTIONAL BYTE_ARRAY role (UTF8); \
                  OPTIONAL BYTE_ARRAY name (UTF8); } } } }";
    let talks = [vec!["2+2", "four"], vec!["a", "b", "c", "d"], vec!["x", "y"]];
    let texts = |texts: Vec<&str>| texts.into_iter().map(ByteArray::from).collect::<Vec<_>>();
    let role = |turn: usize| if turn.is_multiple_of(2) { "user" } else { "assistant" };
    let turns: Vec<(usize, &str)> =
        talks.iter().flat_map(|t| t.iter().copied().enumerate()).collect();
    let again: Vec<i16> = turns.iter().map(|(turn, _)| i16::from(*turn > 0)).collect();
    let columns = vec![
        (texts(turns.iter().map(|(_, text)| *text).collect()), vec![3; turns.len()], again.clone()),
        (
            texts(turns.iter().map(|(turn, _)| role(*turn)).collect()),
            vec![3; turns.len()],
            again.clone(),
        ),
        (vec![], vec![2; turns.len()], again),
    ];
    let parquet = file(place.path(), "a.parquet", &write(schema, &[columns], Compression::SNAPPY));
    let lines: String = talks
        .iter()
        .map(|talk| {
            let message = |(turn, text): (usize, &&str)| serde_json::json!({ "role": role(turn), "content": text });
            let messages: Vec<_> = talk.iter().enumerate().map(message).collect();
            format!("{}\n", serde_json::json!({ "messages": messages }))
        })
        .collect();
    let jsonl = file(place.path(), "a.jsonl", lines.as_bytes());
    let template = ChatTemplate::seed_coder();
    let options = ChatOptions {
        held_out: 0.4,
        ..ChatOptions::new(&template, &TOKENIZER, 2, 128.try_into().unwrap())
    };
    let from = |path: &Path| -> PackedChat { pack_chat(&[path], &options).unwrap() };
    let (columns, lines) = (from(&parquet), from(&jsonl));
    assert_eq!((&columns.train, &columns.held_out), (&lines.train, &lines.held_out));
    assert!(columns.skipped.is_empty(), "{}", columns.skipped);
    assert_eq!(columns.train.documents() + columns.held_out.documents(), 3);
}

#[test]
fn a_compression_that_is_not_read_is_named_and_not_called_damage() {
    let place = tempfile::tempdir().unwrap();
    let whole = strings("text", &["def f(): pass".to_owned()]);
    // The codec of a column stands behind its path in the file's own description: 1, Snappy, is the number 2 there.
    let path = b"\x18\x04text\x15\x02";
    let at = whole.windows(path.len()).position(|bytes| bytes == path).unwrap() + path.len() - 1;
    for (codec, name) in [(4, "BROTLI"), (5, "LZ4"), (7, "LZ4_RAW")] {
        let mut bytes = whole.clone();
        bytes[at] = 2 * codec;
        let path = file(place.path(), "a.parquet", &bytes);
        let error = read(&path).unwrap_err().to_string();
        let column = format!("column `text` is compressed with {name}, which is not read here");
        assert!(error.contains(&column) && error.contains("zstd"), "{error}");
        assert!(!error.contains("damaged"), "{error}");
    }
}

#[test]
fn whatever_is_damaged_the_error_is_one_line_that_can_be_read() {
    let place = tempfile::tempdir().unwrap();
    let texts: Vec<_> = (0..40).map(|n| format!("def f{n}(x):\n    return x + {n}\n")).collect();
    let whole = strings("text", &texts);
    let mut refused = 0;
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let path = file(place.path(), "a.parquet", &bytes);
        let Err(error) = read(&path) else { continue };
        let (error, name) = (error.to_string(), path.display().to_string());
        assert!(!error.contains('\n') && error.len() < name.len() + 500, "byte {at}: {error}");
        refused += 1;
    }
    assert!(refused > 20, "{refused}");
}
