//! Reads corpora as others publish them: nothing is dropped without being counted and named.

use lacuna_data::corpus::{Reading, Reason};
use lacuna_data::{Corpus, CorpusOptions, Error};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn read(path: &Path) -> Result<Corpus, Error> {
    Corpus::read(&[path], &CorpusOptions::default())
}

fn texts(corpus: &Corpus) -> Vec<(&str, &str)> {
    corpus.documents.iter().map(|d| (d.path.as_str(), d.text.as_str())).collect()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

#[test]
fn lines_that_windows_and_python_write_are_read() {
    let folder = Folder::new();
    let lines = [
        "\u{feff}{\"text\": \"one\"}\r",
        "",
        r#"{"text": "two", "score": NaN, "range": [-Infinity, Infinity], "big": 1e999}"#,
        r#"{"id": "\ud800", "text": "thr\u0065e"}"#,
        r#"{"text": "not this", "text": "four"}"#,
        r#"{"text": null, "content": "five"}"#,
        &format!(r#"{{"deep": {}{}, "text": "six"}}"#, "[".repeat(5000), "]".repeat(5000)),
        "\u{feff}{\"text\": \"se",
    ]
    .join("\n");
    let corpus = read(&folder.write("a.jsonl", lines)).unwrap();
    let expected = [
        ("a.jsonl#1", "one"),
        ("a.jsonl#3", "two"),
        ("a.jsonl#4", "three"),
        ("a.jsonl#5", "four"),
        ("a.jsonl#6", "five"),
        ("a.jsonl#7", "six"),
    ];
    assert_eq!(texts(&corpus), expected);
    assert_eq!(corpus.skipped.counts().collect::<Vec<_>>(), [(Reason::NotJson, 1)]);
    assert_eq!(corpus.skipped.places(Reason::NotJson), ["a.jsonl:8 (it ends in the middle)"]);
}

#[test]
fn every_line_that_is_passed_over_is_counted_with_its_place() {
    let folder = Folder::new();
    let mut lines = vec![];
    for line in [
        &b"{\"text\": \"good\"}"[..],
        b"{\"text\": \"\\ud800\"}",
        b"{\"text\": \"caf\xe9\"}",
        b"{\"text\": 3}",
        b"{\"text\": \"\"}",
        b"[1, 2]",
        b"{'text': 'x'}",
        b"{\"messages\": []}",
    ] {
        lines.extend_from_slice(line);
        lines.push(b'\n');
    }
    let corpus = read(&folder.write("a.jsonl", lines)).unwrap();
    assert_eq!(corpus.documents.len(), 1);
    let said: Vec<String> = corpus.skipped.lines().collect();
    let all = said.join("\n");
    for line in 2..=8 {
        assert!(all.contains(&format!("a.jsonl:{line}")), "line {line} in {all}");
    }
    assert_eq!(corpus.skipped.counts().map(|(_, count)| count).sum::<usize>(), 7);
    assert!(all.contains("\"text\" is a number") && all.contains("[sft]"), "{all}");
}

#[test]
fn a_file_without_a_text_says_what_was_expected_and_what_is_there() {
    let folder = Folder::new();
    let path = folder.write("a.jsonl", "{\"body\": \"x\", \"id\": 1}\n".repeat(3));
    let error = read(&path).unwrap_err().to_string();
    for words in
        ["a.jsonl: line 1", "\"text\" or \"content\"", "it has body, id", "data.text_fields"]
    {
        assert!(error.contains(words), "{error}");
    }
    let mut options = CorpusOptions { text_fields: vec!["body".into()], ..Default::default() };
    let once = Corpus::read(&[&path], &options).unwrap();
    assert_eq!((once.documents.len(), once.skipped.count(Reason::Duplicate)), (1, 2));
    options.take_duplicates = true;
    assert_eq!(Corpus::read(&[path], &options).unwrap().documents.len(), 3);
    // In a folder, another's log is not an error.
    folder.write("tree/log.jsonl", "{\"loss\": 1}\n");
    folder.write("tree/a.py", "a");
    let corpus = read(&folder.path("tree")).unwrap();
    assert_eq!(corpus.skipped.places(Reason::NoText), ["log.jsonl:1 (it has loss)"]);
}

#[test]
fn an_array_of_records_is_read_and_other_json_is_a_text() {
    let folder = Folder::new();
    let array =
        "\u{feff}[\n  {\"text\": \"one\", \"n\": NaN},\n  {\"text\": \"two\"},\n  {\"n\": 3}\n]\n";
    let corpus = read(&folder.write("a.json", array)).unwrap();
    assert_eq!(texts(&corpus), [("a.json#1", "one"), ("a.json#2", "two")]);
    assert_eq!(corpus.skipped.places(Reason::NoText), ["a.json:4 (it has n)"]);
    let lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    assert_eq!(read(&folder.write("b.json", lines)).unwrap().documents.len(), 2);
    assert_eq!(read(&folder.write("c.json.gz", gz(lines.as_bytes()))).unwrap().documents.len(), 2);
    for text in ["{\"name\": \"lacuna\", \"text\": \"a setting\"}\n", "[1, 2]", "[]", "{", ""] {
        let path = folder.write("d.json", format!("{text} "));
        assert_eq!(texts(&read(&path).unwrap()), [("d.json", format!("{text} ").as_str())]);
    }
    let error = read(&folder.write("g.json", "[\n{\"body\": \"x\"}]")).unwrap_err().to_string();
    assert!(error.contains("g.json: line 2") && error.contains("it has body"), "{error}");
    folder.write("tree/g.json", "[{\"body\": \"x\"}]");
    assert_eq!(read(&folder.path("tree")).unwrap().documents.len(), 1);
    let cut = read(&folder.write("e.json", "[{\"text\": \"one\"}, {\"text\": \"tw")).unwrap_err();
    assert!(cut.to_string().contains("e.json") && cut.to_string().contains("cut short"), "{cut}");
    assert!(read(&folder.write("f.json", "[{\"text\": \"one\"}")).is_err(), "the array never ends");
}

#[test]
fn compressed_data_is_read_to_its_end_or_its_damage_is_named() {
    let folder = Folder::new();
    let lines = |from: usize| -> String {
        (from..from + 20_000).map(|n| format!("{{\"text\": \"{n} {}\"}}\n", n * n)).collect()
    };
    // Several members, as `cat a.gz b.gz` makes them.
    let members = [gz(lines(0).as_bytes()), gz(lines(20_000).as_bytes())].concat();
    let whole = read(&folder.write("two.jsonl.gz", &members)).unwrap();
    assert_eq!(whole.documents.len(), 40_000);
    let zst = zstd::encode_all(lines(0).as_bytes(), 1).unwrap();
    for (name, whole) in [("cut.jsonl.gz", &members), ("cut.jsonl.zst", &zst)] {
        let cut = &whole[..whole.len() - 40];
        let error = read(&folder.write(name, cut)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("cut short"), "{error}");
        assert!(error.contains("from line"), "{error}");
        let tree = folder.write(&format!("tree/{name}"), cut);
        let corpus = read(&folder.path("tree")).unwrap();
        assert!(corpus.documents.len() > 500, "what stands before the damage is kept");
        assert_eq!(corpus.skipped.count(Reason::Damaged), 1, "{}", corpus.skipped);
        assert!(corpus.skipped.places(Reason::Damaged)[0].starts_with(&format!("{name}:")));
        fs::remove_file(tree).unwrap();
    }
    let mut flipped = gz(lines(0).as_bytes());
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    assert!(read(&folder.write("flipped.jsonl.gz", flipped)).is_err());
}

#[test]
fn a_bomb_of_zeros_is_one_line_that_is_too_large() {
    let folder = Folder::new();
    let bomb = gz(&vec![b' '; 64 << 20]);
    let joined = [gz(b"{\"text\": \"x\"}\n"), gz(b"{\"text\": \""), bomb].concat();
    let corpus = read(&folder.write("bomb.jsonl.gz", joined)).unwrap();
    assert_eq!((corpus.documents.len(), corpus.skipped.count(Reason::TooLarge)), (1, 1));
}

#[test]
fn a_file_that_is_named_is_taken_whatever_its_size_and_ending() {
    let folder = Folder::new();
    let text = "x".repeat(5000);
    let path = folder.write("tree/large.txt", &text);
    folder.write("tree/a.py", "a");
    let options = CorpusOptions {
        extensions: vec!["py".into()],
        max_document_bytes: 1000,
        ..Default::default()
    };
    assert_eq!(Corpus::read(&[path], &options).unwrap().text_bytes(), 5000);
    folder.write("tree/b.py", &text);
    let corpus = Corpus::read(&[folder.path("tree")], &options).unwrap();
    assert_eq!(texts(&corpus), [("a.py", "a")]);
    let said: Vec<String> = corpus.skipped.lines().collect();
    assert!(said[0].starts_with("1 too large [over 1000 bytes; --max-document-bytes"), "{said:?}");
    assert!(said[0].ends_with(": b.py") && said[1].ends_with(": large.txt"), "{said:?}");
}

#[test]
fn utf_16_and_formats_that_are_not_read_are_named() {
    let folder = Folder::new();
    let utf16: Vec<u8> = "\u{feff}text".encode_utf16().flat_map(u16::to_le_bytes).collect();
    folder.write("tree/a.txt", &utf16);
    folder.write("tree/b.jsonl", &utf16);
    folder.write("tree/c.arrow", "ARROW1");
    folder.write("tree/d.zip", "PK");
    let error = read(&folder.path("tree")).unwrap_err().to_string();
    for words in ["2 UTF-16", "a.txt, b.jsonl", "2 in a format that is not read", "c.arrow, d.zip"]
    {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn limits_can_be_lifted_one_by_one() {
    let folder = Folder::new();
    folder.write("tree/.env", "hidden");
    folder.write("tree/.gitignore", "out/\n*.log\n!keep.log\n");
    folder.write("tree/out/x", "ignored");
    folder.write("tree/x.log", "ignored too");
    folder.write("tree/keep.log", "kept");
    folder.write("tree/zero.py", "a\0b");
    let names = |options: CorpusOptions| -> Vec<String> {
        let corpus = Corpus::read(&[folder.path("tree")], &options).unwrap();
        corpus.documents.into_iter().map(|document| document.path).collect()
    };
    let none = CorpusOptions::default();
    assert_eq!(names(none.clone()), ["keep.log"]);
    assert_eq!(
        names(CorpusOptions { take_hidden: true, ..none.clone() }),
        [".env", ".gitignore", "keep.log"]
    );
    let ignored = CorpusOptions { take_ignored: true, ..none.clone() };
    assert_eq!(names(ignored), ["keep.log", "out/x", "x.log"]);
    assert_eq!(names(CorpusOptions { take_binary: true, ..none }), ["keep.log", "zero.py"]);
    let corpus = read(&folder.path("tree")).unwrap();
    assert_eq!(corpus.skipped.places(Reason::Ignored), ["out", "x.log"]);
    assert_eq!(corpus.skipped.places(Reason::Hidden), [".env", ".gitignore"]);
}

#[test]
fn equal_texts_are_taken_once_wherever_they_stand_and_the_others_are_named() {
    let folder = Folder::new();
    folder.write("tree/a.py", "same");
    folder.write("tree/b/c.py", "same");
    folder.write(
        "tree/d.jsonl",
        "{\"text\": \"same\"}\n{\"text\": \"other\"}\n{\"text\": \"other\"}\n",
    );
    let corpus = read(&folder.path("tree")).unwrap();
    assert_eq!(texts(&corpus), [("a.py", "same"), ("d.jsonl#2", "other")]);
    assert_eq!(corpus.skipped.places(Reason::Duplicate), ["b/c.py", "d.jsonl:1", "d.jsonl:3"]);
    // So none can be in both parts, whichever is held out.
    for part in [0.1, 0.5, 0.9] {
        let (train, held_out) = read(&folder.path("tree")).unwrap().split(part);
        for document in &train {
            assert!(held_out.iter().all(|other| other.text != document.text));
        }
    }
}

#[test]
fn records_are_held_out_by_their_text_and_files_by_their_path() {
    let folder = Folder::new();
    let lines: Vec<String> = (0..200).map(|n| format!("{{\"text\": \"text {n}\"}}\n")).collect();
    let forwards = read(&folder.write("a.jsonl", lines.concat())).unwrap().split(0.3);
    let backwards: String = lines.iter().rev().map(String::as_str).collect();
    let backwards = read(&folder.write("other.jsonl", backwards)).unwrap().split(0.3);
    let sorted = |documents: &[lacuna_data::Document]| {
        let mut texts: Vec<_> = documents.iter().map(|d| d.text.clone()).collect();
        texts.sort();
        texts
    };
    assert_eq!(sorted(&forwards.1), sorted(&backwards.1));
    assert!((30..90).contains(&forwards.1.len()), "{}", forwards.1.len());
    folder.write("one/x.py", "before");
    folder.write("two/x.py", "after");
    let is_held_out = |name: &str| read(&folder.path(name)).unwrap().documents[0].is_held_out(0.5);
    assert_eq!(is_held_out("one"), is_held_out("two"), "an edited file stays where it was");
}

#[test]
fn languages_and_looks_are_passed_over_only_where_that_is_asked_for() {
    let folder = Folder::new();
    folder.write("tree/a.py", "x = 1\n");
    folder.write("tree/b.rs", "fn main() {}\n");
    folder.write("tree/c.py", "# Generated by a tool. Do not edit.\ny = 2\n");
    folder.write("tree/d.py", "z=3;".repeat(400));
    folder.write("tree/e.py", "| - | - |\n".repeat(30));
    folder.write("tree/Makefile", "all:\n\ttrue\n");
    let read = |options: CorpusOptions| Corpus::read(&[folder.path("tree")], &options).unwrap();
    assert_eq!(read(CorpusOptions::default()).documents.len(), 6);
    let corpus = read(CorpusOptions {
        languages: vec!["python".into()],
        skip_generated: true,
        skip_minified: true,
        ..CorpusOptions::default()
    });
    assert_eq!(texts(&corpus), [("a.py", "x = 1\n")]);
    let expected = [
        (Reason::OtherLanguage, 2),
        (Reason::Generated, 1),
        (Reason::LongLines, 1),
        (Reason::FewLetters, 1),
    ];
    assert_eq!(corpus.skipped.counts().collect::<Vec<_>>(), expected);
    let said = corpus.skipped.to_string();
    assert!(said.contains("--languages") && said.contains("data.skip_minified"), "{said}");
    let unknown = CorpusOptions { languages: vec!["pyhton".into()], ..CorpusOptions::default() };
    let error = Corpus::read(&[folder.path("tree")], &unknown).unwrap_err().to_string();
    assert!(error.contains("\"pyhton\"") && error.contains("python"), "{error}");
}

#[test]
fn a_corpus_has_a_hash_of_its_paths_and_texts() {
    let folder = Folder::new();
    folder.write("one/a.py", "a");
    folder.write("two/b.py", "a");
    let hash = |name: &str| read(&folder.path(name)).unwrap().hash();
    let before = hash("one");
    assert_eq!(before, hash("one"));
    assert_ne!(before, hash("two"));
    folder.write("one/a.py", "b");
    assert_ne!(before, hash("one"));
}

#[test]
fn the_progress_ends_at_all_files_and_all_bytes() {
    let folder = Folder::new();
    folder.write("tree/a.py", "12345");
    folder.write("tree/b.jsonl", "{\"text\": \"x\"}\n");
    let mut told = vec![];
    let options = CorpusOptions::default();
    Corpus::read_with(&[folder.path("tree")], &options, &mut |reading| told.push(reading)).unwrap();
    let end = Reading { files: 2, files_total: 2, bytes: 19, bytes_total: 19 };
    assert_eq!(told.last(), Some(&end));
    assert!(told.is_sorted_by_key(|reading| reading.bytes));
}

#[cfg(unix)]
mod links {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_read_and_what_they_repeat_is_counted() {
        let folder = Folder::new();
        folder.write("blobs/aa", "a");
        folder.write("blobs/more/bb", "b");
        folder.write("tree/plain.py", "p");
        for (to, link) in [
            ("../blobs/aa", "a.py"),
            ("../blobs/aa", "b.py"),
            ("plain.py", "again.py"),
            ("../blobs/more", "linked"),
            ("../blobs/more/bb", "z.py"),
            (".", "circle"),
            ("..", "out"),
            ("nowhere", "broken"),
            ("self", "self"),
            ("/dev/zero", "zero"),
        ] {
            symlink(to, folder.path("tree").join(link)).unwrap();
        }
        let corpus = read(&folder.path("tree")).unwrap();
        let expected = [("a.py", "a"), ("linked/bb", "b"), ("plain.py", "p")];
        assert_eq!(texts(&corpus), expected);
        assert_eq!(corpus.skipped.places(Reason::Again), ["again.py", "b.py", "z.py"]);
        assert_eq!(corpus.skipped.places(Reason::CircularLink), ["circle", "out"]);
        assert_eq!(corpus.skipped.places(Reason::BrokenLink), ["broken", "self"]);
        assert_eq!(corpus.skipped.places(Reason::NotAFile), ["zero"]);
        // A folder that is itself a link, as snapshots of caches are.
        symlink("tree", folder.path("snapshot")).unwrap();
        assert_eq!(texts(&read(&folder.path("snapshot")).unwrap()), expected);
    }

    #[test]
    fn folders_that_lead_to_each_other_end() {
        let folder = Folder::new();
        for name in ["a", "b", "c"] {
            folder.write(&format!("tree/{name}/{name}.py"), name);
            for other in ["a", "b", "c"] {
                symlink(format!("../{other}"), folder.path(&format!("tree/{name}/to-{other}")))
                    .unwrap();
            }
        }
        let corpus = read(&folder.path("tree")).unwrap();
        assert_eq!(corpus.documents.len(), 3);
        let links =
            corpus.skipped.count(Reason::Again) + corpus.skipped.count(Reason::CircularLink);
        assert_eq!(links, 9);
    }

    #[test]
    fn pipes_and_sockets_of_a_folder_are_never_opened() {
        let folder = Folder::new();
        folder.write("tree/a.py", "a");
        // Opening a pipe without a writer would wait for ever.
        let made = std::process::Command::new("mkfifo").arg(folder.path("tree/pipe.py")).status();
        let _socket =
            std::os::unix::net::UnixListener::bind(folder.path("tree/socket.py")).unwrap();
        let corpus = read(&folder.path("tree")).unwrap();
        let expected = 1 + usize::from(made.is_ok_and(|status| status.success()));
        assert_eq!(corpus.skipped.count(Reason::NotAFile), expected);
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("a device"), "{error}");
    }
}
