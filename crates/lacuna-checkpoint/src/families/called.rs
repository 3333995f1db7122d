//! Tells models apart by the names of their folders, files and repositories.

use std::path::Path;

use super::{Architecture, Diffusion, Family};

impl Family {
    /// The family that names give away; of families with the same signs the one with these layers.
    pub(crate) fn called(names: &[String], architecture: &Architecture) -> Option<Self> {
        let has = |sign: &[&str]| {
            names.iter().any(|name| {
                let lower = name.to_lowercase();
                let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).collect();
                words.windows(sign.len()).any(|part| part == sign)
            })
        };
        let signed = |table: &Diffusion| table.signs.iter().any(|sign| has(sign));
        let own = Self::all().find(|one| !one.table().shares_signs && signed(one.table()));
        own.or_else(|| {
            let alike = Self::with_layers_of(architecture).into_iter();
            alike.filter(|table| table.shares_signs).find(|table| signed(table)).map(|t| t.family)
        })
    }

    /// The tokens of a block if the files do not say.
    pub(crate) fn block_size(self, names: &[String]) -> usize {
        let Diffusion { block_size, named_block, .. } = self.table();
        let named = names.iter().filter(|_| *named_block).find_map(|name| block_in(name));
        named.unwrap_or(*block_size)
    }
}

/// Tells whether a name is that of Stable-DiffCoder, in whatever spelling.
pub(crate) fn is_diffcoder(name: &str) -> bool {
    name.to_lowercase().replace(['-', '_', ' '], "").contains("stablediffcoder")
}

/// The block size at a name's end: `8` of `SDAR-4B-Chat-b8`.
fn block_in(name: &str) -> Option<usize> {
    let parts = name.rsplit(['-', '_', '.', ' ', '@']);
    let number = |part: &str| {
        let digits = part.strip_prefix(['b', 'B'])?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|n| plain && (1..=1024).contains(n))
    };
    parts.into_iter().find_map(number)
}

/// The names of a checkpoint: that of its folder or file, and that of its repository in the Hugging Face cache.
pub(crate) fn names_of(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for path in [Some(path.to_owned()), path.canonicalize().ok()].into_iter().flatten() {
        let own = path.file_name().and_then(|name| name.to_str());
        let repository = path.ancestors().find_map(|folder| {
            folder.file_name()?.to_str()?.strip_prefix("models--").map(str::to_owned)
        });
        names.extend(repository);
        names.extend(own.map(str::to_owned));
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_name_says_the_block() {
        for (name, block) in [
            ("SDAR-1.7B-Chat", None),
            ("SDAR-4B-Chat-b8", Some(8)),
            ("SDAR-8B-Chat-b64", Some(64)),
            ("JetLM--SDAR-1.7B-Chat-b32", Some(32)),
            ("SDAR-1.7B-Chat-b16-Q8_0.gguf", Some(16)),
            ("SDAR-30B-A3B-Sci", None),
            ("SDAR-b", None),
            ("build-b4567", None),
        ] {
            assert_eq!(block_in(name), block, "{name}");
        }
    }

    #[test]
    fn a_family_is_told_from_whole_words_of_a_name() {
        let called = |name: &str, layers: &str| {
            let like = |one: &&Architecture| one.model_type == layers;
            let layers = super::super::ARCHITECTURES.into_iter().find(like).unwrap();
            Family::called(&[name.to_owned()], layers)
        };
        assert_eq!(called("SDAR-1.7B-Chat-b8-Q4.gguf", "qwen3"), Some(Family::Sdar));
        assert_eq!(called("Fast_dLLM_v2_1.5B", "qwen2"), Some(Family::FastDllm));
        assert_eq!(called("Qwen3-0.6B-diffusion-bd3lm-v0.1", "qwen3"), Some(Family::A2dQwen3));
        assert_eq!(called("tiny-a2d", "llama"), Some(Family::A2dLlama));
        assert_eq!(called("tiny-a2d", "mistral"), None);
        for name in ["wisdar", "Seed-Coder-8B", "fast-llm", "dllm", "Qwen3-0.6B"] {
            assert_eq!(called(name, "qwen3"), None, "{name}");
        }
    }
}
