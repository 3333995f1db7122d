//! Runs `lacuna convert --to block-diffusion`: what an autoregressive model begins with, its MASK and its marks for filling.

use candle_core::{DType, Device};
use lacuna::checkpoint::{Config, Name, Weights};
use lacuna::model::Transformer;
use serde_json::Value;
use std::fs;
use std::path::Path;

use crate::convert::{Folder, done, golden, refusal, same_bits, values};

/// An autoregressive model with the tokenizer of the golden ones, whose 512 ids fill its rows or leave some free.
pub(crate) fn autoregressive(folder: &Folder, name: &str, rows: usize, tied: bool) -> String {
    let path = folder.at(name);
    let config = Config { vocab_size: rows, tie_word_embeddings: tied, ..Config::default() };
    let model = Transformer::init(config, 3, DType::F32, &Device::Cpu).unwrap();
    model.save(Path::new(&path)).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(Path::new(&golden("tiny_untied")).join(file), Path::new(&path).join(file))
            .unwrap();
    }
    path
}

fn mask_of(path: &str) -> (usize, u32, usize) {
    let config = Weights::open(path).unwrap().config().clone();
    let block_size = config.block_size().expect("block diffusion").get();
    (config.vocab_size, config.mask_token_id().unwrap(), block_size)
}

#[test]
fn a_start_for_block_diffusion_names_its_mask_and_changes_that_row_alone() {
    let folder = Folder::new();
    let from = autoregressive(&folder, "ar", 512, false);
    let to = folder.at("named");
    let convert = |to: &str, more: &[&str]| {
        done(&[&["convert", &from, to, "--to", "block-diffusion", "--quiet"], more].concat())
    };
    // The tokenizer's own MASK, by its id; the embedding as it is.
    convert(&to, &["--mask-token", "5", "--block-size", "8"]);
    assert_eq!(mask_of(&to), (512, 5, 8));
    same_bits(&from, &to);
    // Choice 10's option: the mean of all rows and a hundredth of their spread.
    let mean = folder.at("mean");
    convert(&mean, &["--mask-token", "5", "--mask-embedding", "mean", "--seed", "1"]);
    let (old, new) = (Weights::open(&from).unwrap(), Weights::open(&mean).unwrap());
    let embedding = &Name::EMBED.to_string();
    for name in old.names().filter(|name| name != embedding) {
        assert_eq!(values(&old, name), values(&new, name), "{name}");
    }
    let (before, after) = (values(&old, embedding), values(&new, embedding));
    is_mean_of(&before, &after[5 * 64..6 * 64]);
    for (row, (a, b)) in before.chunks(64).zip(after.chunks(64)).enumerate() {
        assert_eq!(a == b, row != 5, "row {row}");
    }
    // Another seed is other noise, the same seed the same.
    for (seed, equal) in [("1", true), ("2", false)] {
        let other = folder.at(&format!("seed{seed}"));
        convert(&other, &["--mask-token", "5", "--mask-embedding", "mean", "--seed", seed]);
        assert_eq!(values(&Weights::open(&other).unwrap(), embedding) == after, equal);
    }
}

fn is_mean_of(rows: &[f32], row: &[f32]) {
    let n = (rows.len() / row.len()) as f64;
    let spread =
        (rows.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / rows.len() as f64).sqrt();
    for (column, value) in row.iter().enumerate() {
        let mean =
            rows.iter().skip(column).step_by(row.len()).map(|x| f64::from(*x)).sum::<f64>() / n;
        let off = (f64::from(*value) - mean).abs();
        assert!(off <= 0.005 * spread + 1e-7, "column {column}: {off} off, spread {spread}");
    }
}

