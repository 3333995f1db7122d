//! Spells the options that the engine's messages name as the command line has them.

use lacuna::Knob;

/// The flag of an option, or the command of a function.
pub(crate) fn flag(knob: Knob) -> String {
    match knob {
        Knob::PromptIds => "--prompt-ids",
        Knob::Dtype => "--dtype",
        Knob::Memory => "--memory",
        Knob::CachePrecision => "--cache-precision",
        Knob::Device => "--device",
        Knob::Algorithm => "--mode",
        Knob::BlockSize => "--block-size",
        Knob::Attention => "--attention",
        Knob::Threshold => "--threshold",
        Knob::MaskId => "--mask-id",
        Knob::AllowModeMismatch => "--allow-mode-mismatch",
        Knob::Drafts => "--draft",
        Knob::Pattern => "--regex, --json-schema or --grammar",
        Knob::Stop => "--stop",
        Knob::MinNewTokens => "--min-new-tokens",
        Knob::Generate => "`lacuna generate`",
        Knob::Force => "--force",
        Knob::AnyBase => "--any-base",
        Knob::ToBlockDiffusion => "`lacuna convert --to block-diffusion`",
        Knob::MaskToken => "--mask-token",
        Knob::MaskEmbedding => "--mask-embedding",
        // An option that this program does not have a flag for is called what the library calls it.
        other => return format!("{other:?}"),
    }
    .to_owned()
}
