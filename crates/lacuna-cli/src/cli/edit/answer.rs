//! Finds the file in a model's answer, or the reason why there is none.
//!
//! Models that are asked for a file and nothing else put it between fences, say a sentence before and after it, think
//! aloud, leave parts out, or refuse. What is taken out here is the file alone; where it can't be told which text that
//! is, there is no file, and the user's stays what it was.

use std::collections::HashMap;

use super::asked::Asked;
use super::fences::{Block, blocks, count};
use super::wording::{Kind, elided_line, is_announcement, is_patch, is_prose};
use super::wrapping::{is_bare_patch, without_tags, without_ticks};

/// The new text in an answer that was not cut off.
///
/// # Errors
/// The reason why the answer is no file, as it follows a file's name.
pub(super) fn file_in(answer: &str, asked: &Asked<'_>) -> Result<String, String> {
    let answer = answer.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let answer = without_thoughts(&answer, asked.old)?;
    if answer.trim().is_empty() {
        return Err("the answer is empty".into());
    }
    let kind = Kind::of(asked.path, asked.old);
    let answer = without_tags(&answer, asked);
    let answer = without_ticks(answer, asked.old, kind);
    let new = extract(answer, asked, kind)?;
    check(&new, asked, kind)?;
    Ok(new)
}

/// The marks around thoughts.
const THOUGHTS: [(&str, &str); 8] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
];

/// The answer without its thoughts. Marks that the old text has too are text.
fn without_thoughts(answer: &str, old: &str) -> Result<String, String> {
    let mut answer = answer.to_owned();
    for (open, close) in THOUGHTS {
        if old.contains(open) || old.contains(close) {
            continue;
        }
        // A template may have opened the thought before the answer began.
        if let Some(end) = answer.find(close)
            && answer.find(open).is_none_or(|begin| begin > end)
        {
            answer = answer[end + close.len()..].to_owned();
        }
        while let Some(begin) = thought(&answer, open) {
            let Some(end) = answer[begin..].find(close) else {
                return Err("the answer is a thought that does not end".into());
            };
            answer.replace_range(begin..begin + end + close.len(), "");
        }
    }
    Ok(answer)
}

/// Finds the beginning of a thought: at the beginning of a line that no fence encloses.
fn thought(answer: &str, open: &str) -> Option<usize> {
    let lines: Vec<&str> = answer.split('\n').collect();
    let found = blocks(&lines);
    let mut at = 0;
    for (number, line) in lines.iter().enumerate() {
        let fenced = found.iter().any(|b| b.first < number && number <= b.last && b.closed);
        if !fenced && line.trim_start().starts_with(open) {
            return Some(at + line.len() - line.trim_start().len());
        }
        at += line.len() + 1;
    }
    None
}

/// The text that is the file, not yet looked at.
fn extract(answer: &str, asked: &Asked<'_>, kind: Kind) -> Result<String, String> {
    let lines: Vec<&str> = answer.split('\n').collect();
    let mut found = blocks(&lines);
    let old = Lines::of(asked.old);
    if found.is_empty() {
        return unfenced(answer, asked, kind, &old);
    }
    let old_lines: Vec<&str> = asked.old.split('\n').collect();
    let old_fences = count(&old_lines);
    if old_fences > 0 {
        if let Some(text) = around_all(&lines, &found, &old_lines, old_fences) {
            return Ok(text);
        }
        // A file that is one fence and nothing else.
        if let ([one], [of_old]) = (&found[..], &blocks(&old_lines)[..])
            && one.closed
            && is_all(&old_lines, of_old)
        {
            let inner: Vec<&str> = one.lines.iter().map(String::as_str).collect();
            return Ok(match &blocks(&inner)[..] {
                [within] if is_all(&inner, within) => one.text(),
                _ => lines[one.first..=one.last].join("\n") + "\n",
            });
        }
    }
    // Text with fences in it: what stands outside of them is of the old text.
    let outside = old.share(outside(&lines, &found));
    let inside = found.iter().map(|block| old.share(block.lines())).fold(0.0, f64::max);
    if outside > inside && outside >= 0.3 && found.iter().all(|block| block.closed) {
        return unfenced(answer, asked, kind, &old);
    }
    if found.iter().any(|block| !block.closed) {
        return Err("a fence in the answer is not closed, so its end may be missing".into());
    }
    dedupe(&mut found);
    if !kind.is_patch() {
        found.retain(|block| !block.is_patch());
    }
    match &found[..] {
        [] => Err("the answer is a patch and no file".into()),
        [one] => {
            // A README's only example is not the README.
            let alone = outside_is_empty(&lines, one) || kind.is_named_by(one.info, asked.path);
            if kind.is_prose() && !alone && inside == 0.0 && count_inner(one) == 0 {
                return Err(
                    "the answer has text around a fenced part, and neither is the file for sure"
                        .into(),
                );
            }
            Ok(one.text())
        }
        several => choose(several, &lines, asked).map(Block::text).ok_or_else(|| {
            format!(
                "the answer has {} fenced parts, and none of them is the file for sure",
                several.len()
            )
        }),
    }
}

