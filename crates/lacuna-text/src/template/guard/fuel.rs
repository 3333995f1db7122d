//! Counts the fuel that the engine's own does not see: values that are small but stand for endless
//! text, because they hold themselves, or others again and again. Whoever walks through a value
//! pays first for all that it holds, as often as it is held, and deep nesting, which would take the
//! stack, is refused.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The deepest nesting of lists and maps.
const DEEPEST: usize = 128;

/// Charges for everything in a value, as often as it is held, and refuses what is nested too deeply.
pub(in crate::template) fn pay_for(state: &State, value: &Value) -> Result<(), Error> {
    let is_plain = |value: &Value| {
        !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
    };
    if is_plain(value) {
        return Ok(());
    }
    let mut pending = vec![(value.clone(), 0)];
    while let Some((value, depth)) = pending.pop() {
        state.consume_fuel(1 + value.as_str().map_or(0, str::len) as u64 / 64)?;
        if depth > DEEPEST {
            let message = format!("values are nested deeper than {DEEPEST}");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        if is_plain(&value) {
            continue;
        }
        for item in value.try_iter()? {
            state.consume_fuel(1)?;
            if value.kind() == ValueKind::Map {
                pending.push((value.get_item(&item)?, depth + 1));
            }
            pending.push((item, depth + 1));
        }
    }
    Ok(())
}

/// Charges for what filling in a format string could make, before it is made: every place takes the longest argument,
/// and every number in it may be a width.
pub(super) fn pay_for_format(state: &State, format: &Value, args: &[Value]) -> Result<(), Error> {
    let Some(text) = format.as_str() else { return Ok(()) };
    let places = text.bytes().filter(|byte| matches!(byte, b'{' | b'%')).count() as u64;
    let longest = args.iter().map(|arg| arg.to_string().len()).max().unwrap_or(0) as u64;
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX));
    let bytes = widths.fold(places.saturating_mul(longest), u64::saturating_add);
    state.consume_fuel(bytes.saturating_add(text.len() as u64) / 64)
}

/// Positional arguments, and named ones behind them as the engine passes them on.
pub(super) fn paid_arguments(
    state: &State,
    args: Rest<Value>,
    named: Kwargs,
) -> Result<Vec<Value>, Error> {
    let mut all = args.0;
    if named.args().next().is_some() {
        for name in named.args() {
            pay_for(state, &named.peek::<Value>(name)?)?;
        }
        all.push(Value::from(named));
    }
    all.iter().filter(|arg| !arg.is_kwargs()).try_for_each(|arg| pay_for(state, arg))?;
    Ok(all)
}

pub(super) fn paid(state: &State, value: Value) -> Result<Value, Error> {
    pay_for(state, &value).map(|()| value)
}

pub(super) fn both(state: &State, a: &Value, b: &Value) -> Result<(), Error> {
    pay_for(state, a)?;
    pay_for(state, b)
}
