//! Lists faults that someone could make in a kernel. The emulated tests must fail on every one of
//! them: the list is their test.

pub(super) mod attention;

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
        let (start, _) = source.match_indices(self.from).nth(self.at)?;
        let end = start + self.from.len();
        Some(format!("{}{}{}", &source[..start], self.to, &source[end..]))
    }
}

/// The part of a suite that finds a fault soonest: flags that compile less of it, words that run less.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    pub(super) flags: &'static [&'static str],
    pub(super) words: &'static [&'static str],
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
}
