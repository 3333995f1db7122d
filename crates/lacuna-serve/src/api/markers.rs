//! Finds the marks of a hole in a prompt that a client has written for another family of models.

/// The marks of one family, and the order in which its prompts have them.
struct Marks {
    prefix: &'static str,
    suffix: &'static str,
    /// Ends the prompt; where it is empty, the text before the hole stands last.
    middle: &'static str,
    suffix_first: bool,
}

/// The families whose prompts are known: those that Zed writes by the name of a model, and the two that this project's
/// models have.
const FAMILIES: [Marks; 8] = [
    // Qwen2.5-Coder and CodeGemma.
    marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    // StarCoder and those that have its marks.
    marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    marks("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    // Code Llama's own code writes the spaces as parts of the marks.
    marks("<PRE> ", " <SUF>", " <MID>"),
    marks("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    Marks {
        prefix: "<[fim-prefix]>",
        suffix: "<[fim-suffix]>",
        middle: "<[fim-middle]>",
        suffix_first: true,
    },
    Marks { prefix: "[PREFIX]", suffix: "[SUFFIX]", middle: "", suffix_first: true },
];

const fn marks(prefix: &'static str, suffix: &'static str, middle: &'static str) -> Marks {
    Marks { prefix, suffix, middle, suffix_first: false }
}

/// The texts before and after the hole of a prompt that is written with marks; `None` for any other prompt. What stands
/// before the first mark and what is written of the middle are parts of the text before the hole.
pub(super) fn hole(prompt: &str) -> Option<(String, String)> {
    FAMILIES.iter().find_map(|family| family.hole(prompt))
}

impl Marks {
    fn hole(&self, prompt: &str) -> Option<(String, String)> {
        let (first, second) = match self.suffix_first {
            false => (self.prefix, self.suffix),
            true => (self.suffix, self.prefix),
        };
        let (before, rest) = prompt.split_once(first)?;
        let (one, rest) = rest.split_once(second)?;
        let (other, begun) = match self.middle {
            "" => (rest, ""),
            middle => rest.split_once(middle)?,
        };
        let (prefix, suffix) = if self.suffix_first { (other, one) } else { (one, other) };
        Some(([before, prefix, begun].concat(), suffix.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_s_prompt_is_taken_apart() {
        let prompts = [
            "<|fim_prefix|>a b<|fim_suffix|>c d<|fim_middle|>",
            "<fim_prefix>a b<fim_suffix>c d<fim_middle>",
            "<fim-prefix>a b<fim-suffix>c d<fim-middle>",
            "<｜fim▁begin｜>a b<｜fim▁hole｜>c d<｜fim▁end｜>",
            "<PRE> a b <SUF>c d <MID>",
            "<|code_prefix|>a b<|code_suffix|>c d<|code_middle|>",
            "<[fim-suffix]>c d<[fim-prefix]>a b<[fim-middle]>",
            "[SUFFIX]c d[PREFIX]a b",
        ];
        for prompt in prompts {
            assert_eq!(hole(prompt), Some(("a b".into(), "c d".into())), "{prompt}");
        }
    }

    #[test]
    fn what_stands_around_the_marks_is_kept() {
        let found = hole("# file\n<fim_prefix>x = <fim_suffix>\ny<fim_middle>1 +");
        assert_eq!(found, Some(("# file\nx = 1 +".into(), "\ny".into())));
        let empty = hole("<fim_prefix><fim_suffix><fim_middle>");
        assert_eq!(empty, Some((String::new(), String::new())));
    }

    #[test]
    fn other_prompts_are_left_as_they_are() {
        let others = ["def f():\n", "<fim_suffix>a<fim_prefix>b<fim_middle>", "<PRE> a <SUF>b", ""];
        for prompt in others {
            assert_eq!(hole(prompt), None, "{prompt}");
        }
    }
}
