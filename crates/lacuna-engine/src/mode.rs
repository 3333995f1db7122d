//! Whether a checkpoint is decoded token by token or block by block, and what is said where it can't be.

use lacuna_model::Mode;
use std::num::NonZeroUsize;

use crate::error::{Error, Result};
use crate::generate::{DecodeMode, GenerateOptions};
use crate::open::Model;

/// Whether to decode autoregressively; refuses a checkpoint of the other kind.
pub(crate) fn choose_mode(model: &Model, options: &GenerateOptions) -> Result<bool> {
    let trained = !model.is_block_diffusion();
    let asked = options.autoregressive.unwrap_or(trained && options.mode == DecodeMode::Fused);
    if asked != trained && !options.allow_mode_mismatch {
        return Err(Error::Mode(mismatch(trained)));
    }
    Ok(asked)
}

/// What to do where nothing names MASK.
pub fn no_mask(model: &Model) -> String {
    let way_out = match model.is_block_diffusion() {
        true => "",
        false => {
            "; without --allow-mode-mismatch it is decoded token by token, as it was trained, and \
             `lacuna convert --to block-diffusion` makes it a start for training"
        }
    };
    format!(
        "the model is to fill in masked blocks, and neither its configuration nor its tokenizer names a MASK token: \
         give the id of a special token with --mask-id N{way_out}"
    )
}

/// Why a checkpoint is not used as what it isn't.
pub fn mismatch(autoregressive: bool) -> String {
    let (is, not) = if autoregressive {
        ("autoregressive: trained to predict the next token", "fill in masked blocks")
    } else {
        ("block diffusion: trained to fill in masked blocks", "predict the next token")
    };
    let mask =
        if autoregressive { " (with --mask-id N if nothing names a MASK token)" } else { "" };
    format!(
        "this checkpoint is {is}, and would write nonsense if made to {not}; \
         --allow-mode-mismatch does it all the same{mask}"
    )
}

/// Tokens in a block: as asked for, else the checkpoint's, else 4.
pub(crate) fn block_size(model: &Model, options: &GenerateOptions) -> NonZeroUsize {
    const DEFAULT: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");
    let of_checkpoint = match model.config().mode {
        Mode::BlockDiffusion { block_size, .. } => Some(block_size),
        Mode::Autoregressive => None,
    };
    options.block_size.or(of_checkpoint).unwrap_or(DEFAULT)
}
