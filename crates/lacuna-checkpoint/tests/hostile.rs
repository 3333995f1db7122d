//! Malformed checkpoints give an error that names file and reason: no panic, no abort, and no
//! allocation beyond the file's size + 64 MiB.

use std::fs;
use std::path::{Path, PathBuf};

use lacuna_checkpoint::{Config, GgufOptions, Weights, check_gguf, check_safetensors, save_gguf};
use lacuna_test::counting::{Counting, measured};
use proptest::prelude::*;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `read` and fails if it held more than `bytes` + 64 MiB at any moment.
fn within<T>(bytes: u64, what: &str, read: impl FnOnce() -> T) -> T {
    let (result, held) = measured(read);
    let allowed = bytes as isize + (64 << 20);
    assert!(held <= allowed, "{what}: held {held} bytes, {allowed} are allowed");
    result
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hostile")
}

fn size(path: &Path) -> u64 {
    if path.is_file() {
        return fs::metadata(path).expect("the case is there").len();
    }
    let entries = fs::read_dir(path).expect("the case is there");
    entries.map(|entry| size(&entry.expect("a readable directory").path())).sum()
}

/// Opens a checkpoint as `lacuna` does: the weights, then the tokenizer.
fn open(path: &Path) -> lacuna_checkpoint::Result<()> {
    Weights::open(path)?.tokenizer_json().map(|_| ())
}

/// The words of `open` against `path`, which must be an error.
fn refusal(path: &Path) -> String {
    let result = within(size(path), &path.display().to_string(), || open(path));
    result.expect_err(&format!("{} was accepted", path.display())).to_string()
}

