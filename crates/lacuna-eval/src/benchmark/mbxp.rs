//! Lists MBXP, the tasks of MBPP in other languages (Athiwaratkun et al., arXiv 2210.14868): one benchmark each.

use super::{Benchmark, FUNCTIONS, Format, Sanitized, Source};
use crate::language::Language;

/// The authors' repository, at the commit that the hashes below are of.
macro_rules! release {
    ($file:literal) => {
        concat!(
            "https://github.com/amazon-science/mxeval/raw/e09974f990eeaf0c0e8f2b5eaff4be66effb2c86/data/mbxp/",
            $file
        )
    };
}

/// MBXP in a language: its name and a line on it, the texts that end a completion, its file and that file's hash.
const fn mbxp(
    language: Language,
    [name, about]: [&'static str; 2],
    stops: &'static [&'static str],
    [url, sha256]: [&'static str; 2],
) -> Benchmark {
    Benchmark {
        name,
        about,
        format: Format::Mbxp(language),
        stops,
        source: Source { url: Some(url), member: None, sha256: Some(sha256) },
        licence: "CC-BY-4.0",
        has_chat: false,
        prefill: None,
        sanitized: Sanitized::Never,
        max_new_tokens: 512,
        ..FUNCTIONS
    }
}

pub(super) const JAVASCRIPT: Benchmark = mbxp(
    Language::JavaScript,
    ["mbxp-javascript", "966 short functions of MBPP in JavaScript"],
    &["\nfunction ", "\n/**", "\nconst ", "\nconsole."],
    [
        release!("mbjsp_release_v1.2.jsonl"),
        "9e443a1911bcedd8b5193f43d3217666fbf669cd00d54265941a8eb17e396f5a",
    ],
);

pub(super) const JAVA: Benchmark = mbxp(
    Language::Java,
    ["mbxp-java", "966 short functions of MBPP in Java"],
    &["\nclass ", "\npublic class ", "\nimport "],
    [
        release!("mbjp_release_v1.2.jsonl"),
        "139a0fcdff2f4c6d456c546c82f43a1f389dfe3125f5f2c3f6a12f478483dffd",
    ],
);

pub(super) const CPP: Benchmark = mbxp(
    Language::Cpp,
    ["mbxp-cpp", "848 short functions of MBPP in C++"],
    &["\nint main", "\n#include", "\n/**"],
    [
        release!("mbcpp_release_v1.2.jsonl"),
        "34a842515927e230eb2bd6e409a44c80a852b0afcbe1172786bd08cfef8b85b0",
    ],
);

pub(super) const GO: Benchmark = mbxp(
    Language::Go,
    ["mbxp-go", "939 short functions of MBPP in Go"],
    &["\nfunc ", "\npackage ", "\n//"],
    [
        release!("mbgp_release_v1.1.jsonl"),
        "90f519222a4c45bdbed8309076433d2f573c6f37329a848581fa789839b67da8",
    ],
);

pub(super) const PHP: Benchmark = mbxp(
    Language::Php,
    ["mbxp-php", "966 short functions of MBPP in PHP"],
    &["\nfunction ", "\n?>", "\n/**"],
    [
        release!("mbphp_release_v1.2.jsonl"),
        "aec706039e49bc1bd1c9aaf4cf4815a34777b8387bdc59c1b274312071f3a605",
    ],
);

pub(super) const PERL: Benchmark = mbxp(
    Language::Perl,
    ["mbxp-perl", "966 short functions of MBPP in Perl"],
    &["\nsub ", "\n#", "\nuse "],
    [
        release!("mbplp_release_v1.jsonl"),
        "1293f40e442bda81f1d39ab3769ab8136dfc823f7b41420294c1a1d3bf1d2b2f",
    ],
);

pub(super) const RUBY: Benchmark = mbxp(
    Language::Ruby,
    ["mbxp-ruby", "966 short functions of MBPP in Ruby"],
    &["\ndef ", "\n#", "\nputs "],
    [
        release!("mbrbp_release_v1.2.jsonl"),
        "fe8c043b7d56f5d122c6aaf24e1dcb78816175a0687a73c03873043a6349b85d",
    ],
);
