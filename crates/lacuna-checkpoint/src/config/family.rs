//! Which family of models a checkpoint belongs to, and so whether it is block diffusion.
//!
//! A family's name is a promise of its mode: one that is known for diffusion is opened as block diffusion or
//! refused, never as autoregressive.

use std::path::Path;

/// Families of block-diffusion models that have a name of their own in `config.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// SDAR: the shape of Qwen3, blocks of 4 where nothing says otherwise.
    Sdar,
    /// Tiny-A2D of the shape of Llama, blocks of 32.
    A2dLlama,
    /// Tiny-A2D of the shape of Qwen2.5, blocks of 32.
    A2dQwen2,
    /// Tiny-A2D of the shape of Qwen3, blocks of 32.
    A2dQwen3,
    /// Fast-dLLM v2: the shape of Qwen2.5, blocks of 32, each token read off the position before it.
    FastDllm,
}

impl Family {
    pub(crate) const ALL: [Family; 5] =
        [Self::Sdar, Self::A2dLlama, Self::A2dQwen2, Self::A2dQwen3, Self::FastDllm];

    /// The family that an architecture or a model type names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let found = |family: &Self| {
            let (architecture, model_type) = family.announced();
            name == architecture || name == model_type
        };
        Self::ALL.into_iter().find(found)
    }

    /// The family that the name of a folder, a file or a model gives away; of Tiny-A2D the one of this shape.
    pub(crate) fn called(names: &[String], shape: &str) -> Option<Self> {
        let has = |sign: &[&str]| {
            names.iter().any(|name| {
                let lower = name.to_lowercase();
                let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).collect();
                words.windows(sign.len()).any(|part| part == sign)
            })
        };
        if has(&["sdar"]) {
            Some(Self::Sdar)
        } else if has(&["fast", "dllm"]) || has(&["fastdllm"]) {
            Some(Self::FastDllm)
        } else if has(&["bd3lm"]) || has(&["a2d"]) {
            let of_shape = [Self::A2dLlama, Self::A2dQwen2, Self::A2dQwen3];
            of_shape.into_iter().find(|family| family.shape() == shape)
        } else {
            None
        }
    }

    /// The architecture and the model type in `config.json`.
    pub(crate) fn announced(self) -> (&'static str, &'static str) {
        match self {
            Self::Sdar => ("SDARForCausalLM", "sdar"),
            Self::A2dLlama => ("A2DLlamaLMHeadModel", "a2d-llama"),
            Self::A2dQwen2 => ("A2DQwen2LMHeadModel", "a2d-qwen2"),
            Self::A2dQwen3 => ("A2DQwen3LMHeadModel", "a2d-qwen3"),
            Self::FastDllm => ("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen"),
        }
    }

    /// The model type whose defaults hold.
    pub(crate) fn shape(self) -> &'static str {
        match self {
            Self::A2dLlama => "llama",
            Self::A2dQwen2 | Self::FastDllm => "qwen2",
            Self::Sdar | Self::A2dQwen3 => "qwen3",
        }
    }

    /// The fields of `config.json` that say how long a block is.
    pub(crate) fn block_fields(self) -> &'static [&'static str] {
        match self {
            Self::FastDllm => &["bd_size", "block_size"],
            _ => &["block_size", "block_length"],
        }
    }

    /// Tokens of a block where nothing says otherwise: the name of the released files counts for SDAR, which is
    /// published in several.
    pub(crate) fn block_size(self, names: &[String]) -> usize {
        match self {
            Self::Sdar => names.iter().find_map(|name| block_in(name)).unwrap_or(4),
            _ => 32,
        }
    }

    /// How the family's tokenizers spell MASK, and its id in the released files where their tokenizer is missing.
    pub(crate) fn mask(self) -> (&'static str, Option<u32>) {
        match self {
            Self::Sdar => ("<|MASK|>", Some(151_669)),
            Self::FastDllm => ("|<MASK>|", Some(151_665)),
            Self::A2dLlama | Self::A2dQwen2 | Self::A2dQwen3 => ("<|mask|>", None),
        }
    }

    /// Whether logits predict the position after their own.
    pub(crate) fn is_shifted(self) -> bool {
        self == Self::FastDllm
    }
}

/// How the released tokenizer spells MASK, and Stable-DiffCoder's alone: a GGUF file with it is that model.
pub(crate) const RELEASED_MASK: &str = "<[MASK_TOKEN]>";
/// Where the released tokenizer has it.
pub(crate) const RELEASED_MASK_ID: u32 = 5;

/// Whether a name is that of Stable-DiffCoder, in whatever spelling.
pub(crate) fn is_diffcoder(name: &str) -> bool {
    name.to_lowercase().replace(['-', '_', ' '], "").contains("stablediffcoder")
}

/// `8` of `SDAR-4B-Chat-b8`.
fn block_in(name: &str) -> Option<usize> {
    let parts = name.rsplit(['-', '_', '.', ' ', '@']);
    let number = |part: &str| {
        let digits = part.strip_prefix(['b', 'B'])?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|n| plain && (1..=1024).contains(n))
    };
    parts.into_iter().find_map(number)
}

const FULL: &str = "a masked diffusion model with attention over the whole text in both directions; only attention \
                    that is causal between blocks is computed here";
