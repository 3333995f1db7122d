//! Finds the mode of a GGUF file: what lacuna wrote there, else what its tokens and its name give away.

use std::num::NonZeroUsize;

use super::fields::Fields;
use super::reader::Value;
use super::tokenizer::token_ids;
use crate::config::{Attention, Mode, Predicts};
use crate::error::Result;
use crate::families::{
    Architecture, Family, LLAMA, RELEASED_MASK, is_diffcoder, names_of, refusal_by_name,
};

/// The key that a file of ours must have if it is autoregressive although its tokenizer has MASK; files of others
/// lack it.
pub(super) const MODE: &str = "lacuna.mode";
/// The key of MASK's id, which is -1 if the model has none named.
pub(super) const MASK: &str = "lacuna.mask_token_id";
pub(super) const AUTOREGRESSIVE: &str = "autoregressive";

/// The key that names the attention of a diffusion model, where it is not block-causal.
pub(super) const ATTENTION: &str = "lacuna.attention";

const KEYED_MASK: &str = "tokenizer.ggml.mask_token_id";

/// The text of MASK in LLaDA's tokenizer.
const LLADA_MASK: &str = "<|mdm_mask|>";

/// A mode, and what comes with it.
pub(super) struct Found {
    pub(super) mode: Mode,
    pub(super) family: Option<Family>,
    pub(super) predicts: Predicts,
}

pub(super) fn mode(fields: &Fields<'_>, layers: &Architecture) -> Result<Found> {
    let predicts = match fields.gguf.get("lacuna.logit_shift") {
        Some(Value::Bool(true)) => Predicts::Next,
        _ => Predicts::Same,
    };
    let family = family(fields, layers);
    if let Some(block_size) = fields.size("lacuna.block_size")? {
        let Some(block_size) = NonZeroUsize::new(block_size) else {
            return Err(fields.fault("lacuna.block_size", 0, "expected at least 1"));
        };
        let mask_token_id =
            [MASK, KEYED_MASK].iter().find_map(|key| fields.id(key)).or_else(|| {
                family.and_then(|family| token_ids(fields.gguf, &[family.table().mask.0])[0])
            });
        let named_none = fields.get(MASK).is_some_and(|(_, value)| value.is_no_id());
        if mask_token_id.is_none() && !named_none {
            let rows = fields.vocab_size;
            return Err(fields.whole_fault(MASK, format!("a token id below {rows} is required")));
        }
        return Ok(Found {
            mode: Mode::BlockDiffusion { block_size, mask_token_id },
            family,
            predicts,
        });
    }
    let autoregressive = Found { mode: Mode::Autoregressive, family: None, predicts };
    if fields.gguf.text(MODE) == Some(AUTOREGRESSIVE) {
        return Ok(autoregressive);
    }
    refuse(fields, layers, family)?;
    let named = |name: &str| token_ids(fields.gguf, &[name])[0];
    let four = const { NonZeroUsize::new(4).expect("not zero") };
    let names = names(fields);
    let released = named(RELEASED_MASK);
    if layers.is_like(&LLAMA) && released.is_some() || names.iter().any(|name| is_diffcoder(name)) {
        let mode = Mode::BlockDiffusion {
            block_size: four,
            mask_token_id: released.or_else(|| keyed(fields)),
        };
        return Ok(Found { mode, family: None, predicts });
    }
    let called = Family::called(&names, layers);
    let has_these = |family: &Family| family.table().layers.is_like(layers);
    let Some(family) = called.filter(has_these).or(family).or(called) else {
        return Ok(autoregressive);
    };
    let block_size = NonZeroUsize::new(family.block_size(&names)).unwrap_or(four);
    let mask_token_id = named(family.table().mask.0).or_else(|| keyed(fields));
    let mode = Mode::BlockDiffusion { block_size, mask_token_id };
    let predicts = if family.table().shifted { Predicts::Next } else { predicts };
    // With other layers than the family's it is block diffusion as its name says, and written as what it is.
    let family = Some(family).filter(has_these);
    Ok(Found { mode, family, predicts })
}

/// The attention that a file of ours names; block-causal where it names none.
pub(super) fn attention(fields: &Fields<'_>) -> Result<Attention> {
    match fields.gguf.get(ATTENTION) {
        None => Ok(Attention::BlockCausal),
        Some(Value::Text(name)) => {
            name.parse().map_err(|expected: String| fields.fault(ATTENTION, name, expected))
        }
        Some(_) => Err(fields.whole_fault(ATTENTION, "expected the name of an attention, a text")),
    }
}

/// The id of MASK under the key that llama.cpp's converter writes.
fn keyed(fields: &Fields<'_>) -> Option<u32> {
    fields.get(KEYED_MASK).and_then(|_| fields.id(KEYED_MASK))
}

/// The family whose MASK the tokenizer has: no autoregressive model with these layers has it.
fn family(fields: &Fields<'_>, layers: &Architecture) -> Option<Family> {
    let mut alike = Family::with_layers_of(layers);
    alike.retain(|table| table.known_by_mask);
    let masks: Vec<&str> = alike.iter().map(|table| table.mask.0).collect();
    let ids = token_ids(fields.gguf, &masks);
    alike.iter().zip(ids).find_map(|(table, id)| id.map(|_| table.family))
}

/// Refuses diffusion models that are not computed.
fn refuse(fields: &Fields<'_>, layers: &Architecture, family: Option<Family>) -> Result<()> {
    let causal = format!("{}.attention.causal", fields.architecture);
    let full = fields.gguf.get(&causal) == Some(Value::Bool(false));
    let mut keys = fields.gguf.metadata().map(|(key, _)| key);
    let diffusion = keys.find(|key| key.starts_with("diffusion."));
    if full || diffusion.is_some() {
        let key = diffusion.unwrap_or(causal.as_str());
        let reason = "a model with attention over the whole text in both directions; of those only checkpoints that were \
                      trained here are read";
        return Err(fields.whole_fault(key, reason));
    }
    if layers.is_like(&LLAMA) && token_ids(fields.gguf, &[LLADA_MASK])[0].is_some() {
        let reason = "LLaDA's MASK is among the tokens: a masked diffusion model with attention over the whole text in \
                      both directions; of those only checkpoints that were trained here are read";
        return Err(fields.whole_fault("tokenizer.ggml.tokens", reason));
    }
    match refusal_by_name(family, &names(fields)) {
        Some(reason) => Err(fields.whole_fault("general.name", reason)),
        None => Ok(()),
    }
}

/// The names of the file, outside and in its metadata.
fn names(fields: &Fields<'_>) -> Vec<String> {
    let inside = ["general.name", "general.basename", "general.finetune"];
    let inside = inside.iter().filter_map(|key| fields.gguf.text(key)).map(str::to_owned);
    names_of(fields.file).into_iter().chain(inside).collect()
}
