//! What the engine's fuel does not see: lists joined with `+`, and values that are small but stand for endless
//! text because they hold themselves, or others again and again.
//!
//! Every instruction that makes such a value, or walks through one, is replaced by a filter that pays first for
//! all that the value holds, as often as it is held, and refuses deep nesting, which would take the stack.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::{CompiledTemplate, Instruction};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// The deepest nesting of lists and maps.
const DEEPEST: usize = 128;
/// The engine's number of a filter or test that is looked up every time.
const NOT_CACHED: u8 = !0;

const ADD: &str = "__lacuna_add";
const CONCAT: &str = "__lacuna_concat";
const LIST: &str = "__lacuna_list";
const TUPLE: &str = "__lacuna_tuple";
const MAP: &str = "__lacuna_map";
const EQUAL: &str = "__lacuna_equal";
const UNEQUAL: &str = "__lacuna_unequal";
const GREATER: &str = "__lacuna_greater";
const AT_LEAST: &str = "__lacuna_at_least";
const LESS: &str = "__lacuna_less";
const AT_MOST: &str = "__lacuna_at_most";
const IN: &str = "__lacuna_in";

/// Filters that take no more than a look at a value; conversations are long, and these are asked for every turn.
const LOOKS_AT_ONE: [&str; 6] = ["length", "count", "first", "last", "default", "d"];
/// Tests that do more than ask for a value's type.
const COMPARES: [&str; 18] = [
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
    "in",
    "startingwith",
    "endingwith",
];

/// The filters and tests of a template, by name, each with the name of its guarded form.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    filters: BTreeMap<String, String>,
    tests: BTreeMap<String, String>,
}

