//! Opens a card with the kernels that were built into the program, and says what is known of it.

use crate::card::Card;
use crate::error::{Error, Result};
use crate::launch::Machine;

/// The kernels for every architecture, as `cargo xtask cuda build` compiles them; empty in other builds.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// A card that runs plans.
pub struct Opened {
    /// The card itself.
    pub machine: Box<dyn Machine>,
    /// The kernels that serve it best.
    pub card: Card,
    /// Its name, as the driver tells it.
    pub name: String,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { card, name, machine: _ } = self;
        f.debug_struct("Opened").field("card", card).field("name", name).finish_non_exhaustive()
    }
}

/// True if this build can run plans on a card: the driver is called, and kernels are in it.
pub fn has_kernels() -> bool {
    cfg!(feature = "cuda") && !KERNELS.is_empty()
}

/// Opens a card with the kernels of this build.
///
/// # Errors
/// [`Error::NoCard`] if there is no such card, no driver, or no kernel in this build.
pub fn open(ordinal: usize) -> Result<Opened> {
    if KERNELS.is_empty() {
        let why = "this build has no kernels in it: `cargo xtask cuda build` makes one that has";
        return Err(Error::NoCard(why.into()));
    }
    open_with(ordinal)
}

/// The name of a card.
///
/// # Errors
/// [`Error::NoCard`] if there is no such card or no driver.
pub fn card_name(ordinal: usize) -> Result<String> {
    name_of(ordinal)
}

#[cfg(feature = "cuda")]
fn open_with(ordinal: usize) -> Result<Opened> {
    let driver = crate::driver::Driver::new(ordinal, vec![KERNELS.to_vec()])?;
    let (card, name) = (driver.card()?, driver.name()?);
    Ok(Opened { machine: Box::new(driver), card, name })
}

#[cfg(feature = "cuda")]
fn name_of(ordinal: usize) -> Result<String> {
    crate::driver::Driver::new(ordinal, Vec::new())?.name()
}

#[cfg(not(feature = "cuda"))]
fn open_with(_: usize) -> Result<Opened> {
    Err(without_driver())
}

#[cfg(not(feature = "cuda"))]
fn name_of(_: usize) -> Result<String> {
    Err(without_driver())
}

#[cfg(not(feature = "cuda"))]
fn without_driver() -> Error {
    let why = "this program was built without the feature `kernels`: `cargo xtask cuda build` makes one that has it";
    Error::NoCard(why.into())
}

/// Operations a second that a card's tensor cores reach on bf16 by its maker's word, dense, by its name; none for a card
/// that is not in the list.
pub fn peak_operations(name: &str) -> Option<f64> {
    // A name that holds another's stands before it.
    const CARDS: &[(&str, f64)] = &[
        ("H200", 989e12),
        ("H100 PCIe", 756e12),
        ("H100", 989e12),
        ("A100", 312e12),
        ("L40S", 362e12),
        ("L4", 121e12),
        ("A10", 125e12),
        ("RTX 4090", 165e12),
        ("RTX 3090", 71e12),
    ];
    // A model's name is a word or two of the card's; `L4` is none of `L40`.
    let words: Vec<&str> = name.split([' ', '-']).collect();
    let holds = |model: &str| {
        let model: Vec<&str> = model.split(' ').collect();
        words.windows(model.len()).any(|window| window == model)
    };
    CARDS.iter().find(|(model, _)| holds(model)).map(|(_, peak)| *peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_whole_words_of_their_names() {
        assert_eq!(peak_operations("NVIDIA H100 80GB HBM3"), Some(989e12));
        assert_eq!(peak_operations("NVIDIA H100 PCIe"), Some(756e12));
        assert_eq!(peak_operations("NVIDIA A100-SXM4-80GB"), Some(312e12));
        assert_eq!(peak_operations("NVIDIA A10G"), None);
        assert_eq!(peak_operations("NVIDIA L40"), None);
    }

    #[test]
    fn a_build_without_kernels_says_what_would_have_them() {
        if !has_kernels() {
            let error = open(0).unwrap_err().to_string();
            assert!(error.starts_with("no card can be used: "), "{error}");
        }
    }
}
