use anyhow::Result;
use lacuna::Error;
use lacuna::model::{Mode, Weights};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Say what a checkpoint is, without loading it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna inspect runs/tiny/final
  lacuna inspect model.gguf --json")]
pub(crate) struct Args {
    /// A folder in Hugging Face layout or a .gguf file
    #[arg(value_name = "M")]
    model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.model.exists() {
        let reason = "no such file or directory".into();
        return Err(Error::NoModel { path: args.model.clone(), reason }.into());
    }
    let weights = Weights::open(&args.model)?;
    let (config, report) = (weights.config(), weights.report());
    let mut object = json!({
        "architecture": config.architecture(),
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
        "bos_token_id": config.bos_token_id,
        "eos_token_ids": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
        "missing": report.missing,
        "extra": report.extra,
    });
    if let Mode::BlockDiffusion { block_size, mask_token_id } = config.mode {
        object["block_size"] = json!(block_size.get());
        object["mask_token_id"] = json!(mask_token_id);
    }
    if args.json {
        out!("{object}");
        return Ok(());
    }
    let Value::Object(fields) = object else { unreachable!("built as an object") };
    for (key, value) in fields {
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::String(text) => out!("{key:<18} {text}"),
            other => out!("{key:<18} {other}"),
        }
    }
    Ok(())
}