/// Puts the guarded forms of everything that the template uses into its environment.
pub(super) fn install(environment: &mut Environment<'static>, names: Names) -> Guarded {
    environment.add_filter(ADD, add);
    environment.add_filter(CONCAT, concat);
    environment
        .add_filter(LIST, |state: &State, items: Rest<Value>| paid(state, Value::from(items.0)));
    environment.add_filter(TUPLE, |state: &State, items: Rest<Value>| {
        paid(state, Value::from(Tuple::from(items.0)))
    });
    environment.add_filter(MAP, map);
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
    environment.add_filter(IN, |state: &State, a: Value, b: Value| engine("a in b", state, a, b));
    let functions = [
        ("dict", Value::from_function(minijinja::functions::dict)),
        ("namespace", Value::from_function(minijinja::functions::namespace)),
    ];
    for (name, plain) in functions {
        let call = move |state: &mut State, args: Rest<Value>, named: Kwargs| {
            let args = paid_arguments(state, args, named)?;
            plain.call(state, &args)
        };
        environment.add_function(name, call);
    }
    environment.remove_global("debug");
    environment.set_formatter(|out, state, value| {
        pay_for(state, value)?;
        minijinja::escape_formatter(out, state, value)
    });
    environment.set_unknown_method_callback(|state, value, method, args| {
        pay_for(state, value)?;
        args.iter().try_for_each(|arg| pay_for(state, arg))?;
        if method == "format" {
            pay_for_format(state, value, args)?;
        }
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
    let mut guarded = Guarded::default();
    for name in names.filters {
        let own = format!("__guarded_{name}");
        guarded.filters.insert(name.clone(), own.clone());
        let call = move |state: &mut State, args: Rest<Value>, named: Kwargs| {
            let args = paid_arguments(state, args, named)?;
            if let ("format", Some((text, args))) = (&*name, args.split_first()) {
                pay_for_format(state, text, args)?;
            }
            let made = state.apply_filter(&name, &args)?;
            paid(state, made)
        };
        environment.add_filter(own, call);
    }
    for name in names.tests {
        let own = format!("__guarded_{name}");
        guarded.tests.insert(name.clone(), own.clone());
        let call = move |state: &mut State, args: Rest<Value>, named: Kwargs| {
            let args = paid_arguments(state, args, named)?;
            state.perform_test(&name, &args)
        };
        environment.add_test(own, call);
    }
    guarded
}

/// The filters and tests that a template uses and that walk through values.
pub(super) struct Names {
    filters: BTreeSet<String>,
    tests: BTreeSet<String>,
}

/// Whether it compares as in `a < b < c`, which has no guarded form, and assigns to namespaces, which can then hold
/// themselves.
pub(super) fn is_unguarded(template: &CompiledTemplate<'_>) -> bool {
    let chained = |i: &Instruction<'_>| matches!(i, Instruction::CompareAndPreserve(_));
    let assigned = |i: &Instruction<'_>| matches!(i, Instruction::SetAttr(_));
    instructions(template).any(chained) && instructions(template).any(assigned)
}

impl Names {
    pub(super) fn of(template: &CompiledTemplate<'_>) -> Self {
        let (mut filters, mut tests) = (BTreeSet::new(), BTreeSet::new());
        for instruction in instructions(template) {
            match instruction {
                Instruction::ApplyFilter(name, ..) if !LOOKS_AT_ONE.contains(name) => {
                    filters.insert((*name).to_owned());
                }
                Instruction::PerformTest(name, ..) if COMPARES.contains(name) => {
                    tests.insert((*name).to_owned());
                }
                _ => {}
            }
        }
        Self { filters, tests }
    }
}

fn instructions<'a, 's>(
    template: &'a CompiledTemplate<'s>,
) -> impl Iterator<Item = &'a Instruction<'s>> {
    let all = template.blocks.values().chain(std::iter::once(&template.instructions));
    all.flat_map(|instructions| (0..).map_while(|at| instructions.get(at)))
}

impl Guarded {
    /// Replaces what walks through values by its guarded form, one instruction by one.
    pub(super) fn rewrite<'s>(&'s self, template: &mut CompiledTemplate<'s>) {
        let blocks = template.blocks.values_mut();
        for instructions in blocks.chain(std::iter::once(&mut template.instructions)) {
            let mut at = 0;
            while let Some(instruction) = instructions.get_mut(at) {
                if let Some(guarded) = self.guarded(instruction) {
                    *instruction = guarded;
                }
                at += 1;
            }
        }
    }

    fn guarded<'s>(&'s self, instruction: &Instruction<'s>) -> Option<Instruction<'s>> {
        let filter = |name, count| Some(Instruction::ApplyFilter(name, count, NOT_CACHED));
        let arguments = |n: usize| u16::try_from(n).ok();
        match instruction {
            Instruction::Add => filter(ADD, Some(2)),
            Instruction::StringConcat => filter(CONCAT, Some(2)),
            Instruction::Eq => filter(EQUAL, Some(2)),
            Instruction::Ne => filter(UNEQUAL, Some(2)),
            Instruction::Gt => filter(GREATER, Some(2)),
            Instruction::Gte => filter(AT_LEAST, Some(2)),
            Instruction::Lt => filter(LESS, Some(2)),
            Instruction::Lte => filter(AT_MOST, Some(2)),
            Instruction::In => filter(IN, Some(2)),
            // Longer literals stand in the source as they are; what holds them pays.
            Instruction::BuildList(None) => filter(LIST, None),
            Instruction::BuildList(Some(n)) => filter(LIST, Some(arguments(*n)?)),
            Instruction::BuildTuple(None) => filter(TUPLE, None),
            Instruction::BuildTuple(Some(n)) => filter(TUPLE, Some(arguments(*n)?)),
            Instruction::BuildMap(n) => filter(MAP, Some(arguments(n.checked_mul(2)?)?)),
            Instruction::ApplyFilter(name, count, _) => filter(self.filters.get(*name)?, *count),
            Instruction::PerformTest(name, count, _) => {
                Some(Instruction::PerformTest(self.tests.get(*name)?, *count, NOT_CACHED))
            }
            _ => None,
        }
    }
}

/// Charges for everything in a value, as often as it is held, and refuses what is nested too deeply.
pub(super) fn pay_for(state: &State, value: &Value) -> Result<(), Error> {
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
fn pay_for_format(state: &State, format: &Value, args: &[Value]) -> Result<(), Error> {
    let Some(text) = format.as_str() else { return Ok(()) };
    let places = text.bytes().filter(|byte| matches!(byte, b'{' | b'%')).count() as u64;
    let longest = args.iter().map(|arg| arg.to_string().len()).max().unwrap_or(0) as u64;
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX));
    let bytes = widths.fold(places.saturating_mul(longest), u64::saturating_add);
    state.consume_fuel(bytes.saturating_add(text.len() as u64) / 64)
}

/// Positional arguments, and named ones behind them as the engine passes them on.
fn paid_arguments(state: &State, args: Rest<Value>, named: Kwargs) -> Result<Vec<Value>, Error> {
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

fn paid(state: &State, value: Value) -> Result<Value, Error> {
    pay_for(state, &value).map(|()| value)
}

fn both(state: &State, a: &Value, b: &Value) -> Result<(), Error> {
    pay_for(state, a)?;
    pay_for(state, b)
}

/// What the engine makes of an expression in `a` and `b`.
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
    let length = |value: &Value| value.as_str().map_or(0, str::len) as u64;
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

/// `{key: value, …}`.
fn map(state: &State, pairs: Rest<Value>) -> Result<Value, Error> {
    pairs.iter().try_for_each(|value| pay_for(state, value))?;
    let pair = |pair: &[Value]| (pair[0].clone(), pair[1].clone());
    paid(state, Value::from_pairs(pairs.chunks_exact(2).map(pair)))
}
