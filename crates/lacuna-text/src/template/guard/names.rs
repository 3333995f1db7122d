//! Lists the filters, tests, functions and methods that a template may call. What is in no list
//! here does not exist for a template, whatever the engine has.

use std::borrow::Cow;
use std::collections::BTreeSet;

use minijinja::machinery::Instruction;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::fuel::{paid, paid_arguments, pay_for, pay_for_format};

/// The depth to which a filter or test looks into the values that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// At the value itself: conversations are long, and these are asked for every turn.
    Shallow,
    /// Through it; the guarded form of this name pays first.
    Deep(&'static str),
}

/// Names, each with that of its guarded form.
macro_rules! guarded {
    ($($name:literal)*) => {
        &[$(($name, concat!("__guarded_", $name))),*]
    };
}

const SHALLOW_FILTERS: &[&str] = &["length", "count", "first", "last", "default", "d"];
const DEEP_FILTERS: &[(&str, &str)] = guarded!(
    "safe" "escape" "e" "lower" "upper" "title" "capitalize" "replace" "dictsort" "items" "reverse"
    "trim" "join" "split" "lines" "round" "abs" "int" "float" "attr" "min" "max" "sort" "list"
    "string" "bool" "batch" "slice" "sum" "indent" "select" "reject" "selectattr" "rejectattr"
    "map" "groupby" "unique" "chain" "zip" "pprint" "format" "tojson"
);
const SHALLOW_TESTS: &[&str] = &[
    "undefined",
    "defined",
    "none",
    "safe",
    "escaped",
    "boolean",
    "odd",
    "even",
    "divisibleby",
    "number",
    "integer",
    "int",
    "float",
    "string",
    "sequence",
    "iterable",
    "mapping",
    "lower",
    "upper",
    "sameas",
    "true",
    "false",
    "filter",
    "test",
];
const DEEP_TESTS: &[(&str, &str)] = guarded!(
    "startingwith" "endingwith" "eq" "equalto" "==" "ne" "!=" "lt" "lessthan" "<" "le" "<=" "gt"
    "greaterthan" ">" "ge" ">=" "in"
);
const FUNCTIONS: &[&str] = &["range", "dict", "namespace", "raise_exception", "strftime_now"];
/// The loop's own methods, which the engine calls before it asks for Python's.
const LOOP_METHODS: &[(&str, &str)] = guarded!("changed" "cycle");
/// Python's methods of texts, lists and maps.
const STRING_METHODS: &[&str] = &[
    "upper",
    "lower",
    "islower",
    "isupper",
    "isspace",
    "isdigit",
    "isnumeric",
    "isalnum",
    "isalpha",
    "isascii",
    "strip",
    "lstrip",
    "rstrip",
    "replace",
    "title",
    "split",
    "splitlines",
    "capitalize",
    "count",
    "find",
    "format",
    "rfind",
    "startswith",
    "endswith",
    "join",
];
const SEQUENCE_METHODS: &[&str] = &["count"];
const MAP_METHODS: &[&str] = &["keys", "values", "items", "get"];

/// The filters that call another filter, or a test, by a name, and which argument that is.
const CALLERS_OF_FILTERS: &[(&str, usize)] = &[("map", 1)];
const CALLERS_OF_TESTS: &[(&str, usize)] =
    &[("select", 1), ("reject", 1), ("selectattr", 2), ("rejectattr", 2)];

/// The reach of a filter; `None` if there is none of that name.
pub(super) fn filter(name: &str) -> Option<Reach> {
    reach(name, SHALLOW_FILTERS, DEEP_FILTERS)
}

/// The reach of a test; `None` if there is none of that name.
pub(super) fn test(name: &str) -> Option<Reach> {
    reach(name, SHALLOW_TESTS, DEEP_TESTS)
}

/// The filter that calls a method of the loop; `None` where it has none of that name.
pub(super) fn loop_method(name: &str) -> Option<&'static str> {
    find(LOOP_METHODS, name)
}

