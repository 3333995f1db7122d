//! `lacuna logits` writes a model's logits to a file, for comparison with other implementations.

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use lacuna::checkpoint::{Workload, save_tensors};
use lacuna::kernels::AttentionMask;
use lacuna::model::Batch;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Usage;
use super::decode_args::in_vocabulary;
use super::model_args::ModelArgs;
use super::progress::{Progress, count, shows_progress};
use super::ranges::{self, Ids};

/// Write the logits of some tokens, to compare with other implementations.
///
/// The file holds one tensor, `logits` [tokens, vocab] in f32.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logits")]
#[command(after_help = "\
Example:
  lacuna logits -m M --ids 1,2,3 --mask block-causal --out logits.safetensors")]
pub(crate) struct Args {
    /// Token ids: 1,2,3
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    ids: Ids,
    /// Context that each position sees
    #[arg(long, value_parser = ["causal", "full", "block-causal"])]
    mask: String,
    /// Tokens in a block, for block-causal; default: the checkpoint's, else 4
    #[arg(long, value_name = "B", allow_hyphen_values = true, value_parser = ranges::size)]
    block_size: Option<NonZeroUsize>,
    /// The .safetensors file to write
    #[arg(long, value_name = "F")]
    out: PathBuf,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let ids = &args.ids.0;
    if ids.is_empty() {
        return Err(Usage("--ids is empty; give at least one token id".into()).into());
    }
    if args.out.exists() && !args.out.is_file() {
        anyhow::bail!("{}: is no regular file; give a file's name", args.out.display());
    }
    // Every row's logits, and once more as the bytes that are written.
    let work = Workload { rows: ids.len(), logit_rows: 2 * ids.len(), ..Workload::decoding(0) };
    let model = args.model.open_tensors(work, "logits")?;
    let config = model.config();
    in_vocabulary("--ids", ids, config.vocab_size)?;
    let block_size = args.block_size.or(config.block_size());
    let mask = match args.mask.as_str() {
        "causal" => AttentionMask::Causal,
        "full" => AttentionMask::Full,
        _ => AttentionMask::BlockCausal {
            block_size: block_size.unwrap_or(const { NonZeroUsize::new(4).expect("not zero") }),
        },
    };
    let transformer = &model.transformer;
    let what = format!("computing the logits of {} tokens", count(ids.len()));
    let progress = Progress::passes(what, &model, 1);
    let hidden = transformer.forward(&Batch::of(ids.as_slice(), mask)?)?;
    let logits = transformer.logits(&hidden)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    drop(progress);
    // Under another name until it is whole: a full disk leaves nothing half written.
    let saved = save_tensors(&args.out, vec![("logits".to_owned(), logits)]);
    saved.with_context(|| format!("writing {}", args.out.display()))?;
    if shows_progress() {
        note!("{}: logits [{}, {}]", args.out.display(), ids.len(), config.vocab_size);
    }
    Ok(())
}
