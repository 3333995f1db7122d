//! Opens the models of the fixtures, and reads their records, for the other modules.

use lacuna_engine::{Model, OpenOptions};
use serde_json::Value;

/// A tiny model of the fixtures.
pub(crate) fn tiny(name: &str) -> Model {
    let folder = lacuna_test::golden().join("models").join(name);
    Model::open(&folder, &OpenOptions::default()).unwrap()
}

/// The ids in a JSON list.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}
