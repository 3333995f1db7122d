//! Describes one task: what a model is given, and what its answer is tested with.

use crate::language::Language;

/// One task of a benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name, such as `HumanEval/0`.
    pub id: String,
    /// The text that a solution begins with.
    pub prompt: String,
    /// The text behind the hole, where one is to be filled.
    pub suffix: Option<String>,
    /// The instruction, where a text is to be changed; the text is the prompt.
    pub instruction: Option<String>,
    /// The function that is tested.
    pub entry: String,
    /// The data set's own solution: what it wants between prompt and suffix.
    pub canonical: String,
    /// The tests.
    pub tests: Tests,
}

/// The way in which a task's answers are tested.
#[derive(Debug, Clone, PartialEq)]
pub enum Tests {
    /// By the task's own program of assertions, which calls the function.
    Check {
        /// The program.
        program: String,
        /// True if it defines `check(candidate)`, false if it calls the function by its name.
        takes_candidate: bool,
    },
    /// By comparison with what the data set's own solution returns, as EvalPlus does.
    Differential {
        /// The inputs of the original benchmark, as the data set's own JSON.
        base: String,
        /// The inputs that EvalPlus adds.
        plus: String,
        /// The absolute tolerance of numbers.
        atol: f64,
        /// The data set, whose special cases differ.
        dataset: Dataset,
    },
    /// By the value that a function returns for an input: the answer is an expression.
    Output {
        /// The expression of the right value.
        output: String,
    },
    /// By an input for which a function returns a value: the answer is a call.
    Input {
        /// The program that defines the function.
        code: String,
        /// The expression of the value.
        output: String,
    },
    /// By tests in the program's own language, which stand behind it in one file. A hostile program can forge their
    /// verdict.
    Behind {
        /// The language.
        language: Language,
        /// The tests.
        program: String,
        /// The place where a completion ends and the tests go on.
        end: CompletionEnd,
    },
    /// By cases of `unittest`, a class `TestCases` in the program's own module, which may write files in a folder of its
    /// own. A hostile program can forge their verdict.
    Cases {
        /// The program that defines the class.
        program: String,
        /// The head of the function with its imports, which stands before an answer that may lack them.
        head: String,
    },
    /// By cases of `unittest` in files of their own, which import the changed file. A hostile program can forge their verdict.
    Exercise {
        /// The name of the file that is to be changed.
        file: String,
        /// The tests, and what they need beside them: names and texts.
        tests: Vec<(String, String)>,
        /// The try before, where this is the second one.
        earlier: Option<Earlier>,
    },
    /// By assertions that look into the program, and so run in its process. A hostile program can forge their verdict.
    Together {
        /// The assertions.
        program: String,
    },
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// The model's own words.
    pub answer: String,
    /// The words of the tests that failed.
    pub told: String,
}

/// The end of a completion that tests stand behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompletionEnd {
    /// Behind the line that closes the function, as in MBXP.
    ClosingLine,
    /// Before the first of these texts, as in MultiPL-E, whose tests close the function where a stop would have.
    Before(Vec<String>),
}

/// One of EvalPlus's data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// HumanEval+.
    HumanEval,
    /// MBPP+.
    Mbpp,
}

impl Task {
    /// The whole program that a completion of the prompt makes.
    #[must_use]
    pub fn program(&self, completion: &str) -> String {
        match self.tests {
            // The answer stands for itself.
            Tests::Output { .. }
            | Tests::Input { .. }
            | Tests::Together { .. }
            | Tests::Exercise { .. } => completion.into(),
            _ => [&self.prompt, completion, self.suffix.as_deref().unwrap_or_default()].concat(),
        }
    }

    /// The data set's own solution, whole.
    #[must_use]
    pub fn solution(&self) -> String {
        self.program(&self.canonical)
    }

    /// The number at the end of its name, if there is one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.id.rsplit('/').next()?.parse().ok()
    }
}
