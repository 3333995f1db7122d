//! Packs corpora as users do: the same bytes for any number of threads, from any file, whole or not at all.

use crate::columns::strings;
use lacuna_data::corpus::Reason;
use lacuna_data::{
    CorpusOptions, Dataset, Document, Error, HoleOrder, Holes, PackOptions, PackReport, pack_corpus,
};
use lacuna_test::fixtures;
use lacuna_text::{Fim, Tokenizer};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub(crate) static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_file(fixtures().join("tokenizer/tokenizer.json")).unwrap());

pub(crate) fn options(window: usize) -> PackOptions<'static> {
    PackOptions {
        pad: 1,
        held_out: 0.2,
        shard_tokens: 1 << 14,
        ..PackOptions::new(&TOKENIZER, 2, window.try_into().unwrap())
    }
}

fn packed(inputs: &[PathBuf], options: &PackOptions<'_>, out: &Path) -> Result<PackReport, Error> {
    pack_corpus(inputs, &CorpusOptions::default(), options, out, &mut |_| {})
}

/// Every file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn corpus() -> PathBuf {
    fixtures().join("corpus/python")
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let mut written = vec![];
    for threads in [1usize, 2, 5] {
        let out = place.path().join(format!("{threads}"));
        let options = PackOptions {
            threads: threads.try_into().unwrap(),
            holes: Some(Holes::new(&TOKENIZER, 0.5, HoleOrder::Both, 3).unwrap()),
            ..options(64)
        };
        let report = packed(&[corpus()], &options, &out).unwrap();
        assert!(report.rewritten_documents > 0 && report.held_out_documents > 0);
        assert!(report.train.shards.len() > 3, "{}", report.train.shards.len());
        written.push(files(&out));
    }
    assert!(written[0] == written[1] && written[0] == written[2]);
    assert!(written[0].keys().all(|name| !name.to_string_lossy().contains("partial")));
}

#[test]
fn jsonl_and_parquet_and_their_order_in_files_give_the_same_shards() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    let texts: Vec<String> = lacuna_data::Corpus::read(&[corpus()], &CorpusOptions::default())
        .unwrap()
        .documents
        .into_iter()
        .map(|document| document.text)
        .collect();
    let lines: String = texts
        .iter()
        .map(|text| format!("{}\n", serde_json::json!({ "id": 1, "text": text })))
        .collect();
    fs::write(root.join("a.jsonl"), &lines).unwrap();
    fs::write(root.join("a.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    let (first, rest) = texts.split_at(texts.len() / 3);
    fs::write(root.join("b.parquet"), strings("text", first)).unwrap();
    fs::write(root.join("c.parquet"), strings("text", rest)).unwrap();
    let mut written = vec![];
    for (number, inputs) in
        [vec!["a.jsonl"], vec!["a.jsonl.zst"], vec!["b.parquet", "c.parquet"]].iter().enumerate()
    {
        let inputs: Vec<PathBuf> = inputs.iter().map(|name| root.join(name)).collect();
        let out = root.join(format!("out-{number}"));
        let report = packed(&inputs, &options(64), &out).unwrap();
        assert_eq!(report.documents, texts.len());
        written.push(files(&out));
    }
    assert!(written[0] == written[1], "compressed lines are other shards");
    assert!(written[0] == written[2], "Parquet gives other shards than lines");
}

#[test]
fn no_document_is_in_both_parts_and_all_are_in_one() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    // Files, lines, members of an archive and rows; each text twice.
    for n in 0..40 {
        fs::create_dir_all(root.join("tree")).unwrap();
        fs::write(root.join(format!("tree/{n}.py")), format!("file_{n} = {n}\n")).unwrap();
        fs::write(root.join(format!("tree/{n}-again.py")), format!("file_{n} = {n}\n")).unwrap();
    }
    let lines: String = (0..80).map(|n| format!("{{\"text\": \"line_{}\"}}\n", n % 40)).collect();
    fs::write(root.join("a.jsonl"), lines).unwrap();
    let rows: Vec<String> = (0..80).map(|n| format!("row_{}", n % 40)).collect();
    fs::write(root.join("a.parquet"), strings("text", &rows)).unwrap();
    let mut tar = tar::Builder::new(vec![]);
    for n in 0..80 {
        let text = format!("member_{}", n % 40);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, format!("m/{n}.py"), text.as_bytes()).unwrap();
    }
    fs::write(root.join("a.tar"), tar.into_inner().unwrap()).unwrap();
    let inputs = ["tree", "a.jsonl", "a.parquet", "a.tar"].map(|name| root.join(name));
    let out = root.join("out");
    let report = packed(&inputs, &options(8), &out).unwrap();
    assert_eq!((report.documents, report.skipped.count(Reason::Duplicate)), (160, 160));
    let documents = |part: &str| -> Vec<String> {
        let dataset = Dataset::open(out.join(part)).unwrap();
        dataset.verify().unwrap();
        let tokens: Vec<u32> = dataset.iter().flat_map(|window| window.unwrap().tokens).collect();
        let whole = tokens.split(|id| *id == 2).map(|ids| TOKENIZER.decode(ids).unwrap());
        whole.filter(|text| !text.trim().is_empty()).collect()
    };
    let (train, held_out) = (documents("train"), documents("held-out"));
    assert!(held_out.iter().all(|text| !train.contains(text)), "a document is in both parts");
    for kind in ["file_", "line_", "row_", "member_"] {
        let count = |part: &[String]| part.iter().filter(|text| text.starts_with(kind)).count();
        // The last of the training part may be cut with its window.
        assert!(count(&train) + count(&held_out) >= 39, "{kind}");
        assert!(count(&held_out) > 0, "none of {kind} is held out");
    }
}

