//! Says which tokens a masked position sees.

use std::fmt;
use std::str::FromStr;

/// The tokens that a position of a diffusion model sees, in training and so in decoding and in scores.
///
/// An autoregressive model always reads causally, whatever this says.
///
/// ```
/// use lacuna_checkpoint::Attention;
/// assert_eq!("full".parse::<Attention>(), Ok(Attention::Full));
/// assert_eq!(Attention::default().name(), "block-causal");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attention {
    /// Its own block in both directions, and the finished blocks before it, as in the released models; the default.
    #[default]
    BlockCausal,
    /// The whole text in both directions: prompt and everything that is to be written, which are one block (BiDLLM).
    Full,
    /// Itself and what stands before it, masked or not (ARDLLM).
    Causal,
}

impl Attention {
    /// Every kind of attention.
    pub const ALL: [Self; 3] = [Self::BlockCausal, Self::Full, Self::Causal];

    /// Its name in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlockCausal => "block-causal",
            Self::Full => "full",
            Self::Causal => "causal",
        }
    }

    /// The attention of a name, if one has it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attention| attention.name() == name)
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Attention {
    type Err = String;

    /// Reads a name.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_name(name)
            .ok_or_else(|| format!("expected {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// The key of `config.json` that names the attention, where it is not block-causal. `attention` alone is not taken,
/// because configurations of others may mean something else by it.
pub(crate) const ATTENTION: &str = "diffusion_attention";
