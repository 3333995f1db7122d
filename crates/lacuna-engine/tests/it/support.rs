//! Opens the models of the fixtures, and reads their records, for the other modules.

use lacuna_engine::{Model, OpenOptions, StorageDtype};
use serde_json::Value;

/// A tiny model of the fixtures.
pub(crate) fn tiny(name: &str) -> Model {
    tiny_in(name, None)
}

/// The same with its weights kept in a format.
pub(crate) fn tiny_in(name: &str, dtype: Option<StorageDtype>) -> Model {
    let folder = lacuna_test::golden().join("models").join(name);
    Model::open(&folder, &OpenOptions { dtype, ..OpenOptions::default() }).unwrap()
}

/// The ids in a JSON list.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}
