//! Decides which tokens a masked position sees: as was asked for, else as the checkpoint was trained.

use lacuna_checkpoint::Attention;
use lacuna_samplers::{Request, View};
use std::num::NonZeroUsize;

use crate::advice::Knob;
use crate::error::{Result, unsupported};
use crate::open::Model;
use crate::options::{Algorithm, GenerateOptions};

/// The attention for a model under these options: the one asked for, else the one that the checkpoint was trained with.
/// A block size that is given to a checkpoint of full attention has it decoded block by block.
///
/// # Errors
/// Errors if the algorithm has another attention, or a canvas that is one block is to have blocks of another size.
pub fn attention(
    model: &Model,
    algorithm: Algorithm,
    options: &GenerateOptions,
) -> Result<Attention> {
    let of_checkpoint = model.config().attention;
    let asked = options.attention;
    let attention = match (algorithm, asked) {
        (Algorithm::Autoregressive, None | Some(Attention::Causal)) => {
            return Ok(Attention::Causal);
        }
        (Algorithm::Autoregressive, Some(other)) => {
            return Err(unsupported(format!(
                "{} {other}: an autoregressive model is decoded token by token, each of which sees those before it; \
                 leave it out",
                Knob::Attention
            )));
        }
        (_, Some(asked)) => asked,
        (_, None) if of_checkpoint == Attention::Full && options.block_size.is_some() => {
            Attention::BlockCausal
        }
        (_, None) => of_checkpoint,
    };
    if algorithm == Algorithm::Reference && attention != Attention::BlockCausal {
        return Err(unsupported(format!(
            "{} reference: the released algorithm decodes block-causally, and the attention here is {attention}; leave \
             it out, or give {} block-causal",
            Knob::Algorithm,
            Knob::Attention
        )));
    }
    if let (Attention::Full, Some(size)) = (attention, options.block_size) {
        return Err(unsupported(format!(
            "{} full and {} {size}: under full attention the prompt and all new tokens are one block, which every pass \
             reads as a whole; leave one of the two out",
            Knob::Attention,
            Knob::BlockSize
        )));
    }
    Ok(attention)
}

/// A request for blocks, whose tokens see as this attention has it.
pub(super) fn seeing(attention: Attention, request: Request) -> Request {
    let block_size = request.block_size();
    let canvas = NonZeroUsize::new(request.prompt.len() + request.max_new_tokens);
    let view = match attention {
        Attention::BlockCausal => View::Blocks { block_size },
        Attention::Causal => View::CausalBlocks { block_size },
        // Without any token there is no canvas, and the request is refused for that.
        Attention::Full => View::Blocks { block_size: canvas.unwrap_or(block_size) },
    };
    Request { view, ..request }
}
