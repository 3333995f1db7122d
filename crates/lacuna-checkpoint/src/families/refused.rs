//! Lists the diffusion models that are not computed, and refuses them with a reason.
//!
//! A family's name is a promise of its mode: one that is known for diffusion is opened as block diffusion or
//! refused, never as autoregressive.

use super::Family;

const FULL: &str = "a masked diffusion model with attention over the whole text in both directions; of those \
                    only checkpoints that were trained here are read";
const EXPERTS: &str =
    "a diffusion model that is a mixture of experts; only dense ones are computed here";

/// Architectures, model types and GGUF architectures of diffusion models that are not computed, with the reasons.
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

/// The reason why a checkpoint of an architecture or model type is refused, if the name is known for diffusion and
/// not computed here.
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

/// The reason why a checkpoint that announces a plain architecture, or Tiny-A2D's, is refused by the name of its
/// folder or file.
pub(crate) fn refusal_by_name(family: Option<Family>, names: &[String]) -> Option<String> {
    let signs: &[&str] = match family {
        Some(Family::A2dLlama | Family::A2dQwen2 | Family::A2dQwen3) => &["mdlm"],
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

#[cfg(test)]
mod tests {
    use super::*;

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
