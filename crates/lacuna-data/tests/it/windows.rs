//! Puts samples of conversations into windows: whole unless asked otherwise, with the end tokens that are asked for.

use crate::packs::TOKENIZER;
use lacuna_data::corpus::Reason;
use lacuna_data::{
    ChatOptions, ChatPacking, Dataset, PackedChat, Window, pack_chat, pack_chat_shards,
};
use lacuna_text::ChatTemplate;
use std::fs;
use std::path::{Path, PathBuf};

const WINDOW: usize = 72;

/// Conversations of very different lengths.
fn talks(folder: &Path, count: usize) -> PathBuf {
    let line = |n: usize| {
        let answer = "return x + 1; ".repeat(n * 7 % 13);
        format!(
            "{}\n",
            serde_json::json!({ "prompt": format!("question {n}"), "completion": format!("a{n} {answer}") })
        )
    };
    let path = folder.join("talk.jsonl");
    fs::write(&path, (0..count).map(line).collect::<String>()).unwrap();
    path
}

fn options(template: &ChatTemplate, packing: ChatPacking) -> ChatOptions<'_> {
    ChatOptions {
        pad: 1,
        packing,
        seed: 3,
        ..ChatOptions::new(template, &TOKENIZER, 2, WINDOW.try_into().unwrap())
    }
}

fn windows(packed: &lacuna_data::Packed) -> Vec<Window> {
    (0..packed.windows()).map(|index| packed.window(index)).collect()
}

/// The documents of windows as texts, padding left out.
fn documents(windows: &[Window]) -> Vec<String> {
    let mut found = vec![];
    for window in windows {
        let mut at = 0;
        for length in &window.documents {
            let part = &window.tokens[at..at + length];
            if part.iter().any(|id| *id != 1) {
                found.push(TOKENIZER.decode_with_special_tokens(part).unwrap());
            }
            at += length;
        }
    }
    found
}

#[test]
fn samples_are_whole_and_those_that_fit_no_window_are_counted() {
    let place = tempfile::tempdir().unwrap();
    let template = ChatTemplate::seed_coder();
    let path = talks(place.path(), 60);
    let pack = |packing| pack_chat(&[&path], &options(&template, packing)).unwrap();
    let PackedChat { train, skipped, .. } = pack(ChatPacking::Whole);
    let whole = documents(&windows(&train));
    let too_long = skipped.count(Reason::LongerThanWindow);
    assert!(too_long > 5 && whole.len() == 60 - too_long, "{} and {too_long}", whole.len());
    assert_eq!(train.documents(), whole.len());
    for text in &whole {
        assert!(
            text.starts_with("<[begin▁of▁sentence]>user") && text.ends_with("<[end▁of▁sentence]>"),
            "{text}"
        );
    }
    assert!(skipped.to_string().contains("sft.packing"), "{skipped}");
    // Samples share windows where they fit.
    assert!(train.windows() < whole.len() * 4 / 5, "{} windows", train.windows());

    let PackedChat { train: split, skipped, .. } = pack(ChatPacking::SplitLong);
    assert!(skipped.is_empty());
    let parts = documents(&windows(&split));
    let begun = parts.iter().filter(|text| text.starts_with("<[begin▁of▁sentence]>user")).count();
    assert_eq!(begun, 60, "every sample begins in some window");
    assert!(whole.iter().all(|text| parts.contains(text)), "what fits stays whole");

    let PackedChat { train: run_on, .. } = pack(ChatPacking::RunOn);
    assert!(run_on.windows() < split.windows(), "no window is padded but the last");
    let padded = windows(&run_on).iter().filter(|window| window.tokens.contains(&1)).count();
    assert!(padded <= 1);
    // The same samples, whatever windows they stand in.
    let supervised = |packed: &lacuna_data::Packed| {
        windows(packed).iter().flat_map(|w| w.eligible.clone()).filter(|e| *e).count()
    };
    assert_eq!(supervised(&run_on), supervised(&split));
}

