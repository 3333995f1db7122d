//! Makes the text of the paper's own example (Eq. 6 to 8): sums of two numbers below a hundred, a line each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

/// Sums that are kept out of training and asked for afterwards, of the 10 000 that there are.
const ASKED: usize = 300;

/// Writes into a folder
///
/// - `sums/sums.jsonl`: the lines that sums are learnt from, each a document;
/// - `copies/copies.jsonl`: lines of the same form that say one of the two numbers again: what a model learns before it
///   meets sums;
/// - `prompts.jsonl`: sums that no line of the first has, as prompts of `lacuna generate`, and `answers.json`, what
///   follows each, by its id.
///
/// The same bytes each time.
pub(super) fn write(folder: &Path) -> Result<()> {
    let pairs = shuffled();
    let (asked, taught) = pairs.split_at(ASKED);
    let (mut sums, mut copies, mut prompts) = (String::new(), String::new(), String::new());
    for (k, q) in taught {
        let text = format!("k = {k}, q = {q}, k + q = {}\n", k + q);
        writeln!(sums, "{}", serde_json::json!({ "text": text }))?;
    }
    for (k, q) in &pairs {
        let (name, number) = if place(*q, *k).is_multiple_of(2) { ("k", k) } else { ("q", q) };
        let text = format!("k = {k}, q = {q}, {name} = {number}\n");
        writeln!(copies, "{}", serde_json::json!({ "text": text }))?;
    }
    let mut answers = BTreeMap::new();
    for (id, (k, q)) in asked.iter().enumerate() {
        let prompt = format!("k = {k}, q = {q}, k + q =");
        writeln!(prompts, "{}", serde_json::json!({ "id": id, "prompt": prompt }))?;
        answers.insert(id.to_string(), (k + q).to_string());
    }
    for (name, text) in [("sums/sums.jsonl", sums), ("copies/copies.jsonl", copies)] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder"))?;
        std::fs::write(path, text)?;
    }
    std::fs::write(folder.join("prompts.jsonl"), prompts)?;
    std::fs::write(folder.join("answers.json"), serde_json::to_string(&answers)?)?;
    Ok(())
}

/// All pairs, in an order that says nothing of their size.
fn shuffled() -> Vec<(u32, u32)> {
    let mut pairs: Vec<_> = (0..100).flat_map(|k| (0..100).map(move |q| (k, q))).collect();
    pairs.sort_by_key(|(k, q)| place(*k, *q));
    pairs
}

/// Mixes two numbers into one (the finaliser of SplitMix64).
fn place(k: u32, q: u32) -> u64 {
    let mut x = u64::from(k) << 32 | u64::from(q);
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sum_that_is_asked_for_was_taught() {
        let folder = std::env::temp_dir().join(format!("lacuna-addition-{}", std::process::id()));
        write(&folder).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let (sums, prompts) = (read("sums/sums.jsonl"), read("prompts.jsonl"));
        let answers: BTreeMap<String, String> =
            serde_json::from_str(&read("answers.json")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((sums.lines().count(), prompts.lines().count()), (9700, 300));
        for line in prompts.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let prompt = line["prompt"].as_str().unwrap();
            assert!(!sums.contains(prompt), "{prompt}");
            let numbers: Vec<u32> =
                prompt.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
            let sum = (numbers[0] + numbers[1]).to_string();
            assert_eq!(answers[&line["id"].to_string()], sum);
        }
    }
}