#[test]
fn every_malformed_checkpoint_is_refused_for_its_own_fault() {
    let list = fs::read_to_string(corpus().join("expected.tsv")).unwrap();
    let (mut cases, mut faults) = (0, Vec::new());
    for line in list.lines() {
        let (case, words) = line.split_once('\t').unwrap();
        cases += 1;
        // Ids that nothing needs stop no checkpoint.
        if let Some(without) = words.strip_prefix("opens") {
            let path = corpus().join(case);
            // The cases of a configuration have no weights.
            let config = match path.is_dir() {
                true => Config::open(&path).unwrap(),
                false => Weights::open(&path).unwrap().config().clone(),
            };
            let ignored = config.ignored_ids.join(", ");
            assert_eq!(without.strip_prefix(" without ").unwrap_or_default(), ignored, "{case}");
            continue;
        }
        let error = refusal(&corpus().join(case));
        let names_the_file = error.contains(case.rsplit('/').next().unwrap());
        if !error.contains(words) || !names_the_file || error.contains(['\x1b', '\n']) {
            faults.push(format!("{case}: expected \"{words}\" in: {error}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let kinds = ["gguf", "safetensors", "config", "index"].map(|kind| corpus().join(kind));
    let on_disk: usize = kinds.iter().map(|kind| fs::read_dir(kind).unwrap().count()).sum();
    assert_eq!(cases, on_disk, "every file of the corpus is listed");
    assert!(cases > 200, "{cases} cases");
}

#[test]
fn the_checkpoints_that_the_corpus_is_made_from_open() {
    for valid in ["valid/single", "valid/sharded", "valid/model.gguf"] {
        open(&corpus().join(valid)).unwrap();
    }
}

#[test]
fn a_hundred_thousand_nested_arrays_are_refused_at_the_first() {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend_from_slice(&0u64.to_le_bytes());
    file.extend_from_slice(&1u64.to_le_bytes());
    file.extend_from_slice(b"\x01\0\0\0\0\0\0\0k\x09\0\0\0");
    for _ in 0..100_000 {
        file.extend_from_slice(b"\x09\0\0\0\x01\0\0\0\0\0\0\0");
    }
    let error = within(0, "nested arrays", || check_gguf(&file)).unwrap_err().to_string();
    assert!(error.contains("array of arrays"), "{error}");
}

#[test]
fn a_hundred_thousand_nested_brackets_do_not_overflow_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    for opening in ["[", "{\"a\":"] {
        let text = format!("{{\"a\":{}", opening.repeat(100_000));
        fs::write(dir.path().join("config.json"), &text).unwrap();
        assert!(refusal(dir.path()).contains("recursion limit"));
        let header = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        assert!(within(0, "header", || check_safetensors(&header)).is_err());
    }
}

/// A header with as many entries as fit into `bytes` bytes.
fn crowded(bytes: usize, entry: impl Fn(usize) -> String) -> Vec<u8> {
    let mut header = String::from("{");
    for n in 0.. {
        let entry = entry(n);
        if header.len() + entry.len() + 2 > bytes {
            break;
        }
        if n > 0 {
            header.push(',');
        }
        header.push_str(&entry);
    }
    header.push('}');
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

#[test]
fn a_crowded_header_allocates_no_more_than_its_size_and_a_margin() {
    let empty = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let tensors = crowded(15 << 20, |n| format!("\"{n}\":{empty}"));
    let metadata = crowded(15 << 20, |n| format!("\"{n}\":\"\""));
    let metadata = {
        let inner = std::str::from_utf8(&metadata[8..]).unwrap();
        let header = format!("{{\"__metadata__\":{inner}}}");
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
    };
    let dims = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1]"#, "1,".repeat(7 << 20));
    let dims = [&(dims.len() as u64).to_le_bytes()[..], dims.as_bytes()].concat();
    for (what, file) in [("tensors", tensors), ("metadata", metadata), ("dims", dims)] {
        let error = within(0, what, || check_safetensors(&file)).unwrap_err().to_string();
        assert!(error.contains("more than"), "{what}: {error}");
    }
    let huge = [&(20u64 << 20).to_le_bytes()[..], &vec![b' '; 20 << 20]].concat();
    let error = within(0, "huge", || check_safetensors(&huge)).unwrap_err().to_string();
    assert!(error.contains("claims 20971520 bytes"), "{error}");
}

#[test]
fn a_crowded_configuration_or_index_stays_within_the_margin() {
    let dir = tempfile::tempdir().unwrap();
    let zeros = format!("{{\"hidden_size\":[{}0]}}", "0,".repeat(500_000));
    fs::write(dir.path().join("config.json"), zeros).unwrap();
    assert!(refusal(dir.path()).contains("hidden_size"));
    fs::write(dir.path().join("config.json"), vec![b' '; 2 << 20]).unwrap();
    assert!(refusal(dir.path()).contains("longer than"));

    fs::copy(corpus().join("valid/single/config.json"), dir.path().join("config.json")).unwrap();
    let names = crowded(1 << 19, |n| format!("\"{n}\":\"a.safetensors\""));
    let names = std::str::from_utf8(&names[8..]).unwrap();
    let index = format!("{{\"weight_map\":{names}}}");
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    assert!(refusal(dir.path()).contains("a.safetensors"));
}

#[test]
fn a_tokenizer_goes_into_a_gguf_file_without_being_held_again_in_pieces() {
    // Tokens have two to four digits; every way to make one is a merge, fifteen times over.
    let token = |n: usize| n.to_string();
    let tokens: Vec<String> = (0..10_000).map(token).collect();
    let entries: Vec<String> =
        (0..).zip(&tokens).map(|(id, t): (u32, _)| format!("\"{t}\":{id}")).collect();
    let ways = tokens.iter().flat_map(|token| (1..token.len()).map(move |at| token.split_at(at)));
    let ways: Vec<String> = ways.map(|(left, right)| format!("\"{left} {right}\"")).collect();
    let merges = vec![ways.join(","); 11].join(",");
    let text = format!(
        r#"{{"version":"1.0","model":{{"type":"BPE","vocab":{{{}}},"merges":[{merges}]}}}}"#,
        entries.join(",")
    );
    assert!(text.matches(' ').count() > 300_000);
    let config = Config { vocab_size: 10_000, num_layers: 1, hidden_size: 4, ..Config::default() };
    let config =
        Config { num_heads: 1, num_kv_heads: 1, head_dim: 4, intermediate_size: 4, ..config };
    let zeros = |(name, shape): (String, Vec<usize>)| {
        (
            name,
            candle_core::Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu)
                .unwrap(),
        )
    };
    let tensors: Vec<_> = config.expected_tensors().map(zeros).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let options = GgufOptions { tokenizer_json: Some(&text), ..GgufOptions::default() };
    let bytes = text.len() as u64;
    within(bytes, "writing", || save_gguf(&path, &config, tensors, &options)).unwrap();
    let weights = Weights::open(&path).unwrap();
    assert_eq!(within(bytes, "reading", || weights.tokenizer_json()).unwrap(), Some(text));
}

#[test]
fn a_directory_without_weights_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
    fs::copy(corpus().join("valid/single/config.json"), dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors.index.json"));
    fs::write(dir.path().join("pytorch_model.bin"), b"").unwrap();
    assert!(refusal(dir.path()).contains("can run code"));
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(refusal(dir.path()).contains("no regular file"));
    let absent = Weights::open(dir.path().join("absent.gguf")).unwrap_err().to_string();
    assert!(absent.contains("absent.gguf"), "{absent}");
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    fn copy(from: &str, to: &Path) {
        fs::copy(corpus().join("valid/single").join(from), to).expect("the corpus is there");
    }

    #[test]
    fn a_link_out_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (model, outside) = (dir.path().join("model"), dir.path().join("weights"));
        fs::create_dir(&model).unwrap();
        copy("config.json", &model.join("config.json"));
        copy("model.safetensors", &outside);
        symlink(&outside, model.join("model.safetensors")).unwrap();
        assert!(refusal(&model).contains("outside of its directory"));

        fs::remove_file(model.join("model.safetensors")).unwrap();
        copy("model.safetensors", &model.join("model.safetensors"));
        fs::rename(model.join("config.json"), dir.path().join("config.json")).unwrap();
        symlink("../config.json", model.join("config.json")).unwrap();
        assert!(refusal(&model).contains("outside of its directory"));
    }

    #[test]
    fn links_within_the_hub_folder_of_one_model_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("models--owner--name");
        let snapshot = folder.join("snapshots/0123");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(folder.join("blobs")).unwrap();
        for (blob, name) in [("c", "config.json"), ("w", "model.safetensors")] {
            copy(name, &folder.join("blobs").join(blob));
            symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
        }
        open(&snapshot).unwrap();

        // The blobs of another model are not this one's.
        let other = dir.path().join("models--owner--other/blobs");
        fs::create_dir_all(&other).unwrap();
        copy("model.safetensors", &other.join("w"));
        fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        let target = "../../../models--owner--other/blobs/w";
        symlink(target, snapshot.join("model.safetensors")).unwrap();
        assert!(refusal(&snapshot).contains("outside of its directory"));
    }

    #[test]
    fn a_device_or_a_pipe_is_no_model() {
        assert!(Weights::open("/dev/zero").unwrap_err().to_string().contains("no regular file"));
    }
}

