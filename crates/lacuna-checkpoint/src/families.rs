//! Lists the families of models that are computed, with a table each; nothing else in the project knows a name of
//! theirs.
//!
//! An [`Architecture`] says what a dense model is called and which parts it has, a [`Diffusion`] what a
//! block-diffusion model adds to one. If two of them spell a tensor alike, the first one's table has the names.

use crate::parameters::{Field, Kind, Name, Parts};

mod a2d;
mod called;
mod fast_dllm;
mod llama;
mod qwen2;
mod qwen3;
mod refused;
mod seed_oss;

pub(crate) use called::{is_diffcoder, names_of};
pub(crate) use llama::{DIFFCODER, LLAMA, RELEASED_MASK, RELEASED_MASK_ID, ROPE_FACTORS};
pub(crate) use refused::{refusal, refusal_by_name};

/// A dense architecture, as files announce it.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The name in `architectures` of `config.json`.
    pub(crate) announced: &'static str,
    /// The name in `model_type`; two architectures of one model type have the same defaults.
    pub(crate) model_type: &'static str,
    /// The name in `general.architecture` of a GGUF file, if it has one of its own there.
    pub(crate) gguf: Option<&'static str>,
    /// The parts that a model has if its `config.json` is silent.
    pub(crate) implied: Parts,
    /// Tells whether a model with these parts is announced by this name, if by none of a later table.
    pub(crate) announces: fn(Parts) -> bool,
    /// True if a sliding window holds although nothing says that it is used.
    pub(crate) windowed: bool,
    /// True if GGUF files hold queries and keys for interleaved rotary pairs.
    pub(crate) interleaved: bool,
    /// The tensors that it has beyond those of the tables before it.
    pub(crate) tensors: &'static [Tensor],
    /// The flags that it has beyond those of the tables before it.
    pub(crate) flags: &'static [Flag],
}

/// The names of a tensor without their ends, `.weight` and `.bias`.
#[derive(Debug)]
pub(crate) struct Tensor(
    pub(crate) Field,
    /// Hugging Face's name; a layer's tensor has it behind `model.layers.N.`.
    pub(crate) &'static str,
    /// GGUF's name; a layer's tensor has it behind `blk.N.`.
    pub(crate) &'static str,
);

/// A flag of `config.json` that says whether layers have a part.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) key: &'static str,
    pub(crate) of: fn(&mut Parts) -> &mut bool,
    /// The tensor that is there in a GGUF file if layers have the part.
    pub(crate) shown_by: (Field, Kind),
    /// The value that a silent file means, by the parts that its architecture implies and the flags before this one.
    pub(crate) implied: fn(implied: Parts, so_far: Parts) -> bool,
    /// True if it is written although it is what the architecture implies.
    pub(crate) always_written: bool,
}

/// A family of block-diffusion models: what it adds to the architecture that its layers have.
#[derive(Debug)]
pub(crate) struct Diffusion {
    pub(crate) family: Family,
    /// The architecture and the model type in `config.json`.
    pub(crate) announced: (&'static str, &'static str),
    /// The architecture whose layers it has, and whose defaults hold.
    pub(crate) layers: &'static Architecture,
    /// Words of a folder's name that give it away, each list of them side by side.
    pub(crate) signs: &'static [&'static [&'static str]],
    /// True if other families have the same signs, so that the architecture must tell.
    pub(crate) shares_signs: bool,
    /// The fields of `config.json` that say how long a block is.
    pub(crate) block_fields: &'static [&'static str],
    /// The one of these fields that no other family has.
    pub(crate) own_field: Option<&'static str>,
    /// Tokens of a block if nothing says otherwise.
    pub(crate) block_size: usize,
    /// True if the end of a name, as `-b8`, says the block size: the family is published in several.
    pub(crate) named_block: bool,
    /// The text of MASK in its tokenizers, and MASK's id in the released files for when their tokenizer is missing.
    pub(crate) mask: (&'static str, Option<u32>),
    /// True if a tokenizer with that MASK belongs to no other model with these layers.
    pub(crate) known_by_mask: bool,
    /// True if logits predict the position after their own.
    pub(crate) shifted: bool,
}

/// Families of block-diffusion models that have a name of their own in `config.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Family {
    /// SDAR: the layers of Qwen3, blocks of 4 if nothing says otherwise.
    Sdar,
    /// Tiny-A2D with the layers of Llama, blocks of 32.
    A2dLlama,
    /// Tiny-A2D with the layers of Qwen2.5, blocks of 32.
    A2dQwen2,
    /// Tiny-A2D with the layers of Qwen3, blocks of 32.
    A2dQwen3,
    /// Fast-dLLM v2: the layers of Qwen2.5, blocks of 32, each token read off the position before it.
    FastDllm,
}

/// Every architecture. Of two that share a model type the first one's name is written.
pub(crate) const ARCHITECTURES: [&Architecture; 6] =
    [&LLAMA, &DIFFCODER, &llama::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3, &seed_oss::SEED_OSS];