#[test]
fn the_law_of_the_closing_tokens_is_the_one_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let template = ChatTemplate::seed_coder();
    let path = talks(place.path(), 60);
    for (least, most) in [(1, 1), (2, 2), (1, 4), (3, 6)] {
        let options = ChatOptions {
            closing_eos: (least, most),
            ..options(&template, ChatPacking::SplitLong)
        };
        let packed = pack_chat(&[&path], &options).unwrap().train;
        let mut seen = std::collections::BTreeSet::new();
        for text in documents(&windows(&packed)) {
            let rest = text.trim_end_matches("<[end▁of▁sentence]>");
            let ends = (text.len() - rest.len()) / "<[end▁of▁sentence]>".len();
            if text.starts_with("<[begin▁of▁sentence]>user") && ends > 0 {
                seen.insert(ends as u32);
            }
        }
        // A long sample may be cut among its ends.
        assert!(seen.iter().all(|ends| *ends <= most), "{least} to {most}: {seen:?}");
        assert!((least..=most).all(|ends| seen.contains(&ends)), "{least} to {most}: {seen:?}");
    }
}

#[test]
fn held_out_conversations_are_no_part_of_training_wherever_they_stand() {
    let place = tempfile::tempdir().unwrap();
    let template = ChatTemplate::seed_coder();
    let path = talks(place.path(), 60);
    let lines = fs::read_to_string(&path).unwrap();
    let backwards = place.path().join("backwards.jsonl");
    let mut reversed: Vec<&str> = lines.lines().rev().collect();
    reversed.push(reversed[3]);
    fs::write(&backwards, reversed.join("\n")).unwrap();
    let options = ChatOptions {
        held_out: 0.3,
        closing_eos: (1, 1),
        ..options(&template, ChatPacking::Whole)
    };
    let sorted = |packed: &lacuna_data::Packed| {
        let mut texts = documents(&windows(packed));
        texts.sort();
        texts.dedup();
        texts
    };
    let (one, other) =
        (pack_chat(&[&path], &options).unwrap(), pack_chat(&[&backwards], &options).unwrap());
    assert_eq!(sorted(&one.train), sorted(&other.train));
    assert_eq!(sorted(&one.held_out), sorted(&other.held_out));
    let (train, held_out) = (sorted(&one.train), sorted(&one.held_out));
    assert!(held_out.len() > 5 && held_out.iter().all(|text| !train.contains(text)));
    let all = ChatOptions { held_out: 0.999_999_9, ..options.clone() };
    let error = pack_chat(&[&path], &all).unwrap_err().to_string();
    assert!(error.contains("are held out") && error.contains("sft.held_out"), "{error}");
    let short = ChatOptions { window_len: 4.try_into().unwrap(), ..options };
    let error = pack_chat(&[&path], &short).unwrap_err().to_string();
    assert!(error.contains("no conversation fits into a window of 4 tokens"), "{error}");
}

#[test]
fn shards_of_conversations_have_the_windows_that_memory_has() {
    let place = tempfile::tempdir().unwrap();
    let template = ChatTemplate::seed_coder();
    let path = talks(place.path(), 60);
    for packing in [ChatPacking::Whole, ChatPacking::SplitLong, ChatPacking::RunOn] {
        let options = ChatOptions { held_out: 0.2, ..options(&template, packing) };
        let memory = pack_chat(&[&path], &options).unwrap();
        let out = place.path().join(format!("{packing:?}"));
        let report = pack_chat_shards(&[&path], &options, &out, 300, &mut |_| {}).unwrap();
        assert_eq!(report.documents - report.held_out_documents, memory.train.documents());
        for (part, packed) in [("train", &memory.train), ("held-out", &memory.held_out)] {
            let dataset = Dataset::open(out.join(part)).unwrap();
            dataset.verify().unwrap();
            let mapped: Vec<Window> = dataset.iter().map(Result::unwrap).collect();
            assert!(mapped == windows(packed), "{packing:?} {part}");
        }
    }
}