/// The text between the first fence and the last, if they stand around a text with as many fences as the old one has:
/// inner fences as short as the outer ones, which would close them.
fn around_all(
    lines: &[&str],
    found: &[Block<'_>],
    old_lines: &[&str],
    old_fences: usize,
) -> Option<String> {
    let (first, last) = (found.first()?, found.last()?);
    let bare = lines[last.last].trim();
    let closes = bare.len() >= 3 && bare.chars().all(|c| lines[first.first].trim().starts_with(c));
    let fences = count(&lines[first.first..=last.last]);
    let ours = fences == old_fences + 2 && !old_lines.contains(&lines[first.first]);
    (closes && ours && last.last > first.first + 1)
        .then(|| lines[first.first + 1..last.last].join("\n") + "\n")
}

/// Tells whether a block is all that there is.
fn is_all(lines: &[&str], block: &Block<'_>) -> bool {
    block.closed && outside_is_empty(lines, block)
}

fn outside_is_empty(lines: &[&str], block: &Block<'_>) -> bool {
    let mut outside = lines[..block.first].iter().chain(&lines[block.last + 1..]);
    outside.all(|line| line.trim().is_empty())
}

fn count_inner(block: &Block<'_>) -> usize {
    count(&block.lines().collect::<Vec<_>>())
}

fn outside<'a>(lines: &'a [&'a str], found: &'a [Block<'_>]) -> impl Iterator<Item = &'a str> {
    let within = |at: usize| found.iter().any(|block| (block.first..=block.last).contains(&at));
    lines.iter().enumerate().filter(move |(at, _)| !within(*at)).map(|(_, line)| *line)
}

/// Blocks that say the same are one.
fn dedupe(found: &mut Vec<Block<'_>>) {
    let mut at = 0;
    while at < found.len() {
        if found[..at].iter().any(|earlier| earlier.lines == found[at].lines) {
            found.remove(at);
        } else {
            at += 1;
        }
    }
}

/// The one of several blocks that is clearly the file: the only one under its name, or the only one that is like it.
fn choose<'b, 'a>(
    found: &'b [Block<'a>],
    lines: &[&str],
    asked: &Asked<'_>,
) -> Option<&'b Block<'a>> {
    let name = asked.path.file_name().and_then(|name| name.to_str()).unwrap_or("\n");
    let under_name = |block: &&Block<'_>| {
        let before = lines[..block.first].iter().rev().find(|line| !line.trim().is_empty());
        let label =
            before.is_some_and(|line| line.trim().trim_matches(['*', '`', ':', '#', ' ']) == name);
        label || block.info.contains(name)
    };
    let mut named = found.iter().filter(under_name);
    if let (Some(one), None) = (named.next(), named.next()) {
        return Some(one);
    }
    // The old text, quoted before the new one.
    let as_before = |block: &&Block<'_>| block.text().trim() == asked.old.trim();
    let mut likeness: Vec<(f64, &Block<'_>)> =
        found.iter().filter(|b| !as_before(b)).map(|b| (alike(asked.old, &b.text()), b)).collect();
    likeness.sort_by(|a, b| b.0.total_cmp(&a.0));
    match likeness[..] {
        [(best, block), ..] if best < 0.5 => {
            let _ = block;
            None
        }
        [(_, block)] => Some(block),
        [(best, block), (second, _), ..] if second <= best / 2.0 => Some(block),
        _ => None,
    }
}

/// The share of the words of two texts that is common, from 0 to 1.
fn alike(old: &str, new: &str) -> f64 {
    fn words(text: &str) -> Vec<&str> {
        text.split(|c: char| c.is_whitespace()).filter(|word| !word.is_empty()).collect()
    }
    let (old, new) = (words(old), words(new));
    let ops = similar::capture_diff_slices(similar::Algorithm::Myers, &old, &new);
    f64::from(similar::diff_ratio(&ops, old.len(), new.len()))
}

/// The lines of a text that are not blank, and how often each occurs.
struct Lines<'a> {
    counts: HashMap<&'a str, usize>,
    total: usize,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let mut counts = HashMap::new();
        let mut total = 0;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            *counts.entry(line).or_default() += 1;
            total += 1;
        }
        Self { counts, total }
    }

    fn has(&self, line: &str) -> bool {
        self.counts.contains_key(line.trim())
    }

    /// The share of this text that is among `lines`.
    fn share<'b>(&self, lines: impl Iterator<Item = &'b str>) -> f64 {
        let mut left = self.counts.clone();
        let mut common = 0;
        for line in lines {
            if let Some(count) = left.get_mut(line.trim()).filter(|count| **count > 0) {
                *count -= 1;
                common += 1;
            }
        }
        f64::from(common) / self.total.max(1) as f64
    }
}

