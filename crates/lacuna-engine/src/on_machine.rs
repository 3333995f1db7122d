//! Opens a checkpoint for decoding on a machine that runs planned launches: a card, or its emulation.

use candle_core::{DType, Device};
use lacuna_checkpoint::{Attention, CachePrecision, Parameters, StorageDtype, Weights};
use lacuna_device::{Card, Decoding, DecodingCounts, DecodingOptions, Machine};
use lacuna_model::Transformer;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::advice::{Advice, Knob};
use crate::error::{Result, unsupported};
use crate::memory::MemoryLimit;
use crate::open::{Model, OpenOptions};
use crate::session::{Passes, SharedDecoding};

/// The machine that a model decodes on.
pub struct OnMachine {
    /// A card, or its emulation.
    pub machine: Box<dyn Machine>,
    /// The kernels that are used.
    pub card: Card,
    /// Tokens whose keys and values there is room for, of all texts together; default: as many as fit beside the
    /// weights.
    pub cache_tokens: Option<usize>,
}

impl std::fmt::Debug for OnMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { machine: _, card, cache_tokens } = self;
        f.debug_struct("OnMachine")
            .field("card", card)
            .field("cache_tokens", cache_tokens)
            .finish_non_exhaustive()
    }
}

/// Rows of a text that see one another where it is not all of it: a draft of eight blocks of 32 tokens with its masks, and
/// what is queued.
const ROWS: usize = 18 * 32;
/// Rows of such a text whose logits are wanted.
const WANTED: usize = 8 * 32;

impl Model {
    /// [`open`](Self::open) for decoding on a machine: weights are copied to it, keys and values stay there, and tokens are
    /// drawn there. Of `options.memory` only a number of bytes counts, of the machine's memory; `options.device` is not
    /// looked at.
    ///
    /// Matrices are kept as the file stores them, or as `options.dtype` says, where the machine has kernels for the format;
    /// as bf16 otherwise, which a note tells.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if there are no kernels for the model or the machine has no room for it.
    pub fn open_on(path: &Path, options: &OpenOptions, on: OnMachine) -> Result<Self> {
        Self::exists(path)?;
        if options.cache == CachePrecision::Q8_0 {
            return Err(unsupported(format!(
                "{} {}: a card keeps keys and values in bf16; leave it out",
                Knob::CachePrecision,
                options.cache
            )));
        }
        let weights = Weights::open(path)?;
        let shapes = weights.config().shapes();
        let stored = |name: &str| weights.dtype(name).unwrap_or(StorageDtype::BF16);
        let wanted: Parameters<StorageDtype> = shapes.map(|name, _| {
            let name = name.to_string();
            let asked = options.dtype.and_then(|dtype| weights.kept_in(&name, dtype));
            asked.unwrap_or_else(|| stored(&name))
        });
        let both = shapes.zip(&wanted).expect("both are of one configuration");
        let formats = both
            .map(|_, (shape, wanted)| lacuna_device::Weights::kept_in(**wanted, shape.as_slice()));
        let note = changed(&formats, &wanted);
        let config = weights.config();
        let positions = config.max_position_embeddings;
        let (rows, logits) = match config.attention {
            // All of a canvas is read in every pass, and all of it may be masked.
            Attention::Full => {
                let longest = options.work.map_or(2048, |work| work.context).min(positions);
                (longest, longest)
            }
            _ => (ROWS, WANTED),
        };
        let decoding = DecodingOptions {
            card: on.card,
            positions,
            rows,
            wanted: logits,
            cache_tokens: on.cache_tokens,
            memory_max: match options.memory {
                MemoryLimit::Bytes(bytes) => Some(bytes),
                MemoryLimit::Available | MemoryLimit::Unlimited => None,
            },
        };
        let mut decoding = Decoding::new(on.machine, config, &formats, decoding)?;
        let places = decoding.weights().parameters().clone();
        for (name, place) in places.iter() {
            let name = name.to_string();
            // One at a time: there is never a second model in memory.
            let bytes = match place.dtype {
                StorageDtype::F32 => {
                    let numbers = weights.tensor(&name, DType::F32, &Device::Cpu)?;
                    let numbers: Vec<f32> = numbers.flatten_all()?.to_vec1()?;
                    numbers.iter().flat_map(|x| x.to_ne_bytes()).collect()
                }
                // As the file has it, also where another would be chosen for a matrix that makes logits.
                dtype if dtype == stored(&name) => weights.matrix(&name)?.as_bytes().to_vec(),
                dtype => weights.matrix_in(&name, dtype)?.as_bytes().to_vec(),
            };
            decoding.write(*place, bytes)?;
        }
        // Its weights stay where they are: of this model only what is said of them is asked.
        let transformer = Transformer::mapped(&weights)?;
        let mut model = Self::assembled(path, &weights, transformer, note)?;
        model.decoding = Some(SharedDecoding::new(decoding));
        Ok(model)
    }