#[test]
fn the_parts_of_a_document_with_a_hole_give_the_document() {
    let fim = Fim::from_tokenizer(&TOKENIZER).unwrap();
    let (prefix, suffix, middle) = (fim.prefix, fim.suffix, fim.middle.unwrap());
    let read = lacuna_data::Corpus::read(&[corpus()], &CorpusOptions::default()).unwrap();
    let mut documents = read.documents;
    documents.truncate(60);
    for text in ["", "x", "né\u{301}é 😀\r\n", "<[fim-prefix]> in a text <[end▁of▁sentence]>"]
    {
        documents.push(Document { path: "odd".into(), text: text.into(), is_record: true });
    }
    let mut orders = [0, 0];
    for order in
        [HoleOrder::Model, HoleOrder::PrefixSuffix, HoleOrder::SuffixPrefix, HoleOrder::Both]
    {
        let holes = Holes::new(&TOKENIZER, 1.0, order, 9).unwrap();
        for document in &documents {
            let [tokens] = &holes.rewritten(document).unwrap().unwrap()[..] else {
                panic!("several documents in place of one")
            };
            let at = |mark| {
                let mut places = tokens.iter().enumerate().filter(|(_, id)| **id == mark);
                let place = places.next().unwrap().0;
                assert!(places.next().is_none(), "a mark stands twice");
                place
            };
            let (p, s, m) = (at(prefix), at(suffix), at(middle));
            let decode = |from: usize, to: usize| {
                TOKENIZER.decode_with_special_tokens(&tokens[from + 1..to]).unwrap()
            };
            let (before, after) = match p < s {
                true => (decode(p, s), decode(s, m)),
                false => (decode(p, m), decode(s, p)),
            };
            assert_eq!(p.min(s), 0, "nothing stands before the first mark");
            assert_eq!(before + &decode(m, tokens.len()) + &after, document.text);
            match order {
                HoleOrder::PrefixSuffix => assert!(p < s),
                HoleOrder::SuffixPrefix | HoleOrder::Model => assert!(s < p),
                HoleOrder::Both => orders[usize::from(p < s)] += 1,
            }
        }
    }
    assert!(orders.iter().all(|count| *count > 15), "{orders:?}");
}

