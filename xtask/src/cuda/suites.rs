//! Lists the suites of `cargo xtask cuda emulate`: each tests the kernels of an operation.

use super::mutations::{
    Mutation, Part, adamw, attention, attention_decode, attention_f32, cross_entropy, embedding,
    few_rows, linear, one_type, rms_norm, rope, sample, swiglu,
};

/// The kernels of an operation and the program that tests them.
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// The kernels' sources below `crates/lacuna-kernels/cuda`.
    pub(super) kernels: &'static [&'static str],
    /// The test program's part below `tests` that includes the kernels: it is compiled anew for every fault.
    pub(super) test: &'static str,
    /// Parts of the program that no fault changes.
    pub(super) rest: &'static [&'static str],
    pub(super) mutations: &'static [Mutation],
    /// Chooses the part that is compiled and run for a fault; `|_| Part::default()` is all of it.
    pub(super) part: fn(&Mutation) -> Part,
    /// The flags with which all faults are compiled at once, as `mutations::apply_all` puts them into the sources: it
    /// takes a fraction of the time. Without them each is compiled alone.
    pub(super) at_once: Option<&'static [&'static str]>,
}

pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "attention",
        kernels: &["attention_forward.cu", "attention_backward.cu", "attention_hopper.cu"],
        test: "attention_kernels.cpp",
        rest: &["attention.cpp"],
        mutations: attention::MUTATIONS,
        part: attention::part,
        at_once: Some(&["-DLACUNA_FEW"]),
    },
    Suite {
        name: "attention_f32",
        kernels: &["attention_f32.cu"],
        test: "attention_f32.cpp",
        rest: &[],
        mutations: attention_f32::MUTATIONS,
        part: attention_f32::part,
        at_once: Some(&[]),
    },
    Suite {
        name: "attention_decode",
        kernels: &["attention_decode.cu"],
        test: "attention_decode.cpp",
        rest: &[],
        mutations: attention_decode::MUTATIONS,
        part: attention_decode::part,
        at_once: Some(&["-DLACUNA_ONLY=64"]),
    },
    Suite {
        name: "few_rows",
        kernels: &["few_rows.cu"],
        test: "few_rows.cpp",
        rest: &[],
        mutations: few_rows::MUTATIONS,
        part: few_rows::part,
        at_once: Some(&[]),
    },
    Suite {
        name: "linear",
        kernels: &["linear.cu", "linear_hopper.cu"],
        test: "linear_kernels.cpp",
        rest: &[],
        mutations: linear::MUTATIONS,
        part: linear::part,
        at_once: Some(&[]),
    },
    Suite {
        name: "rms_norm",
        kernels: &["rms_norm.cu"],
        test: "rms_norm_kernels.cpp",
        rest: &["rms_norm.cpp"],
        mutations: rms_norm::MUTATIONS,
        part: one_type,
        at_once: None,
    },
    Suite {
        name: "rope",
        kernels: &["rope.cu"],
        test: "rope_kernels.cpp",
        rest: &["rope.cpp"],
        mutations: rope::MUTATIONS,
        part: one_type,
        at_once: None,
    },
    Suite {
        name: "swiglu",
        kernels: &["swiglu.cu"],
        test: "swiglu_kernels.cpp",
        rest: &["swiglu.cpp"],
        mutations: swiglu::MUTATIONS,
        part: one_type,
        at_once: None,
    },
    Suite {
        name: "embedding",
        kernels: &["embedding.cu"],
        test: "embedding_kernels.cpp",
        rest: &["embedding.cpp"],
        mutations: embedding::MUTATIONS,
        part: one_type,
        at_once: None,
    },
    Suite {
        name: "adamw",
        kernels: &["adamw.cu"],
        test: "adamw_kernels.cpp",
        rest: &["adamw.cpp"],
        mutations: adamw::MUTATIONS,
        part: one_type,
        at_once: None,
    },
    Suite {
        name: "cross_entropy",
        kernels: &["cross_entropy.cu", "cross_entropy_hopper.cu"],
        test: "cross_entropy_kernels.cpp",
        rest: &["cross_entropy.cpp"],
        mutations: cross_entropy::MUTATIONS,
        part: cross_entropy::part,
        at_once: Some(&[]),
    },
    Suite {
        name: "sample",
        kernels: &["sample.cu"],
        test: "sample_kernels.cpp",
        rest: &["sample.cpp"],
        mutations: sample::MUTATIONS,
        part: sample::part,
        at_once: Some(&[]),
    },
];

/// The suites of these names, all if none is named.
pub(super) fn named(names: &[String]) -> Vec<&'static Suite> {
    SUITES
        .iter()
        .filter(|suite| names.is_empty() || names.iter().any(|name| name == suite.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_source_is_tested_once() {
        let sources = std::fs::read_dir(super::super::sources()).unwrap();
        let sources = sources.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let sources: BTreeSet<_> = sources.filter(|name| name.ends_with(".cu")).collect();
        let tested: Vec<_> = SUITES.iter().flat_map(|suite| suite.kernels).collect();
        assert_eq!(sources.len(), tested.len());
        assert!(tested.into_iter().all(|name| sources.contains(*name)), "{sources:?}");
    }

    #[test]
    fn the_program_that_travels_has_every_source() {
        let path = super::super::sources().join("card/kernels.cu");
        let all = std::fs::read_to_string(path).unwrap();
        for name in SUITES.iter().flat_map(|suite| suite.kernels) {
            assert!(all.contains(&format!("#include \"../{name}\"\n")), "{name}");
        }
    }

    #[test]
    fn every_fault_changes_the_source_and_has_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        for suite in SUITES {
            for mutation in suite.mutations {
                let path = super::super::sources().join(mutation.file);
                let source = std::fs::read_to_string(path).unwrap();
                let mutant = mutation.apply(&source);
                assert!(mutant.is_some_and(|mutant| mutant != source), "{}", mutation.name);
                assert!(names.insert((suite.name, mutation.name)), "{}", mutation.name);
            }
        }
    }
}