    /// The place where its passes are computed.
    pub(crate) fn passes(&self) -> Passes {
        match &self.decoding {
            Some(decoding) => Passes::Machine(decoding.clone()),
            None => Passes::Tensors(Arc::clone(&self.transformer)),
        }
    }

    /// True if its passes are computed on a machine by planned launches ([`open_on`](Self::open_on)). Its
    /// [`transformer`](Self::transformer) has the same weights then, on the CPU.
    pub fn is_on_machine(&self) -> bool {
        self.decoding.is_some()
    }

    /// Plans, passes and bytes read back so far on the machine that the model is on, by all its sessions.
    pub fn machine_counts(&self) -> Option<DecodingCounts> {
        self.decoding.as_ref().map(|decoding| decoding.lock().counts())
    }

    /// The tokens whose keys and values the machine has room for, if the model is on one.
    pub fn machine_tokens(&self) -> Option<usize> {
        self.decoding.as_ref().map(|decoding| decoding.lock().cache_tokens())
    }

    /// The name of the format that keys and values are kept in.
    pub fn cache_precision_name(&self) -> &'static str {
        match &self.decoding {
            Some(_) => StorageDtype::BF16.name(),
            None => self.transformer.cache_precision().name(),
        }
    }

    /// Bytes that a token's keys and values take where its passes are computed.
    pub fn cache_bytes_per_token(&self) -> u64 {
        match &self.decoding {
            Some(decoding) => decoding.lock().weights().cache_bytes_per_token(),
            None => self.transformer.cache_bytes_per_token(),
        }
    }

    /// Bytes that the keys and values of texts under way may take together: on a machine what it has room for, unless less
    /// is asked for.
    pub(crate) fn memory_for_caches(&self, limit: MemoryLimit) -> Option<u64> {
        let Some(tokens) = self.machine_tokens() else { return limit.bytes() };
        let room = self.cache_bytes_per_token().saturating_mul(tokens as u64);
        Some(match limit {
            MemoryLimit::Bytes(bytes) => bytes.min(room),
            MemoryLimit::Available | MemoryLimit::Unlimited => room,
        })
    }
}

/// The note about matrices that are kept in another format than they were to be.
fn changed(
    formats: &Parameters<StorageDtype>,
    wanted: &Parameters<StorageDtype>,
) -> Option<Advice> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, (kept, wanted)) in formats.zip(wanted)?.iter() {
        // A file of f32 that is kept in bf16 is what one expects of a card.
        let is_float = matches!(wanted, StorageDtype::F32 | StorageDtype::F16);
        if kept != wanted && !is_float && !name.is_norm() && !name.is_bias() {
            *counts.entry(wanted.name()).or_default() += 1;
        }
    }
    if counts.is_empty() {
        return None;
    }
    let told: Vec<String> =
        counts.iter().map(|(name, count)| format!("{count} in {name}")).collect();
    Some(
        format!(
            "of the matrices {} are kept in bf16: the card has no kernels for that format, or for rows of such a \
             length",
            told.join(", ")
        )
        .into(),
    )
}