#[test]
fn a_document_in_pieces_has_a_hole_in_each_of_them() {
    let fim = Fim::from_tokenizer(&TOKENIZER).unwrap();
    let marks = [fim.prefix, fim.suffix, fim.middle.unwrap()];
    let read = lacuna_data::Corpus::read(&[corpus()], &CorpusOptions::default()).unwrap();
    let mut documents = read.documents;
    documents.truncate(40);
    let long_line = format!("x = [{}]\n", "1, ".repeat(300));
    for text in ["", "\n", "x", &format!("a\r\n{long_line}né 😀\n\n"), &long_line.repeat(2)] {
        documents.push(Document { path: "odd".into(), text: text.into(), is_record: true });
    }
    let holes = |seed| Holes::new(&TOKENIZER, 1.0, HoleOrder::PrefixSuffix, seed).unwrap();
    let most = 60;
    for document in &documents {
        let in_pieces = holes(9).in_pieces(NonZeroUsize::new(most));
        let pieces = in_pieces.rewritten(document).unwrap().unwrap();
        let tokens_of = |text: &str| TOKENIZER.encode_ordinary(text).unwrap().len();
        let mut whole = String::new();
        for tokens in &pieces {
            let places = marks.map(|mark| tokens.iter().position(|&id| id == mark).unwrap());
            assert!(places[0] == 0 && places.is_sorted(), "{places:?}");
            let decode = |from: usize, to: usize| TOKENIZER.decode(&tokens[from..to]).unwrap();
            let [prefix, suffix] = [decode(0, places[1]), decode(places[1], places[2])];
            let piece = prefix + &decode(places[2], tokens.len()) + &suffix;
            let held = tokens_of(&piece);
            assert!(held <= most, "{held} tokens in {piece:?}");
            whole += &piece;
            let cut = document.text[..whole.len()].rsplit('\n').next().unwrap_or_default().len();
            let line = document.text[whole.len() - cut..].split_inclusive('\n').next();
            let is_long = line.is_some_and(|line| tokens_of(line) > most);
            assert!(cut == 0 || is_long || whole == document.text, "a line is cut: {piece:?}");
        }
        assert_eq!(whole, document.text);
        let length = tokens_of(&whole);
        assert!(pieces.len() <= 1 + 2 * length.div_ceil(most), "{} of {length}", pieces.len());
    }
}

#[test]
fn documents_in_pieces_are_packed_with_an_end_behind_each() {
    let place = tempfile::tempdir().unwrap();
    let holes = Holes::new(&TOKENIZER, 1.0, HoleOrder::Model, 3).unwrap();
    let holes = Some(holes.in_pieces(NonZeroUsize::new(100)));
    let narrow = Holes::new(&TOKENIZER, 1.0, HoleOrder::Model, 3).unwrap();
    let narrow = Some(narrow.in_pieces(NonZeroUsize::new(61)));
    let narrow = PackOptions { holes: narrow, ..options(64) };
    let error = packed(&[corpus()], &narrow, place.path()).unwrap_err().to_string();
    assert!(error.contains("room for 60"), "{error}");
    let options = PackOptions { holes, held_out: 0.0, ..options(256) };
    let report = packed(&[corpus()], &options, place.path()).unwrap();
    assert_eq!(report.rewritten_documents, report.documents);
    let train = Dataset::open(place.path().join("train")).unwrap();
    let middle = Fim::from_tokenizer(&TOKENIZER).unwrap().middle.unwrap();
    let (mut middles, mut ends, mut whole) = (0, 0, 0);
    for index in 0..train.windows() {
        let tokens = train.window(index).unwrap().tokens;
        middles += tokens.iter().filter(|&&id| id == middle).count();
        ends += tokens.iter().filter(|&&id| id == 2).count();
        let mut behind = tokens.iter().skip_while(|&&id| id != middle);
        whole += usize::from(behind.any(|&id| id == 2));
    }
    assert!(middles > 2 * report.documents, "{middles} holes in {} documents", report.documents);
    assert!(middles.abs_diff(ends) <= 1, "{middles} holes, {ends} ends");
    assert!(
        10 * whole > 9 * train.windows(),
        "{whole} of {} windows hold a whole middle",
        train.windows()
    );
}