const DIFFUSION: [&Diffusion; 5] =
    [&qwen3::SDAR, &a2d::LLAMA_A2D, &a2d::QWEN2_A2D, &a2d::QWEN3_A2D, &fast_dllm::FAST_DLLM];

impl Architecture {
    /// The architecture that announces an autoregressive model with these parts in `config.json`.
    pub(crate) fn announcing(parts: Parts) -> &'static Self {
        let last = ARCHITECTURES.into_iter().rev().find(|one| (one.announces)(parts));
        last.unwrap_or(&LLAMA)
    }

    /// The architectures that GGUF has a name for, with that name. A file holds the layers that its architecture
    /// implies.
    pub(crate) fn in_gguf() -> impl Iterator<Item = (&'static str, &'static Self)> {
        ARCHITECTURES.into_iter().filter_map(|one| Some((one.gguf?, one)))
    }

    /// Tells whether two have the same layers and defaults.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Family {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        DIFFUSION.into_iter().map(|table| table.family)
    }

    /// The table of what is known of it.
    pub(crate) fn table(self) -> &'static Diffusion {
        let table = DIFFUSION.into_iter().find(|table| table.family == self);
        table.expect("every family has a table")
    }

    /// The family that an architecture or a model type names.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let found = |table: &&Diffusion| name == table.announced.0 || name == table.announced.1;
        DIFFUSION.into_iter().find(found).map(|table| table.family)
    }

    /// The family with these layers that one of its own fields gives away.
    pub(crate) fn with_field(layers: &Architecture, has: impl Fn(&str) -> bool) -> Option<Self> {
        let mut alike = Self::with_layers_of(layers).into_iter();
        alike.find(|table| table.own_field.is_some_and(&has)).map(|table| table.family)
    }

    /// The families with these layers, those with signs of their own first.
    pub(crate) fn with_layers_of(architecture: &Architecture) -> Vec<&'static Diffusion> {
        let alike = DIFFUSION.into_iter().filter(|table| table.layers.is_like(architecture));
        let mut alike: Vec<_> = alike.collect();
        alike.sort_by_key(|table| table.shares_signs);
        alike
    }
}

/// Every flag, in the order in which they are read: one may depend on those before it.
pub(crate) fn flags() -> impl Iterator<Item = &'static Flag> {
    ARCHITECTURES.into_iter().flat_map(|one| one.flags)
}

/// The Hugging Face name of a tensor.
pub(crate) fn hugging_face_name(name: Name) -> String {
    HUGGING_FACE.spell(name)
}

/// The GGUF name of a tensor.
pub(crate) fn gguf_name(name: Name) -> String {
    GGUF.spell(name)
}

/// The tensor of a GGUF name, if it is one of a model.
pub(crate) fn of_gguf_name(name: &str) -> Option<Name> {
    GGUF.read(name)
}

/// The tensor of a Hugging Face name, if it is one of a model.
pub(crate) fn of_hugging_face_name(name: &str) -> Option<Name> {
    HUGGING_FACE.read(name)
}

/// The way in which one kind of file spells names: the text before a layer's number, and a tensor's own part.
struct Spelling {
    layer: &'static str,
    stem: fn(&Tensor) -> &'static str,
}

const HUGGING_FACE: Spelling = Spelling { layer: "model.layers.", stem: |tensor| tensor.1 };
const GGUF: Spelling = Spelling { layer: "blk.", stem: |tensor| tensor.2 };

impl Spelling {
    fn spell(&self, name: Name) -> String {
        let tensor = tensors().find(|tensor| tensor.0 == name.field);
        let stem = (self.stem)(tensor.expect("every field has its names in a table"));
        let kind = if name.is_bias() { "bias" } else { "weight" };
        match name.layer {
            Some(layer) => format!("{}{layer}.{stem}.{kind}", self.layer),
            None => format!("{stem}.{kind}"),
        }
    }

    fn read(&self, name: &str) -> Option<Name> {
        let (stem, kind) = name.rsplit_once('.')?;
        let kind = match kind {
            "weight" => Kind::Weight,
            "bias" => Kind::Bias,
            _ => return None,
        };
        let (layer, stem) = match stem.strip_prefix(self.layer) {
            None => (None, stem),
            Some(inner) => {
                let (layer, stem) = inner.split_once('.')?;
                // The number must be written back the same, so that two spellings of it never name one tensor.
                let layer = layer.parse::<usize>().ok().filter(|n| n.to_string() == layer)?;
                (Some(layer), stem)
            }
        };
        let tensor = tensors().find(|tensor| (self.stem)(tensor) == stem)?;
        let is_outer = matches!(tensor.0, Field::Embed | Field::Norm | Field::Head);
        let fits = layer.is_none() == is_outer && !(is_outer && kind == Kind::Bias);
        fits.then_some(Name { layer, field: tensor.0, kind })
    }
}

fn tensors() -> impl Iterator<Item = &'static Tensor> {
    ARCHITECTURES.into_iter().flat_map(|one| one.tensors)
}

#[cfg(test)]
mod tests;
