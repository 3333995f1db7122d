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

/// The shape that all of them share.
const MBXP: Benchmark = Benchmark {
    licence: "CC-BY-4.0",
    has_chat: false,
    prefill: None,
    sanitized: Sanitized::Never,
    max_new_tokens: 512,
    ..FUNCTIONS
};

pub(super) const JAVASCRIPT: Benchmark = Benchmark {
    name: "mbxp-javascript",
    about: "966 short functions of MBPP in JavaScript",
    format: Format::Mbxp(Language::JavaScript),
    stops: &["\nfunction ", "\n/**", "\nconst ", "\nconsole."],
    source: Source {
        url: Some(release!("mbjsp_release_v1.2.jsonl")),
        member: None,
        sha256: Some("9e443a1911bcedd8b5193f43d3217666fbf669cd00d54265941a8eb17e396f5a"),
    },
    ..MBXP
};

pub(super) const JAVA: Benchmark = Benchmark {
    name: "mbxp-java",
    about: "966 short functions of MBPP in Java",
    format: Format::Mbxp(Language::Java),
    stops: &["\nclass ", "\npublic class ", "\nimport "],
    source: Source {
        url: Some(release!("mbjp_release_v1.2.jsonl")),
        member: None,
        sha256: Some("139a0fcdff2f4c6d456c546c82f43a1f389dfe3125f5f2c3f6a12f478483dffd"),
    },
    ..MBXP
};

pub(super) const CPP: Benchmark = Benchmark {
    name: "mbxp-cpp",
    about: "848 short functions of MBPP in C++",
    format: Format::Mbxp(Language::Cpp),
    stops: &["\nint main", "\n#include", "\n/**"],
    source: Source {
        url: Some(release!("mbcpp_release_v1.2.jsonl")),
        member: None,
        sha256: Some("34a842515927e230eb2bd6e409a44c80a852b0afcbe1172786bd08cfef8b85b0"),
    },
    ..MBXP
};

pub(super) const GO: Benchmark = Benchmark {
    name: "mbxp-go",
    about: "939 short functions of MBPP in Go",
    format: Format::Mbxp(Language::Go),
    stops: &["\nfunc ", "\npackage ", "\n//"],
    source: Source {
        url: Some(release!("mbgp_release_v1.1.jsonl")),
        member: None,
        sha256: Some("90f519222a4c45bdbed8309076433d2f573c6f37329a848581fa789839b67da8"),
    },
    ..MBXP
};

pub(super) const PHP: Benchmark = Benchmark {
    name: "mbxp-php",
    about: "966 short functions of MBPP in PHP",
    format: Format::Mbxp(Language::Php),
    stops: &["\nfunction ", "\n?>", "\n/**"],
    source: Source {
        url: Some(release!("mbphp_release_v1.2.jsonl")),
        member: None,
        sha256: Some("aec706039e49bc1bd1c9aaf4cf4815a34777b8387bdc59c1b274312071f3a605"),
    },
    ..MBXP
};

pub(super) const PERL: Benchmark = Benchmark {
    name: "mbxp-perl",
    about: "966 short functions of MBPP in Perl",
    format: Format::Mbxp(Language::Perl),
    stops: &["\nsub ", "\n#", "\nuse "],
    source: Source {
        url: Some(release!("mbplp_release_v1.jsonl")),
        member: None,
        sha256: Some("1293f40e442bda81f1d39ab3769ab8136dfc823f7b41420294c1a1d3bf1d2b2f"),
    },
    ..MBXP
};

pub(super) const RUBY: Benchmark = Benchmark {
    name: "mbxp-ruby",
    about: "966 short functions of MBPP in Ruby",
    format: Format::Mbxp(Language::Ruby),
    stops: &["\ndef ", "\n#", "\nputs "],
    source: Source {
        url: Some(release!("mbrbp_release_v1.2.jsonl")),
        member: None,
        sha256: Some("fe8c043b7d56f5d122c6aaf24e1dcb78816175a0687a73c03873043a6349b85d"),
    },
    ..MBXP
};