#[test]
fn holes_depend_on_the_seed_and_the_text_alone() {
    let document = |path: &str, text: &str| Document {
        path: path.into(),
        text: text.into(),
        is_record: false,
    };
    let holes = |rate, seed| Holes::new(&TOKENIZER, rate, HoleOrder::Model, seed).unwrap();
    let text = "def f(x):\n    return x + 1\n".repeat(5);
    let one = holes(1.0, 1).rewritten(&document("a.py", &text)).unwrap();
    assert_eq!(one, holes(1.0, 1).rewritten(&document("b.py", &text)).unwrap());
    assert_ne!(one, holes(1.0, 2).rewritten(&document("a.py", &text)).unwrap());
    let texts: Vec<_> = (0..1000).map(|n| document("x", &format!("text {n}"))).collect();
    let count = |rate| {
        let holes = holes(rate, 5);
        texts.iter().filter(|text| holes.rewritten(text).unwrap().is_some()).count()
    };
    assert_eq!([0.0, 1.0].map(count), [0, 1000]);
    // Binomial with deviation 15; 5 deviations.
    assert!(count(0.3).abs_diff(300) < 75, "{}", count(0.3));
    for rate in [-0.1, 1.1, f64::NAN] {
        assert!(Holes::new(&TOKENIZER, rate, HoleOrder::Model, 0).is_err(), "{rate}");
    }
    let bare = Tokenizer::train_bpe(["ab ac ad ".repeat(40)].into_iter(), 260, &["<x>"]).unwrap();
    let error = Holes::new(&bare, 0.5, HoleOrder::Model, 0).unwrap_err().to_string();
    assert!(error.contains("cannot fill holes"), "{error}");
}

#[test]
fn a_packing_that_fails_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let error = packed(&[place.path().join("nowhere")], &options(64), &out).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    let all = PackOptions { held_out: 0.999_999_9, ..options(64) };
    let error = packed(&[corpus()], &all, &out).unwrap_err().to_string();
    assert!(error.contains("are held out"), "{error}");
    let long = PackOptions { held_out: 0.0, ..options(1 << 22) };
    let error = packed(&[corpus()], &long, &out).unwrap_err().to_string();
    assert!(error.contains("do not fill one window"), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    // A file that is damaged in its middle ends a packing that has begun to write.
    let broken = [strings("text", &vec!["some text ".repeat(300); 9]), vec![0; 64]].concat();
    fs::write(place.path().join("b.parquet"), broken).unwrap();
    let inputs = [corpus(), place.path().join("b.parquet")];
    let error = packed(&inputs, &options(64), &out).unwrap_err().to_string();
    assert!(error.contains("b.parquet") && error.contains("damaged"), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn the_manifest_says_what_was_passed_over_and_what_ends_documents() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    fs::create_dir(root.join("src")).unwrap();
    fs::write(root.join("src/a.py"), "def f(x):\n    return x\n".repeat(60)).unwrap();
    fs::write(root.join("src/b.py"), "a\0b").unwrap();
    let whole = PackOptions { held_out: 0.0, ..options(16) };
    packed(&[root.join("src")], &whole, &root.join("out")).unwrap();
    let dataset = Dataset::open(root.join("out/train")).unwrap();
    let manifest = dataset.manifest().unwrap();
    assert_eq!(manifest.document_end, Some(2));
    assert_eq!(manifest.passed_over.len(), 1);
    assert!(manifest.passed_over[0].starts_with("1 binary"), "{:?}", manifest.passed_over);
    // A manifest of an earlier version has neither.
    let path = root.join("out/train/manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = json.as_object_mut().unwrap();
    fields.remove("document_end").unwrap();
    fields.remove("passed_over").unwrap();
    fs::write(&path, json.to_string()).unwrap();
    assert_eq!(
        Dataset::open(root.join("out/train")).unwrap().manifest().unwrap().document_end,
        None
    );
}