fn reach(name: &str, shallow: &[&str], deep: &[(&str, &'static str)]) -> Option<Reach> {
    let shallow = shallow.contains(&name).then_some(Reach::Shallow);
    shallow.or_else(|| find(deep, name).map(Reach::Deep))
}

fn find<T: Copy>(list: &[(&str, T)], name: &str) -> Option<T> {
    list.iter().find(|(known, _)| *known == name).map(|(_, found)| *found)
}

/// The filters and tests that a template asks for and that are in no list.
pub(super) struct Unknown {
    filters: BTreeSet<String>,
    tests: BTreeSet<String>,
}

impl Unknown {
    pub(super) fn of<'a, 's: 'a>(instructions: impl Iterator<Item = &'a Instruction<'s>>) -> Self {
        // As the engine reads names: `a . b` is one.
        let plain = |name: &str| name.split_ascii_whitespace().collect::<String>();
        let (mut filters, mut tests) = (BTreeSet::new(), BTreeSet::new());
        for instruction in instructions {
            match instruction {
                Instruction::ApplyFilter(name, ..) if filter(name).is_none() => {
                    filters.insert(plain(name));
                }
                Instruction::PerformTest(name, ..) if test(name).is_none() => {
                    tests.insert(plain(name));
                }
                _ => {}
            }
        }
        Self { filters, tests }
    }

    /// Takes them out of an environment, so that the engine says that it knows none such.
    pub(super) fn remove_from(&self, environment: &mut Environment<'static>) {
        self.filters.iter().for_each(|name| environment.remove_filter(name));
        self.tests.iter().for_each(|name| environment.remove_test(name));
    }
}

/// Puts the guarded forms of filters, tests, functions and methods into an environment, and takes every other
/// function out.
pub(super) fn install(environment: &mut Environment<'static>) {
    let others: Vec<String> = environment
        .globals()
        .map(|(name, _)| name.to_owned())
        .filter(|name| !FUNCTIONS.contains(&name.as_str()))
        .collect();
    others.iter().for_each(|name| environment.remove_global(name));
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
    environment.set_formatter(|out, state, value| {
        pay_for(state, value)?;
        minijinja::escape_formatter(out, state, value)
    });
    for (name, own) in DEEP_FILTERS {
        let call = move |state: &mut State, args: Rest<Value>, named: Kwargs| {
            let mut args = paid_arguments(state, args, named)?;
            if let ("format", Some((text, args))) = (*name, args.split_first()) {
                pay_for_format(state, text, args)?;
            }
            called_by_name(name, &mut args)?;
            let made = state.apply_filter(name, &args)?;
            paid(state, made)
        };
        environment.add_filter(*own, call);
    }
    for (name, own) in DEEP_TESTS {
        let call = move |state: &mut State, args: Rest<Value>, named: Kwargs| {
            let args = paid_arguments(state, args, named)?;
            state.perform_test(name, &args)
        };
        environment.add_test(*own, call);
    }
    for (method, own) in LOOP_METHODS {
        let call = move |state: &mut State, value: Value, args: Rest<Value>, named: Kwargs| {
            let args = paid_arguments(state, args, named)?;
            if args.is_empty() {
                let message = format!("{method} takes at least one value");
                return Err(Error::new(ErrorKind::MissingArgument, message));
            }
            value.call_method(state, method, &args)
        };
        environment.add_filter(*own, call);
    }
    environment.set_unknown_method_callback(call_method);
}

/// Calls a method that Python has, if it is in the list for such a value.
fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    pay_for(state, value)?;
    args.iter().try_for_each(|arg| pay_for(state, arg))?;
    let known = match value.kind() {
        ValueKind::String => STRING_METHODS,
        ValueKind::Seq => SEQUENCE_METHODS,
        ValueKind::Map => MAP_METHODS,
        _ => &[],
    };
    if !known.contains(&method) {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    if method == "format" {
        pay_for_format(state, value, args)?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Puts the guarded form in the place of a filter or test that another filter is asked to call.
fn called_by_name(caller: &str, args: &mut [Value]) -> Result<(), Error> {
    let put = |args: &mut [Value], at: usize, known: fn(&str) -> Option<Reach>, kind| {
        let Some(asked) = args.get_mut(at).filter(|asked| !asked.is_kwargs()) else {
            return Ok(());
        };
        let name = asked.as_str().map_or_else(|| Cow::from(asked.to_string()), Cow::from);
        match known(&name) {
            Some(Reach::Shallow) => {}
            Some(Reach::Deep(guarded)) => *asked = Value::from(guarded),
            None if asked.is_none() || asked.is_undefined() => {}
            None => return Err(Error::from(kind)),
        }
        Ok(())
    };
    if let Some(at) = find(CALLERS_OF_FILTERS, caller) {
        put(args, at, filter, ErrorKind::UnknownFilter)?;
    }
    if let Some(at) = find(CALLERS_OF_TESTS, caller) {
        put(args, at, test, ErrorKind::UnknownTest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_lists_is_one_of_the_engine_s() {
        let engine = Environment::new();
        let knows = |kind: &str, name: &str| {
            let context = minijinja::context! { name };
            let told = engine.render_str(&format!("{{{{ name is {kind} }}}}"), context);
            told.is_ok_and(|told| told == "True")
        };
        let deep = DEEP_FILTERS.iter().map(|(name, _)| name);
        for name in SHALLOW_FILTERS.iter().chain(deep) {
            assert!(knows("filter", name), "{name}");
        }
        let deep = DEEP_TESTS.iter().map(|(name, _)| name);
        for name in SHALLOW_TESTS.iter().chain(deep) {
            assert!(knows("test", name), "{name}");
        }
        let callers = CALLERS_OF_FILTERS.iter().chain(CALLERS_OF_TESTS);
        for (caller, _) in callers {
            assert!(matches!(filter(caller), Some(Reach::Deep(_))), "{caller} is not guarded");
        }
    }

    #[test]
    fn what_the_engine_has_and_no_list_names_is_taken_out() {
        let mut environment = Environment::new();
        environment.add_filter("later", |value: String| value);
        environment.add_test("later", |_: Value| true);
        environment.add_function("later", || 1);
        install(&mut environment);
        let instructions = [
            Instruction::ApplyFilter("later", Some(1), 0),
            Instruction::ApplyFilter("la ter", Some(1), 0),
            Instruction::PerformTest("later", Some(1), 0),
        ];
        Unknown::of(instructions.iter()).remove_from(&mut environment);
        for source in ["{{ 'a' | later }}", "{{ 'a' is later }}", "{{ later() }}"] {
            let error = environment.render_str(source, ()).expect_err(source);
            assert!(error.to_string().contains("later is unknown"), "{error}");
        }
    }
}