#[test]
fn a_file_shortened_while_open_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(corpus().join("valid/single").join(name), dir.path().join(name)).unwrap();
    }
    let weights = Weights::open(dir.path()).unwrap();
    let file = dir.path().join("model.safetensors");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(64).unwrap();
    let (dtype, device) = (candle_core::DType::F32, candle_core::Device::Cpu);
    let error = weights.tensor("model.norm.weight", dtype, &device).unwrap_err().to_string();
    assert!(error.contains("held"), "{error}");
}

fn valid(name: &str) -> Vec<u8> {
    fs::read(corpus().join("valid").join(name)).expect("the corpus is there")
}

/// A valid file with a few bytes changed, and perhaps cut.
fn damaged(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = file.len();
    let flips = prop::collection::vec((0..length, any::<u8>()), 1..6);
    (flips, prop::option::weighted(0.2, 0..length)).prop_map(move |(flips, cut)| {
        let mut file = file.clone();
        flips.iter().for_each(|&(at, byte)| file[at] = byte);
        file.truncate(cut.unwrap_or(length));
        file
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_damage_to_a_gguf_file_makes_the_reader_panic(file in damaged(valid("model.gguf"))) {
        let _ = within(file.len() as u64, "gguf", || check_gguf(&file));
    }

    #[test]
    fn no_damage_to_a_safetensors_file_makes_the_reader_panic(
        file in damaged(valid("single/model.safetensors"))
    ) {
        let _ = within(file.len() as u64, "safetensors", || check_safetensors(&file));
    }

    #[test]
    fn no_damage_to_a_configuration_makes_the_reader_panic(
        file in damaged(valid("single/config.json"))
    ) {
        if let Ok(text) = std::str::from_utf8(&file) {
            let _ = within(file.len() as u64, "config", || lacuna_checkpoint::Config::from_json(text));
        }
    }
}
