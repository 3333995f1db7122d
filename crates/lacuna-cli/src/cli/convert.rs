//! `lacuna convert` writes a checkpoint in another format, or makes it a start for block diffusion.

use anyhow::Result;
use lacuna::checkpoint::{Format, Mode, StorageDtype};
use lacuna::{Attention, ConvertOptions, MaskStart, MaskToken, ToBlockDiffusion};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::Usage;
use super::console::tell_renamed;
use super::progress::{At, Progress, downloads, shows_progress};
use super::ranges;
use super::signals::leave_nothing_in;
use super::sizes::{ByteSize, shown};

/// Write a checkpoint in another format, make it a start for block diffusion, or merge an adapter into it.
///
/// Tensors whose format stays are written bit for bit; the tokenizer, the chat template and the generation
/// settings go along. The result appears whole or not at all.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna convert M model.gguf --dtype q8_0   for llama.cpp, or in less memory
  lacuna convert model.gguf M                         for transformers
  lacuna convert M M-bf16 --dtype bf16 --max-shard-size 2GB
  lacuna convert M start --to block-diffusion --mask-token append
  lacuna convert M start --to block-diffusion --mask-token append --fim-tokens
  lacuna convert M new --to block-diffusion --mask-token 7 --mask-embedding mean
  lacuna convert M merged --adapter runs/mine/final-adapter")]
pub(crate) struct Args {
    /// A folder in Hugging Face layout, a .gguf file, or hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "IN")]
    from: PathBuf,
    /// The folder or the .gguf file to write
    #[arg(value_name = "OUT")]
    to: PathBuf,
    /// safetensors (a folder in Hugging Face layout) or gguf; default: gguf where OUT ends in .gguf, else safetensors
    #[arg(long, value_parser = ["safetensors", "gguf"])]
    format: Option<String>,
    /// Format of matrices; default: as they are. One of f64 (safetensors), f32, bf16, f16, and in
    /// GGUF q8_0, q6_k, q5_1, q5_0, q4_1, q4_k, q4_0
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    dtype: Option<StorageDtype>,
    /// Safetensors with more bytes are split: 5GB, 500MB, 2GiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", allow_hyphen_values = true)]
    max_shard_size: ByteSize,
    /// Make an autoregressive checkpoint a start for block-diffusion training
    #[arg(long = "to", value_name = "MODE", value_parser = ["block-diffusion"])]
    to_mode: Option<String>,
    /// Token that becomes MASK: its name, its id, or append[=NAME] for a new one
    #[arg(long, value_name = "TOKEN", requires = "to_mode")]
    mask_token: Option<MaskToken>,
    /// Tokens in a block; default: the checkpoint's, else 4
    #[arg(long, value_name = "B", requires = "to_mode", allow_hyphen_values = true, value_parser = ranges::size)]
    block_size: Option<NonZeroUsize>,
    /// Start of MASK's embedding: as-is, or the mean of all rows plus noise of a hundredth of their
    /// spread; default: as-is, mean for an appended token
    #[arg(long, value_parser = ["as-is", "mean"], requires = "to_mode")]
    mask_embedding: Option<String>,
    /// Append the marks <fim_prefix>, <fim_suffix> and <fim_middle> to a tokenizer that has none, for a recipe's
    /// data.fim to train `lacuna fill`
    #[arg(long, requires = "to_mode")]
    fim_tokens: bool,
    /// Names the noise of --mask-embedding mean
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = ranges::seed)]
    seed: u64,
    /// A LoRA adapter to merge, a folder as PEFT writes it: W + alpha / r · B · A
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Merge the adapter although it was trained beside other weights than those of IN
    #[arg(long, requires = "adapter")]
    any_base: bool,
    /// Replace the checkpoint at OUT
    #[arg(long)]
    force: bool,
    /// No progress, no report
    #[arg(long, short)]
    quiet: bool,
}

/// The folder that a file or a folder stands in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn dtype(text: &str) -> Result<StorageDtype, String> {
    let known = || StorageDtype::ALL.into_iter().filter(|d| d.is_packable() || !d.is_quantized());
    let found = StorageDtype::from_name(text).filter(|dtype| known().any(|other| other == *dtype));
    found.ok_or_else(|| {
        let names: Vec<_> = known().map(StorageDtype::name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let named = |end: &str| args.to.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    let format = match args.format.as_deref() {
        Some("gguf") => Format::Gguf,
        None if named("gguf") => Format::Gguf,
        _ => Format::Safetensors,
    };
    match (format, args.dtype) {
        (Format::Safetensors, Some(dtype)) if dtype.is_quantized() => {
            let reason = format!(
                "safetensors hold no {dtype}: name a .gguf file as OUT, or use --dtype bf16 or f16"
            );
            return Err(Usage(reason).into());
        }
        (Format::Gguf, Some(StorageDtype::F64)) => {
            return Err(Usage("GGUF files are not written in f64; use --dtype f32".into()).into());
        }
        _ => {}
    }
    let options = ConvertOptions {
        format: Some(format),
        dtype: args.dtype,
        max_shard_bytes: args.max_shard_size.0,
        block_diffusion: args.to_mode.as_ref().map(|_| ToBlockDiffusion {
            mask_token: args.mask_token.clone(),
            block_size: args.block_size,
            mask_embedding: args.mask_embedding.as_deref().map(|start| match start {
                "mean" => MaskStart::Mean,
                _ => MaskStart::AsIs,
            }),
            fim_tokens: args.fim_tokens,
            seed: args.seed,
        }),
        adapter: args.adapter.clone(),
        any_base: args.any_base,
        force: args.force,
    };
    let from = lacuna::locate(&args.from, &downloads(shows_progress()))?;
    leave_nothing_in(folder_of(&args.to), false);
    let written = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let (shown_part, name) = (Arc::clone(&written), args.to.display().to_string());
    let progress = Progress::watching(move || {
        let (done, total) = (shown_part.0.load(Relaxed), shown_part.1.load(Relaxed));
        match total {
            0 => At { what: format!("reading for {name}"), part: None },
            _ => At {
                what: format!("writing {name}, {} of {}", shown(done), shown(total)),
                part: Some((done, total)),
            },
        }
    });
    let converted = lacuna::convert(&from, &args.to, &options, &|done, total| {
        written.0.store(done, Relaxed);
        written.1.store(total, Relaxed);
    });
    drop(progress);
    let converted = converted?;
    tell_renamed(&converted.renamed);
    if args.quiet {
        return Ok(());
    }
    let mode = match converted.config.mode {
        Mode::Autoregressive => "autoregressive".to_owned(),
        Mode::BlockDiffusion { block_size, mask_token_id } => {
            let mask = mask_token_id.map_or("not named".to_owned(), |id| format!("id {id}"));
            let attention = match converted.config.attention {
                Attention::BlockCausal => String::new(),
                other => format!(", {other} attention"),
            };
            format!("block diffusion, blocks of {block_size}{attention}, MASK is {mask}")
        }
    };
    out!("{}: {} of weights, {mode}", converted.path.display(), shown(converted.bytes));
    for (dtype, names) in &converted.fallbacks {
        let wanted = args.dtype.map_or("as stored", StorageDtype::name);
        let (count, first) = (names.len(), &names[0]);
        out!(
            "{count} of the matrices are {dtype} and not {wanted}: their rows are no whole number of its \
             blocks ({first} …)"
        );
    }
    Ok(())
}
