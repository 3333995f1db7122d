//! Takes numbers as flags give them: every range is checked while the command line is read, before
//! a model is opened, and named in words.
//!
//! Flags with these parsers are declared with `allow_hyphen_values`, so that `-1` is a value out of range and not an
//! unknown flag.

use std::num::NonZeroUsize;
use std::str::FromStr;

/// The longest sequence that anything here is asked for: what a `u32` counts, as token ids do.
const MOST: u64 = u32::MAX as u64;

fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse::<u64>().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}

fn real(text: &str, fits: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && fits(*n));
    number.ok_or_else(|| format!("expected {expected}"))
}

/// A number of things, none included.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    whole(text, 0, MOST).map(|n| n as usize)
}

/// A number of things, one at least.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    whole(text, 1, MOST).map(|n| n as usize)
}

/// As [`at_least_one`], in the type that says so.
pub(crate) fn size(text: &str) -> Result<NonZeroUsize, String> {
    at_least_one(text).map(|n| NonZeroUsize::new(n).expect("checked"))
}

/// A seed.
pub(crate) fn seed(text: &str) -> Result<u64, String> {
    whole(text, 0, u64::MAX)
}

/// A token id; the vocabulary is known once the model is open.
pub(crate) fn token_id(text: &str) -> Result<u32, String> {
    whole(text, 0, MOST).map(|n| n as u32)
}

/// A finite number of at least 0.
pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    real(text, |n| n >= 0.0, "a number of at least 0")
}

/// A finite number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    real(text, |n| n > 0.0, "a number above 0")
}

/// A finite number.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    real(text, |_| true, "a number")
}

/// A probability.
pub(crate) fn probability(text: &str) -> Result<f64, String> {
    real(text, |n| (0.0..=1.0).contains(&n), "a number from 0 to 1")
}

/// A probability above 0.
pub(crate) fn probability_above_zero(text: &str) -> Result<f64, String> {
    real(text, |n| n > 0.0 && n <= 1.0, "a number above 0, at most 1")
}

/// A part of something: at least 0, below 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    real(text, |n| (0.0..1.0).contains(&n), "a number from 0 to below 1")
}

/// A number of times a second: fast enough to see and slow enough to wait for.
pub(crate) fn per_second(text: &str) -> Result<f64, String> {
    real(text, |n| (0.001..=1e6).contains(&n), "a number from 0.001 to 1000000")
}

/// A text of at least one character.
pub(crate) fn not_empty(text: &str) -> Result<String, String> {
    match text {
        "" => Err("expected at least one character".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Token ids as written on the command line: `1,2,3`.
#[derive(Clone, Debug)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |item: &str| {
            let item = item.trim();
            item.parse::<u32>().map_err(|_| {
                format!("`{item}` is no token id; expected whole numbers from 0 to {MOST}: 1,2,3")
            })
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        Ok(Self(text.split(',').map(id).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_a_range_are_refused_with_the_range() {
        for text in ["-1", "1.5", "x", "", "18446744073709551616", "nan", "1e3", "--quiet"] {
            for refused in [count(text).err(), at_least_one(text).err(), seed(text).err()] {
                assert!(refused.is_some_and(|e| e.contains("whole number from")), "{text}");
            }
        }
        assert!(at_least_one("0").is_err_and(|e| e.contains("from 1 to")));
        assert_eq!((count("0"), seed("18446744073709551615")), (Ok(0), Ok(u64::MAX)));
        for text in ["-1", "nan", "-nan", "inf", "-inf", "1e999", "x", ""] {
            for parser in [not_negative, positive, probability, probability_above_zero, part] {
                assert!(parser(text).is_err_and(|e| e.contains("expected a number")), "{text}");
            }
        }
        assert!(probability("95").is_err() && probability_above_zero("0").is_err());
        assert!(part("1").is_err() && positive("0").is_err() && per_second("1e-300").is_err());
        assert_eq!((probability("1"), not_negative("0")), (Ok(1.0), Ok(0.0)));
    }

    #[test]
    fn lists_of_ids_name_the_item_that_is_none() {
        assert_eq!("1, 2,3".parse::<Ids>().map(|ids| ids.0), Ok(vec![1, 2, 3]));
        for text in ["1,,2", "-1", "1,x", "4294967296"] {
            assert!(text.parse::<Ids>().is_err_and(|e| e.contains("is no token id")), "{text}");
        }
    }
}
