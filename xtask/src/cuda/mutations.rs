//! Lists faults that someone could make in a kernel. The emulated tests must fail on every one of
//! them: the list is their test.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

pub(super) mod adamw;
pub(super) mod attention;
pub(super) mod attention_decode;
pub(super) mod attention_f32;
pub(super) mod cross_entropy;
pub(super) mod embedding;
pub(super) mod few_rows;
pub(super) mod linear;
pub(super) mod rms_norm;
pub(super) mod rope;
pub(super) mod sample;
pub(super) mod swiglu;

/// One text of a kernel's source replaced by another.
pub(super) struct Mutation {
    /// The fault, in words.
    pub(super) name: &'static str,
    /// File below `crates/lacuna-kernels/cuda`.
    pub(super) file: &'static str,
    pub(super) from: &'static str,
    /// The occurrence of `from` that is replaced, counted from 0.
    pub(super) at: usize,
    pub(super) to: &'static str,
}

impl Mutation {
    /// The source with the fault in it; none if the text is not there any more.
    pub(super) fn apply(&self, source: &str) -> Option<String> {
        let place = self.place(source)?;
        Some(format!("{}{}{}", &source[..place.start], self.to, &source[place.end..]))
    }

    /// The text that is replaced.
    fn place(&self, source: &str) -> Option<Range<usize>> {
        let (start, _) = source.match_indices(self.from).nth(self.at)?;
        Some(start..start + self.from.len())
    }
}

/// The source with all of the faults in it, of which `emulation::planted` chooses one by its number when the program
/// runs: compiling a program once is less than compiling it for each fault. What a fault replaces is a whole
/// statement, to its semicolon, or a whole expression; faults replace the same text or texts apart.
pub(super) fn apply_all(source: &str, faults: &[(usize, &Mutation)]) -> Result<String> {
    let mut places = BTreeMap::<_, Vec<_>>::new();
    for (number, fault) in faults {
        let gone = || format!("\"{}\": the text it replaces is gone", fault.name);
        let place = fault.place(source).with_context(gone)?;
        places.entry((place.start, place.end)).or_default().push((number, fault.to));
    }
    let (mut planted, mut from) = (String::new(), 0);
    for ((start, end), choices) in places {
        ensure!(from <= start, "two faults replace parts of one text: {}", &source[start..end]);
        planted += &source[from..start];
        let is_statement = source[start..end].ends_with(';');
        let otherwise = &source[start..end];
        let choice = |text: String, (number, to): (&usize, &str)| match is_statement {
            true => format!("if (emulation::planted == {number}) {{ {to} }} else {{ {text} }}"),
            false => format!("(emulation::planted == {number} ? ({to}) : ({text}))"),
        };
        planted += &choices.into_iter().fold(otherwise.to_owned(), choice);
        from = end;
    }
    Ok(planted + &source[from..])
}

/// The part of a suite that finds a fault soonest: flags that compile less of it, words that run less.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    pub(super) flags: &'static [&'static str],
    pub(super) words: &'static [&'static str],
}

/// The part of a suite of kernels for bf16 and for f32: f32 alone, or bf16 where the fault's name begins so.
pub(super) fn one_type(mutation: &Mutation) -> Part {
    if mutation.name.starts_with("bf16: ") {
        Part { flags: &["-DLACUNA_ONLY=16"], words: &["bf16"] }
    } else {
        Part { flags: &["-DLACUNA_ONLY=32"], words: &["f32"] }
    }
}

const fn fault(
    name: &'static str,
    file: &'static str,
    (from, at): (&'static str, usize),
    to: &'static str,
) -> Mutation {
    Mutation { name, file, from, at, to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_occurrence_that_is_named_is_replaced() {
        let mutation = fault("", "", ("b", 1), "x");
        assert_eq!(mutation.apply("abab").as_deref(), Some("abax"));
        assert_eq!(mutation.apply("ab"), None);
    }

    #[test]
    fn all_faults_are_in_one_source_and_one_is_chosen() {
        let (wait, sum) = (fault("", "", ("wait();", 1), ""), fault("", "", ("a + b", 0), "a"));
        let other = fault("", "", ("a + b", 0), "b");
        let planted = apply_all("wait(); wait(); f(a + b);", &[(7, &sum), (8, &wait), (9, &other)]);
        assert_eq!(
            planted.unwrap(),
            "wait(); if (emulation::planted == 8) {  } else { wait(); } \
             f((emulation::planted == 9 ? (b) : ((emulation::planted == 7 ? (a) : (a + b)))));"
        );
        let overlapping = fault("", "", ("f(a", 0), "f(b");
        assert!(apply_all("f(a + b);", &[(1, &sum), (2, &overlapping)]).is_err());
        assert!(apply_all("f();", &[(1, &sum)]).is_err());
    }
}
