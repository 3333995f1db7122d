//! Bounds what a tokenizer's patterns may cost: the library compiles any expression, replaces again
//! and again, and fails where a replacement finds nothing at a text's end.

use serde_json::Value;
use tokenizers::utils::SysRegex;

use super::parts::parts;

/// Bytes of all expressions, each as often as its counts repeat it: a published tokenizer's is below 2000. A class of
/// letters takes some kilobytes compiled.
const MOST_PATTERN: usize = 1 << 12;
/// The number of parts that a normalizer or decoder has, and how many times longer they may make a
/// text.
const MOST_PARTS: usize = 32;
const MOST_GROWTH: usize = 64;

/// Refuses expressions that take much to compile, and parts that make much of any text.
pub(super) fn check(
    normalizer: &Value,
    pre_tokenizer: &Value,
    decoder: &Value,
) -> Result<(), String> {
    let mut cost = 0usize;
    for (what, part) in
        [("normalizer", normalizer), ("pre-tokenizer", pre_tokenizer), ("decoder", decoder)]
    {
        let (mut count, mut growth) = (0, 1usize);
        parts(part, &mut |part| {
            count += 1;
            growth = growth.saturating_mul(grows(part));
            if let Some(pattern) = part["pattern"]["Regex"].as_str() {
                cost = cost.saturating_add(cost_of(pattern));
                if cost > MOST_PATTERN {
                    return Err(format!(
                        "its regular expressions are larger than {MOST_PATTERN} bytes, counts multiplied out"
                    ));
                }
                if part["type"] == "Replace" && may_be_empty(pattern)? {
                    return Err(format!(
                        "its {what} replaces by a regular expression that finds places without text"
                    ));
                }
            }
            refuse(part, what)?;
            if count > MOST_PARTS {
                return Err(format!("its {what} has over {MOST_PARTS} parts"));
            }
            if growth > MOST_GROWTH {
                return Err(format!("its {what} makes texts over {MOST_GROWTH} times as long"));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Refuses what the library takes, but fails at when a text comes.
fn refuse(part: &Value, what: &str) -> Result<(), String> {
    let pattern = &part["pattern"];
    let is_empty = [&pattern["String"], &pattern["Regex"], pattern].iter().any(|p| *p == "");
    let reason = match part["type"].as_str() {
        Some("Replace") if is_empty => "replaces the empty text, which is everywhere",
        Some("Split") if is_empty => "splits at the empty text, which is everywhere",
        // Of a token that is nothing else it would strip more than there is.
        Some("Strip") if part["stop"].as_u64().is_some_and(|stop| stop > 0) => {
            "strips the ends of tokens (Strip with a stop above 0), which is not known here"
        }
        Some("BPEDecoder") if part["suffix"] == "" => "ends words with the empty text",
        Some("CTC") => "is CTC, which is for speech",
        _ => return Ok(()),
    };
    Err(format!("its {what} {reason}"))
}

/// The factor by which a part may make a text longer.
fn grows(part: &Value) -> usize {
    match part["type"].as_str() {
        Some("Replace") => {
            let found = part["pattern"]["String"].as_str().map_or(1, str::len).max(1);
            part["content"].as_str().map_or(1, str::len).div_ceil(found).max(1)
        }
        Some("Prepend") => part["prepend"].as_str().map_or(1, str::len).max(1),
        // A byte above 127, and a space, becomes a character of two bytes.
        Some("ByteLevel") => 2,
        _ => 1,
    }
}

/// The length, times the largest number of each `{n}` and `{m,n}`.
fn cost_of(pattern: &str) -> usize {
    let mut cost = pattern.len();
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        // A character's code (`\x{3040}`) or a class (`\p{Lu}`) is no count.
        let before = &rest[..open];
        let is_name = ["\\x", "\\u", "\\U", "\\p", "\\P"].iter().any(|name| before.ends_with(name));
        rest = &rest[open + 1..];
        let Some(close) = rest.find('}') else { break };
        let numbers = rest[..close].split(',').map(str::trim).filter(|number| !number.is_empty());
        let numbers: Result<Vec<usize>, _> = numbers.map(str::parse).collect();
        if let (false, Ok(numbers)) = (is_name, numbers) {
            cost = cost.saturating_mul(numbers.into_iter().max().unwrap_or(1).max(1));
        }
    }
    cost
}

/// Tells whether a place in some text may match without a character of it. Whatever looks around a
/// place counts: no published tokenizer replaces so.
fn may_be_empty(pattern: &str) -> Result<bool, String> {
    const LOOKS: [&str; 13] =
        ["(?=", "(?!", "(?<=", "(?<!", "(?(", "^", "$", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G"];
    // `[^…]` is a class.
    let outside = pattern.replace("[^", "[");
    if LOOKS.iter().any(|look| outside.contains(look)) || pattern.contains("\\K") {
        return Ok(true);
    }
    let pattern = SysRegex::new(pattern).map_err(|error| error.to_string())?;
    Ok(pattern.find_iter("").next().is_some())
}

#[cfg(test)]
mod tests {
    use super::{cost_of, may_be_empty};

    #[test]
    fn counts_multiply_and_names_do_not() {
        assert_eq!(cost_of(r"\p{N}{1,3}"), 10 * 3);
        assert_eq!(cost_of("(a{30}){20}"), 11 * 600);
        assert_eq!(cost_of(r"[\x{3040}-\x{30ff}]"), 19);
        assert_eq!(cost_of("a{99999999999999999999}b"), 24);
        assert_eq!(cost_of("{{{"), 3);
    }

    #[test]
    fn what_may_find_nothing_is_known() {
        for pattern in ["", "a*", "(a|b?)", "a{0,3}", "(?=a)", "$", r"\bx", "(?<!b)c*", "()"] {
            assert_eq!(may_be_empty(pattern), Ok(true), "{pattern}");
        }
        for pattern in [" {2,}", r"\s+", "[^a]", "``", r"\r\n?", "[a-z]|b+"] {
            assert_eq!(may_be_empty(pattern), Ok(false), "{pattern}");
        }
        assert!(may_be_empty("((").is_err());
    }
}
