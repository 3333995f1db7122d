//! Replaces the operators that walk through values or make new ones, each by a filter that pays
//! first.

use minijinja::value::{Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::fuel::{both, paid, pay_for};

pub(super) const ADD: &str = "__lacuna_add";
pub(super) const CONCAT: &str = "__lacuna_concat";
pub(super) const LIST: &str = "__lacuna_list";
pub(super) const TUPLE: &str = "__lacuna_tuple";
pub(super) const MAP: &str = "__lacuna_map";
pub(super) const EQUAL: &str = "__lacuna_equal";
pub(super) const UNEQUAL: &str = "__lacuna_unequal";
pub(super) const GREATER: &str = "__lacuna_greater";
pub(super) const AT_LEAST: &str = "__lacuna_at_least";
pub(super) const LESS: &str = "__lacuna_less";
pub(super) const AT_MOST: &str = "__lacuna_at_most";
pub(super) const ITEM: &str = "__lacuna_item";
pub(super) const IN: &str = "__lacuna_in";

/// Puts the operators into an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter(ADD, add);
    environment.add_filter(CONCAT, concat);
    environment
        .add_filter(LIST, |state: &State, items: Rest<Value>| paid(state, Value::from(items.0)));
    environment.add_filter(TUPLE, |state: &State, items: Rest<Value>| {
        paid(state, Value::from(Tuple::from(items.0)))
    });
    environment.add_filter(MAP, build_map);
    environment.add_filter(ITEM, item);
    type Comparison = fn(&Value, &Value) -> bool;
    let comparisons: [(&str, Comparison); 6] = [
        (EQUAL, |a, b| a == b),
        (UNEQUAL, |a, b| a != b),
        (GREATER, |a, b| a > b),
        (AT_LEAST, |a, b| a >= b),
        (LESS, |a, b| a < b),
        (AT_MOST, |a, b| a <= b),
    ];
    for (name, compare) in comparisons {
        let compare =
            move |state: &State, a: Value, b: Value| both(state, &a, &b).map(|()| compare(&a, &b));
        environment.add_filter(name, compare);
    }
    environment.add_filter(IN, |state: &State, a: Value, b: Value| {
        state.consume_fuel((length(&a) + length(&b)) / 64)?;
        engine("a in b", state, a, b)
    });
}

/// Bytes of a text; 0 for what is none.
fn length(value: &Value) -> u64 {
    value.as_str().map_or(0, str::len) as u64
}

/// The value that the engine makes of an expression in `a` and `b`.
fn engine(expression: &str, state: &State, a: Value, b: Value) -> Result<Value, Error> {
    both(state, &a, &b)?;
    state.env().compile_expression(expression)?.eval(minijinja::context! { a, b })
}

/// `a + b`: lists are joined at once, as in Python; everything else is the engine's.
fn add(state: &State, a: Value, b: Value) -> Result<Value, Error> {
    let is_list = |value: &Value| {
        let tuple = value.downcast_object_ref::<Tuple>().is_some();
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) && !tuple
    };
    if is_list(&a) && is_list(&b) {
        let mut items = Vec::new();
        for item in a.try_iter()?.chain(b.try_iter()?) {
            state.consume_fuel(1)?;
            items.push(item);
        }
        return paid(state, Value::from(items));
    }
    state.consume_fuel((length(&a) + length(&b)) / 64)?;
    engine("a + b", state, a, b)
}

/// `a ~ b`.
fn concat(state: &State, a: Value, b: Value) -> Result<String, Error> {
    both(state, &a, &b)?;
    let text = format!("{a}{b}");
    state.consume_fuel(text.len() as u64 / 64)?;
    Ok(text)
}

/// `value[key]`. As the engine, which has no index into what is iterated over, this pays for the items before.
fn item(state: &State, value: &Value, key: &Value) -> Result<Value, Error> {
    pay_for(state, key)?;
    state.consume_fuel(length(key) / 64)?;
    if let (ValueKind::Iterable, Some(index)) = (value.kind(), key.as_i64()) {
        let all = value.len().map_or(u64::MAX, |all| all as u64);
        state.consume_fuel(index.unsigned_abs().min(all))?;
    }
    value.get_item(key)
}

/// `{key: value, …}`.
fn build_map(state: &State, pairs: Rest<Value>) -> Result<Value, Error> {
    pairs.iter().try_for_each(|value| pay_for(state, value))?;
    let pair = |pair: &[Value]| (pair[0].clone(), pair[1].clone());
    paid(state, Value::from_pairs(pairs.chunks_exact(2).map(pair)))
}
