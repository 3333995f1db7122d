//! Finds the family and the mode of a checkpoint from the names in its `config.json` and around it.

use std::num::NonZeroUsize;
use std::path::Path;

use serde_json::Value;

use super::Mode;
use super::fields::Fields;
use crate::directory::token_ids_in;
use crate::error::Result;
use crate::families::{
    ARCHITECTURES, Architecture, DIFFCODER, Family, LLAMA, RELEASED_MASK, RELEASED_MASK_ID,
    is_diffcoder, refusal, refusal_by_name,
};

/// The surroundings of a `config.json`, which say what it does not.
#[derive(Default)]
pub(super) struct Beside<'a> {
    /// The names that the checkpoint goes by.
    pub(super) names: Vec<String>,
    /// The folder of its tokenizer.
    pub(super) dir: Option<&'a Path>,
}

impl Beside<'_> {
    /// The id of a token by its text.
    fn token_id(&self, name: &str) -> Option<u32> {
        token_ids_in(self.dir?, &[name])[0]
    }
}

/// The kind of model that the names in a configuration announce.
pub(super) struct Announced {
    /// The architecture whose layers it has, and whose defaults hold.
    pub(super) layers: &'static Architecture,
    pub(super) family: Option<Family>,
    /// True if it goes by the name of the released block-diffusion model.
    pub(super) released: bool,
}

pub(super) fn announced(
    fields: &mut Fields,
    called: &[String],
    beside: &Beside<'_>,
) -> Result<Announced> {
    let model_type = match fields.map.remove("model_type") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(fields.fault("model_type", other, "expected a string")),
    };
    let names = match fields.map.remove("architectures") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(names)) => names,
        Some(other) => return Err(fields.fault("architectures", other, "expected a list")),
    };
    // A name that is known for diffusion counts wherever it stands; the code's own names come last.
    let classes = fields.map.get("auto_map").and_then(Value::as_object).into_iter().flatten();
    let classes =
        classes.filter_map(|(_, name)| Some(name.as_str()?.rsplit('.').next()?.to_owned()));
    let listed =
        names.iter().filter_map(Value::as_str).map(|name| ("architectures", name.to_owned()));
    let listed = listed.chain(model_type.iter().map(|name| ("model_type", name.clone())));
    let said: Vec<_> = listed.chain(classes.map(|name| ("auto_map", name))).collect();
    let known = |name: &str| {
        let ours = |one: &Architecture| one.announced == name || one.model_type == name;
        is_diffcoder(name) || ARCHITECTURES.into_iter().any(ours)
    };
    for (field, name) in said.iter().filter(|(_, name)| !known(name)) {
        if let Some(reason) = refusal(name) {
            return Err(fields.fault(field, name, reason));
        }
    }
    let mut family = said.iter().find_map(|(_, name)| Family::named(name));
    let released = said.iter().any(|(_, name)| is_diffcoder(name));
    let (field, name) = match (names.first(), model_type) {
        (Some(name), _) => ("architectures", name.as_str().map_or(name.to_string(), str::to_owned)),
        (None, Some(model_type)) => ("model_type", model_type),
        (None, None) => ("model_type", LLAMA.model_type.to_owned()),
    };
    let name = if released { DIFFCODER.announced.to_owned() } else { name };
    let found = ARCHITECTURES.into_iter().find(|one| match field {
        "model_type" if !released => one.model_type == name,
        _ => one.announced == name,
    });
    let layers = match (family, found) {
        (Some(family), _) => family.table().layers,
        (None, Some(architecture)) => architecture,
        (None, None) => {
            let families = Family::all().map(|family| family.table().announced.0);
            let known: Vec<_> =
                ARCHITECTURES.into_iter().map(|one| one.announced).chain(families).collect();
            let reason = format!("not supported; known architectures: {}", known.join(", "));
            return Err(fields.fault(field, name, reason));
        }
    };
    let has_both = fields.has("block_size") && fields.has("mask_token_id");
    if !(released || has_both)
        && let Some(reason) = refusal_by_name(family, called)
    {
        return Err(fields.fault(field, name, reason));
    }
    if family.is_none() && !released {
        family = family_of_plain(fields, layers, called, beside);
    }
    // A library that knows the shape alone may have saved it again; then the folder's name is left, and the
    // tokenizer.
    let released = released
        || (layers.is_like(&LLAMA)
            && called.iter().any(|name| is_diffcoder(name))
            && beside.token_id(RELEASED_MASK) == Some(RELEASED_MASK_ID));
    Ok(Announced { layers, family, released })
}

/// The family of a checkpoint whose architecture is a plain one, from other things that give it away.
fn family_of_plain(
    fields: &Fields,
    layers: &Architecture,
    called: &[String],
    beside: &Beside<'_>,
) -> Option<Family> {
    // A field that no other family has says as much as a name.
    if let Some(family) = Family::with_field(layers, |field| fields.has(field)) {
        return Some(family);
    }
    let family = Family::called(called, layers)?.table();
    let is_it = family.layers.is_like(layers) && beside.token_id(family.mask.0).is_some();
    is_it.then_some(family.family)
}

/// The mode: block diffusion by name or by both of its fields, else autoregressive.
pub(super) fn mode(
    fields: &mut Fields,
    family: Option<Family>,
    released: bool,
    called: &[String],
    beside: &Beside<'_>,
) -> Result<Mode> {
    let carries_both = fields.has("block_size") && fields.has("mask_token_id");
    if !(family.is_some() || released || carries_both) {
        return Ok(Mode::Autoregressive);
    }
    let mut block_size = None;
    for field in family.map_or(&["block_size"][..], |family| family.table().block_fields) {
        block_size = block_size.or(fields.size(field)?);
    }
    let default = || family.map_or(4, |family| family.block_size(called));
    let Some(block_size) = NonZeroUsize::new(block_size.unwrap_or_else(default)) else {
        return Err(fields.fault("block_size", 0, "expected at least 1"));
    };
    let (name, id) =
        family.map_or((RELEASED_MASK, Some(RELEASED_MASK_ID)), |family| family.table().mask);
    let has_tokenizer = beside.dir.is_some_and(|dir| dir.join("tokenizer.json").exists());
    // Another model's tokenizer may stand beside one that goes by the released name; the released id is the one that
    // was trained.
    let id = id.filter(|id| (*id as usize) < fields.vocab_size && (released || !has_tokenizer));
    let named = fields.id("mask_token_id");
    let beyond = fields.ignored.iter().find_map(|note| note.strip_prefix("mask_token_id = "));
    // An id that no token has is not taken for the usual one.
    let id = id.filter(|_| beyond.is_none());
    let mask_token_id = named.or_else(|| match released {
        true => id,
        false => beside.token_id(name).or(id),
    });
    if mask_token_id.is_none()
        && let Some(beyond) = beyond
    {
        let rows = fields.vocab_size;
        return Err(fields.fault(
            "mask_token_id",
            beyond,
            format!("no such row: vocab_size is {rows}"),
        ));
    }
    Ok(Mode::BlockDiffusion { block_size, mask_token_id })
}
