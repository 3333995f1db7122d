//! Lists MultiPL-E, HumanEval translated into other languages (Cassano et al., arXiv 2208.08227): one benchmark each.

use super::{Benchmark, FUNCTIONS, Format, Sanitized, Source};
use crate::language::Language;

/// The authors' repository, at the last commit that changed the file: not all were changed by the same one.
macro_rules! prompts {
    ($commit:literal, $file:literal) => {
        concat!("https://github.com/nuprl/MultiPL-E/raw/", $commit, "/prompts/", $file)
    };
}

/// MultiPL-E in a language: its name and a line on it, and its file. The texts that end a completion come with each task.
const fn multipl_e(
    language: Language,
    [name, about]: [&'static str; 2],
    url: &'static str,
) -> Benchmark {
    Benchmark {
        name,
        about,
        format: Format::MultiplE(language),
        stops: &[],
        source: Source { url: Some(url), member: None, sha256: None },
        licence: "BSD-3-Clause with terms for machine learning",
        has_chat: false,
        prefill: None,
        sanitized: Sanitized::Never,
        // As the authors sample.
        max_new_tokens: 1024,
        ..FUNCTIONS
    }
}

pub(super) const CPP: Benchmark = multipl_e(
    Language::Cpp,
    ["multipl-e-cpp", "HumanEval's functions in C++"],
    prompts!("0d48676976a5fbf9c5d1bde1da0ed8a031184e32", "humaneval-cpp-reworded.json"),
);

pub(super) const JAVASCRIPT: Benchmark = multipl_e(
    Language::JavaScript,
    ["multipl-e-javascript", "HumanEval's functions in JavaScript"],
    prompts!("0e0f33b34cfc54e4ee1bb11ba86a19335c2f6e38", "humaneval-js-reworded.json"),
);

pub(super) const PHP: Benchmark = multipl_e(
    Language::Php,
    ["multipl-e-php", "HumanEval's functions in PHP"],
    prompts!("0d48676976a5fbf9c5d1bde1da0ed8a031184e32", "humaneval-php-reworded.json"),
);

pub(super) const BASH: Benchmark = multipl_e(
    Language::Bash,
    ["multipl-e-bash", "HumanEval's functions in Bash"],
    prompts!("0e0f33b34cfc54e4ee1bb11ba86a19335c2f6e38", "humaneval-sh-reworded.json"),
);
