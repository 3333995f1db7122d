//! `lacuna inspect` says what a checkpoint, a run or a folder of shards is.

use anyhow::Result;
use lacuna::checkpoint::{Format, Mode, StorageDtype, Weights, Workload};
use lacuna::text::FimFormat;
use lacuna::{CachePrecision, Error, MemoryLimit};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

use super::model_args::{cache_precision, kept_dtype, memory_limit};
use super::progress::downloads;
use super::ranges;
use super::sizes::shown;

/// Say what a checkpoint is and what running it takes, without loading it.
///
/// The estimate is for the CPU: the weights, keys and values of a context, the largest pass, one over the
/// whole context, and the program with its tokenizer. Weights in their own format are mapped, so that several processes share them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna inspect runs/tiny/final
  lacuna inspect model.gguf --json
  lacuna inspect hf:owner/name --dtype q4_k --context 8192    does it fit here?
  lacuna inspect runs/tiny --verify                           is all as written?")]
pub(crate) struct Args {
    /// A folder in Hugging Face layout, a .gguf file, or hf:OWNER/NAME[@REVISION]
    #[arg(value_name = "M")]
    model: PathBuf,
    /// The context that memory is estimated for; default: 2048 tokens, or all that the model has
    #[arg(long, value_name = "TOKENS", allow_hyphen_values = true, value_parser = ranges::at_least_one)]
    context: Option<usize>,
    /// The format that weights would be kept in; default: as the file stores them
    #[arg(long, value_name = "DTYPE", value_parser = kept_dtype)]
    dtype: Option<StorageDtype>,
    /// The format that keys and values would be kept in: f32, bf16, q8_0
    #[arg(long, value_name = "FORMAT", default_value_t, value_parser = cache_precision)]
    cache_precision: CachePrecision,
    /// Memory to compare with: 8GB; default: what the machine has available
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = memory_limit)]
    memory: Option<MemoryLimit>,
    /// Read every file and compare it with the hashes that a checkpoint, a run's folder or shards carry; nothing else
    #[arg(long, conflicts_with_all = ["context", "dtype", "memory"])]
    verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = lacuna::locate(&args.model, &downloads(std::io::stderr().is_terminal()))?;
    if !model.exists() {
        let reason = "no such file or directory".into();
        return Err(Error::NotFound { path: model, reason }.into());
    }
    if args.verify {
        return super::verify::run(&model, args.json);
    }
    let weights = Weights::inspect(&model)?;
    let mut object = described(&weights);
    let most = weights.config().max_position_embeddings;
    let context = args.context.unwrap_or(2048).min(most);
    let work = Workload { cache: args.cache_precision, ..Workload::decoding(context) };
    let memory = weights.memory(args.dtype, work);
    let available = args.memory.unwrap_or_default().bytes();
    object["memory"] = json!({
        "dtype": args.dtype.or(weights.report().dtype).map(StorageDtype::name),
        "context": context,
        "cache_precision": work.cache.name(),
        "weights": memory.weights,
        "cache": memory.cache,
        "activations": memory.activations,
        "program": memory.program,
        "total": memory.total(),
        "available": available,
        "fits": available.map(|available| memory.total() <= available),
    });
    if args.json {
        out!("{object}");
        return whole(weights);
    }
    let Value::Object(mut fields) = object else { unreachable!("built as an object") };
    fields.remove("memory");
    for (key, value) in fields {
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::String(text) => out!("{key:<18} {text}"),
            other => out!("{key:<18} {other}"),
        }
    }
    let kept = args.dtype.map_or("as stored".to_owned(), |dtype| format!("in {dtype}"));
    out!("\nmemory, weights {kept}, a context of {context} tokens:");
    out!("  weights          {}", shown(memory.weights));
    out!("  keys and values  {}", shown(memory.cache));
    out!("  activations      {} at most", shown(memory.activations));
    out!("  program          {}", shown(memory.program));
    let verdict = match available {
        None => String::new(),
        Some(have) if memory.total() <= have => format!(", of {} available", shown(have)),
        Some(have) => format!(": more than the {} available", shown(have)),
    };
    out!("  in all           {}{verdict}", shown(memory.total()));
    whole(weights)
}

/// A tensor that is missing or extra is described like the rest, and is an error all the same.
fn whole(weights: Weights) -> Result<()> {
    weights.complete()?;
    Ok(())
}

/// The form in which the checkpoint is asked to fill a hole: whose format, and its marks in the
/// order that they stand in.
fn hole_marks(weights: &Weights) -> Option<String> {
    let marks = FimFormat::all_marks();
    let ids = weights.token_ids(&marks);
    let known = |name: &str| ids[marks.iter().position(|mark| *mark == name)?];
    let format = FimFormat::find(known)?;
    Some(format!("{}: {}", format.name, format.order_in_words()))
}

/// The settings in the files.
fn described(weights: &Weights) -> Value {
    let (config, report) = (weights.config(), weights.report());
    let mut object = json!({
        "architecture": config.architecture(),
        "format": match report.format {
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
        },
        "files": report.files.len(),
        "mode": match config.mode {
            Mode::Autoregressive => "autoregressive",
            Mode::BlockDiffusion { .. } => "block-diffusion",
        },
        "parameters": report.parameters,
        "dtype": report.dtype.map(|d| d.name()),
        "bytes": report.bytes,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layers": config.num_layers,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_positions": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "tied_embeddings": config.tie_word_embeddings,
        "attention_bias": config.parts.attention_bias,
        "qk_norm": config.parts.qk_norm,
        "bos_token_id": config.bos_token_id,
        "eos_token_ids": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
        "ignored_ids": config.ignored_ids,
        "hole_marks": hole_marks(weights),
        "missing": report.missing,
        "extra": report.extra,
        "ignored": report.ignored.len(),
    });
    if report.bytes_by_dtype.len() > 1 {
        let bytes =
            report.bytes_by_dtype.iter().map(|(dtype, bytes)| (dtype.name().into(), json!(bytes)));
        object["bytes_by_dtype"] = Value::Object(bytes.collect());
    }
    if let Mode::BlockDiffusion { block_size, mask_token_id } = config.mode {
        object["block_size"] = json!(block_size.get());
        object["attention"] = json!(config.attention.name());
        object["mask_token_id"] = json!(mask_token_id.or_else(|| lacuna::usual_mask(weights)));
    }
    object
}
