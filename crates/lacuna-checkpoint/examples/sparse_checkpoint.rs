//! Writes a checkpoint with the names, shapes and dtype of Stable-DiffCoder-8B, sharded, that takes megabytes of
//! disk: weights are holes in the files, read as zeros, but for the beginning of each tensor.
//!
//! `cargo run --release -p lacuna-checkpoint --example sparse_checkpoint -- DIR`, then
//! `lacuna inspect DIR`, `lacuna logits --model DIR --ids 1,2,3,4 --mask full --out logits.safetensors`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use lacuna_checkpoint::{Config, Mode, StorageDtype};

/// The bytes of a tensor that are written: half a row of bf16.
const WRITTEN_BYTES: usize = 4096;
const SHARD_BYTES: u64 = 5_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: sparse_checkpoint DIR")?;
    let bytes = write(&dir)?;
    println!(
        "{}: {:.1} GB of weights, nearly all of them holes",
        dir.display(),
        bytes as f64 / 1e9
    );
    Ok(())
}

/// The configuration of the released model.
pub(crate) fn config() -> Config {
    Config {
        vocab_size: 155_136,
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        max_position_embeddings: 8192,
        rope_theta: 500_000.0,
        rms_norm_eps: 1e-6,
        mode: Mode::BlockDiffusion {
            block_size: const { std::num::NonZeroUsize::new(4).expect("not zero") },
            mask_token_id: Some(5),
        },
        dtype: Some(StorageDtype::BF16),
        ..Config::default()
    }
}

/// Writes the checkpoint; returns the bytes of its tensors.
pub(crate) fn write(dir: &Path) -> Result<u64, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let config = config();
    let mut shards: Vec<Vec<(String, Vec<usize>)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    let mut tensors: Vec<_> = config.expected_tensors().collect();
    tensors.sort();
    for (name, shape) in tensors {
        let bytes = 2 * shape.iter().product::<usize>() as u64;
        if filled > 0 && filled + bytes > SHARD_BYTES {
            shards.push(Vec::new());
            filled = 0;
        }
        (filled, total) = (filled + bytes, total + bytes);
        shards.last_mut().ok_or("starts with one")?.push((name, shape));
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", number + 1);
        weight_map.extend(shard.iter().map(|(tensor, _)| (tensor.clone(), name.clone())));
        write_shard(&dir.join(name), shard)?;
    }
    let index =
        serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string())?;
    std::fs::write(dir.join("config.json"), config.to_json())?;
    Ok(total)
}

fn write_shard(path: &Path, tensors: &[(String, Vec<usize>)]) -> Result<(), Box<dyn Error>> {
    let mut header = serde_json::Map::new();
    let mut starts = Vec::new();
    let mut end = 0;
    for (name, shape) in tensors {
        starts.push(end);
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let data = 8 + header.len();
    for (seed, ((name, shape), start)) in tensors.iter().zip(starts).enumerate() {
        let norm = name.ends_with("norm.weight");
        let values = shape.iter().product::<usize>();
        let written = if norm { values } else { values.min(WRITTEN_BYTES / 2) };
        let value = |i: usize| if norm { 1.0 } else { noise(seed, i) };
        let bytes: Vec<u8> =
            (0..written).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect();
        write_at(&mut file, (data + start) as u64, &bytes)?;
    }
    // The rest of the file is a hole.
    file.set_len((data + end) as u64)?;
    Ok(())
}

fn write_at(file: &mut File, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    std::io::Seek::seek(file, std::io::SeekFrom::Start(at))?;
    file.write_all(bytes)
}

/// Numbers in (−0.05, 0.05) that follow from their place.
fn noise(seed: usize, i: usize) -> f32 {
    let mixed = ((seed << 20 ^ i) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
}