#[test]
fn an_appended_mask_gets_a_row_in_embedding_and_head_and_a_token() {
    let folder = Folder::new();
    for (name, rows, tied, id, rows_then) in [
        ("full", 512, false, 512, 513),
        ("tied", 512, true, 512, 513),
        ("free", 520, false, 512, 520),
    ] {
        let from = autoregressive(&folder, name, rows, tied);
        let to = folder.at(&format!("{name}-start"));
        let flags = ["--to", "block-diffusion", "--mask-token", "append=<hole>", "--quiet"];
        done(&[&["convert", &from, &to], &flags[..]].concat());
        assert_eq!(mask_of(&to), (rows_then, id, 4), "{name}");
        let (old, new) = (Weights::open(&from).unwrap(), Weights::open(&to).unwrap());
        for table in [Name::HEAD, Name::EMBED] {
            let tables = [&old, &new].map(|weights| values(weights, &table.to_string()));
            let [before, after] = tables;
            let row = &after[id as usize * 64..][..64];
            assert_eq!(before[..512 * 64], after[..512 * 64], "{name} {table}");
            if table == Name::EMBED || rows == 512 {
                is_mean_of(&before, row);
            } else {
                // A row that is there already keeps its place in the head: MASK is never predicted.
                assert_eq!(before, after);
            }
        }
        let model = lacuna::Model::open(Path::new(&to), &Default::default()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert_eq!(tokenizer.encode("def<hole>x").unwrap()[1..2], [id]);
        assert!(tokenizer.is_special(id));
        let config = fs::read_to_string(Path::new(&to).join("tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["mask_token"], "<hole>");
        // The start decodes; what it writes is nonsense until it is trained.
        done(&[
            "generate",
            "--model",
            &to,
            "--prompt-ids",
            "40,41",
            "--max-new-tokens",
            "8",
            "--json",
        ]);
        // And it survives GGUF, appended row and all.
        let gguf = folder.at(&format!("{name}.gguf"));
        done(&[&["convert", &from, &gguf], &flags[..]].concat());
        assert_eq!(mask_of(&gguf), (rows_then, id, 4), "{name}");
        same_bits(&to, &gguf);
    }
}

#[test]
fn appended_marks_of_filling_get_rows_and_are_filled_with() {
    let folder = Folder::new();
    let args = |from: &str, to: &str| -> Vec<String> {
        let flags = ["--to", "block-diffusion", "--mask-token", "append", "--fim-tokens"];
        let args = ["convert", from, to, "--quiet"].into_iter().chain(flags);
        args.map(str::to_owned).collect()
    };
    for (name, rows, tied) in [("full", 512, false), ("tied", 512, true), ("free", 520, false)] {
        let from = autoregressive(&folder, name, rows, tied);
        let to = folder.at(&format!("{name}-start"));
        let given = args(&from, &to);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        // This tokenizer has marks of its own, until they are called otherwise.
        let error = refusal(&given, 1);
        assert!(error.contains("already, by <[fim-prefix]>"), "{error}");
        let tokenizer = Path::new(&from).join("tokenizer.json");
        let text = fs::read_to_string(&tokenizer).unwrap();
        fs::write(&tokenizer, text.replace("<[fim-", "<[no-")).unwrap();
        done(&given);
        assert_eq!(mask_of(&to), (rows.max(516), 512, 4), "{name}");
        let (old, new) = (Weights::open(&from).unwrap(), Weights::open(&to).unwrap());
        for table in [Name::EMBED, Name::HEAD] {
            let [before, after] = [&old, &new].map(|weights| values(weights, &table.to_string()));
            assert_eq!(before[..512 * 64], after[..512 * 64], "{name} {table}");
            for id in 513..516 {
                is_mean_of(&before, &after[id * 64..][..64]);
            }
            assert!(after[513 * 64..514 * 64] != after[514 * 64..515 * 64], "noise of their own");
        }
        let inspected: Value = serde_json::from_str(&done(&["inspect", &to, "--json"])).unwrap();
        assert!(inspected.to_string().contains("starcoder"), "{inspected}");
        let file = folder.at("hole.py");
        fs::write(&file, "def add(a, b):\n    return \n").unwrap();
        done(&["fill", "--model", &to, &file, "--at", "2:12", "--max-new-tokens", "8"]);
    }
}

#[test]
fn a_mask_that_cannot_be_one_is_refused() {
    let folder = Folder::new();
    let from = autoregressive(&folder, "ar", 512, false);
    for (token, says) in [
        ("2", "begins, ends or pads"),
        ("<nothing>", "no token `<nothing>`"),
        ("512", "the embedding has 512 rows"),
        ("40", "ordinary text contains"),
        ("append=<[end▁of▁sentence]>", "has `<[end▁of▁sentence]>` already"),
        ("6", "by which the tokenizer fills in the middle"),
        ("<[fim-middle]>", "by which the tokenizer fills in the middle"),
        ("append= ", "would become MASK"),
        ("append=mask", "would become MASK"),
        ("append=<a mask>", "would become MASK"),
        ("append=[0]", "would become MASK"),
        ("append=-->", "would become MASK"),
        ("append=<fim_prefix>", "would become MASK"),
    ] {
        let to = folder.at("start");
        let error =
            refusal(&["convert", &from, &to, "--to", "block-diffusion", "--mask-token", token], 1);
        assert!(error.contains(says), "{token}: {error}");
    }
    assert_eq!(folder.names(), ["ar"]);
}