const EXPERTS: &str =
    "a diffusion model that is a mixture of experts; only dense ones are computed here";

/// Architectures, model types and GGUF architectures of diffusion models that are not computed, and why.
const REFUSED: [(&str, &str); 28] = [
    ("LLaDAModelLM", FULL),
    ("LLaDAModel", FULL),
    ("llada", FULL),
    ("LLaDAMoEModelLM", EXPERTS),
    ("LLaDAMoEModel", EXPERTS),
    ("llada-moe", EXPERTS),
    ("llada_moe", EXPERTS),
    ("LLaDA2MoeModelLM", EXPERTS),
    ("llada2_moe", EXPERTS),
    ("SDARMoeForCausalLM", EXPERTS),
    ("sdar_moe", EXPERTS),
    ("RND1LM", EXPERTS),
    ("rnd1", EXPERTS),
    ("DiffusionGemmaForCausalLM", EXPERTS),
    ("diffusion_gemma", EXPERTS),
    ("diffusion-gemma", EXPERTS),
    ("DreamModel", FULL),
    ("DreamForCausalLM", FULL),
    ("DreamLMHeadModel", FULL),
    ("Dream", FULL),
    ("dream", FULL),
    ("DiffuCoderModel", FULL),
    ("CoDALanguageModel", FULL),
    ("CoDAForCausalLM", FULL),
    ("CoDA", FULL),
    ("coda", FULL),
    ("OpenDCoderForCausalLM", FULL),
    ("MDLM", FULL),
];

/// Parts of names that only diffusion language models have.
const SIGNS: [&str; 12] = [
    "diffusion",
    "diffucoder",
    "diffcoder",
    "llada",
    "dllm",
    "mdlm",
    "bd3lm",
    "sdar",
    "dcoder",
    "a2d",
    "dream",
    "sedd",
];

/// Why a checkpoint of an architecture or model type is refused, if the name is known for diffusion and not computed
/// here.
pub(crate) fn refusal(name: &str) -> Option<String> {
    if Family::named(name).is_some() {
        return None;
    }
    let listed = REFUSED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let lower = name.to_lowercase();
    let reason = match listed {
        Some((_, reason)) => reason,
        None if SIGNS.iter().any(|sign| lower.contains(sign)) => {
            "by its name a diffusion language model, of an architecture that is not computed here"
        }
        None => return None,
    };
    Some(format!(
        "{reason}. It is not used as autoregressive: that would write nonsense. {COMPUTED}"
    ))
}

/// The diffusion models that are computed.
const COMPUTED: &str = "Computed are Stable-DiffCoder, SDAR, Tiny-A2D (bd3lm) and Fast-dLLM v2";

/// Why a checkpoint that announces a plain architecture, or Tiny-A2D's, is refused by the name of its folder or file.
pub(crate) fn refusal_by_name(family: Option<Family>, names: &[String]) -> Option<String> {
    let a2d = matches!(family, Some(Family::A2dLlama | Family::A2dQwen2 | Family::A2dQwen3));
    let signs: &[&str] = match family {
        _ if a2d => &["mdlm"],
        None => &["diffucoder", "open-dcoder", "open_dcoder", "opendcoder", "dream-coder", "-mdlm"],
        Some(_) => return None,
    };
    let name = names.iter().find(|name| {
        let lower = name.to_lowercase();
        signs.iter().any(|sign| lower.contains(sign))
    })?;
    Some(format!(
        "`{name}` is by its name {FULL}. Under another name it is opened as its configuration says. {COMPUTED}"
    ))
}

/// What a checkpoint is called: its folder or file, and its repository in the Hugging Face cache.
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
        let called = |name: &str, shape: &str| Family::called(&[name.to_owned()], shape);
        assert_eq!(called("SDAR-1.7B-Chat-b8-Q4.gguf", "qwen3"), Some(Family::Sdar));
        assert_eq!(called("Fast_dLLM_v2_1.5B", "qwen2"), Some(Family::FastDllm));
        assert_eq!(called("Qwen3-0.6B-diffusion-bd3lm-v0.1", "qwen3"), Some(Family::A2dQwen3));
        assert_eq!(called("tiny-a2d", "llama"), Some(Family::A2dLlama));
        assert_eq!(called("tiny-a2d", "mistral"), None);
        for name in ["wisdar", "Seed-Coder-8B", "fast-llm", "dllm", "Qwen3-0.6B"] {
            assert_eq!(called(name, "qwen3"), None, "{name}");
        }
    }

    #[test]
    fn a_name_known_for_diffusion_is_refused_or_computed() {
        for name in [
            "LLaDAModelLM",
            "llada",
            "LLaDA2MoeModelLM",
            "DreamModel",
            "Dream",
            "dream",
            "CoDALanguageModel",
            "SDARMoeForCausalLM",
            "SomeDiffusionLM",
            "MDLMForMaskedLM",
            "WeDLLMForCausalLM",
        ] {
            assert!(refusal(name).is_some(), "{name}");
        }
        for name in [
            "LlamaForCausalLM",
            "qwen3",
            "SDARForCausalLM",
            "a2d-qwen2",
            "Fast_dLLM_Qwen",
            "MambaForCausalLM",
        ] {
            assert!(refusal(name).is_none(), "{name}");
        }
    }
}