/// An answer without fences around the file: all of it, unless it begins or ends with something said.
fn unfenced(
    answer: &str,
    asked: &Asked<'_>,
    kind: Kind,
    old: &Lines<'_>,
) -> Result<String, String> {
    let blank_start = asked.old.starts_with(['\n', '\r']);
    let text = if blank_start { answer } else { after_blank_lines(answer) };
    let body = text.trim_end_matches(['\n', ' ', '\t', '\r']);
    let ends = asked.old.len() - asked.old.trim_end_matches('\n').len();
    let has = text[body.len()..].matches('\n').count().min(ends);
    let text = [body, &"\n".repeat(has.max(1))].concat();
    let mut said = text.lines().filter(|line| !line.trim().is_empty());
    let first = said.next().unwrap_or_default();
    let last = said.next_back().unwrap_or(first);
    let is_said = |line: &str| {
        let kinds = if kind.is_prose() { is_announcement(line) } else { is_prose(line) };
        kinds && !old.has(line)
    };
    if is_said(first) || is_said(last) {
        let all = text.lines().all(|line| line.trim().is_empty() || is_said(line));
        return Err(match all {
            true => "the answer is prose and no file".into(),
            false => {
                "the answer has prose around a text without fences, so its bounds are not sure"
                    .into()
            }
        });
    }
    Ok(text)
}

fn after_blank_lines(text: &str) -> &str {
    let blank = text.split_inclusive('\n').take_while(|line| line.trim().is_empty());
    &text[blank.map(str::len).sum::<usize>()..]
}

/// Tells whether a text can take the file's place.
fn check(new: &str, asked: &Asked<'_>, kind: Kind) -> Result<(), String> {
    if new.trim().is_empty() {
        return Err("the answer is an empty file".into());
    }
    let old = Lines::of(asked.old);
    let lines: Vec<&str> = new.lines().filter(|line| !line.trim().is_empty()).collect();
    let added = || lines.iter().copied().filter(|line| !old.has(line));
    if !kind.is_prose() && lines.iter().all(|line| is_prose(line) && !old.has(line)) {
        return Err("the answer is prose and no file".into());
    }
    if !kind.is_patch() && (is_patch(added()) || is_bare_patch(added(), |line| old.has(line))) {
        return Err("the answer is a patch and no file".into());
    }
    let shorter = lines.len() < old.total;
    if let Some(line) = added().find(|line| elided_line(line, kind, shorter)) {
        let line = line.trim();
        return Err(format!("the answer leaves parts of the file out (`{line}`)"));
    }
    if !asked.part && old.total >= 12 && 4 * lines.len() < old.total {
        return Err(format!(
            "the answer has {} lines and the file {}, so it is a part of it at best",
            lines.len(),
            old.total
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
