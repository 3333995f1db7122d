//! Says whether a value is the right one, with the tolerances and the special cases of EvalPlus 0.3.1.

use crate::functions::Reply;
use crate::task::Dataset;
use crate::value::Value;

/// Functions of MBPP+ whose results can't be spelt out: only whether there is one counts.
const SOME: [&str; 3] = ["check_str", "text_match_three", "text_starta_endb"];

/// Functions of MBPP+ whose results are compared as sets.
const AS_SETS: [&str; 8] = [
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
];

/// The tolerance of numbers in proportion to the right one.
const RTOL: f64 = 1e-7;

/// The tolerance of results with a point for which the data set names none.
const ATOL: f64 = 1e-6;

/// Tells whether of a function of MBPP+ only counts that it returns something.
pub(super) fn is_some_only(entry: &str) -> bool {
    SOME.contains(&entry)
}

/// The comparison of one function's results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Oracle<'a> {
    pub(super) dataset: Dataset,
    pub(super) entry: &'a str,
}

impl Oracle<'_> {
    /// Tells whether a reply is right. `atol` is the task's tolerance: once a result with a point was expected it is not
    /// zero any more, for the tests behind that one too.
    pub(super) fn accepts(
        self,
        reply: &Reply,
        expected: &Value,
        input: &dyn Fn() -> Vec<Value>,
        atol: &mut f64,
    ) -> bool {
        let value = match reply {
            Reply::Value(value) => value,
            // It is something, at least.
            Reply::Odd(_) if self.dataset == Dataset::Mbpp && is_some_only(self.entry) => {
                return expected.equals(&Value::Bool(true));
            }
            _ => return false,
        };
        let is_equal = match (self.dataset, self.entry) {
            (Dataset::HumanEval, "find_zero") => return is_root(&input(), value, *atol),
            (Dataset::HumanEval, _) => value.equals(expected),
            (Dataset::Mbpp, entry) => match self.in_mbpp(entry, value, expected, input, *atol) {
                Some(is_equal) => is_equal,
                None => return false,
            },
        };
        if *atol == 0.0 && is_floats(expected) {
            *atol = ATOL;
        }
        match !is_equal && *atol != 0.0 {
            true => value.is_of_type(expected) && is_close(value, expected, *atol),
            false => is_equal,
        }
    }

    /// `None` where the comparison itself fails, as one of a text with a number does.
    fn in_mbpp(
        self,
        entry: &str,
        value: &Value,
        expected: &Value,
        input: &dyn Fn() -> Vec<Value>,
        atol: f64,
    ) -> Option<bool> {
        let is_equal = value.equals(expected);
        match entry {
            // Several answers are right, and the data set does not say which.
            "are_equivalent" => Some(true),
            "sum_div" => Some(is_equal || value.equals(&Value::Int(0))),
            "surface_Area" if !is_equal => {
                let input = input();
                let (side, height) = (input.first()?.as_f64()?, input.get(1)?.as_f64()?);
                Some((value.as_f64()? - surface_of_pyramid(side, height)).abs() <= atol)
            }
            "digit_distance_nums" if !is_equal => {
                let input = input();
                let distance = digit_distance(input.first()?, input.get(1)?)?;
                Some(value.equals(&Value::Int(distance)))
            }
            entry if AS_SETS.contains(&entry) => {
                let (value, expected) = (value.items()?, expected.items()?);
                // A value without a hash makes no set.
                let all =
                    |items: &[Value]| items.iter().map(Value::key).collect::<Option<Vec<_>>>();
                all(&value)?;
                Some(Value::Set(value).equals(&Value::Set(expected)))
            }
            entry if is_some_only(entry) => match value {
                Value::Bool(_) => Some(is_equal),
                other => Some(expected.equals(&Value::Bool(*other != Value::None))),
            },
            _ => Some(is_equal),
        }
    }
}

/// The whole surface of a pyramid with a square base, by its height, rounded to the even one of two that are as near.
fn surface_of_pyramid(side: f64, height: f64) -> f64 {
    let slant = ((side / 2.0).powi(2) + height.powi(2)).sqrt();
    (side.powi(2) + 4.0 * (side * slant) / 2.0).round_ties_even()
}

/// The sum of the differences of two numbers' digits, the shorter one filled with zeros in front.
fn digit_distance(a: &Value, b: &Value) -> Option<i64> {
    let digits = |value: &Value| match value {
        Value::Int(number) if *number >= 0 => Some(number.to_string()),
        _ => None,
    };
    let (a, b) = (digits(a)?, digits(b)?);
    let length = a.len().max(b.len());
    let (a, b) = (format!("{a:0>length$}"), format!("{b:0>length$}"));
    Some(a.bytes().zip(b.bytes()).map(|(a, b)| (i64::from(a) - i64::from(b)).abs()).sum())
}

/// Tells whether the polynomial of the input's coefficients is zero there.
fn is_root(input: &[Value], at: &Value, atol: f64) -> bool {
    let coefficients = input.first().and_then(Value::items);
    let coefficients =
        coefficients.and_then(|all| all.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
    let (Some(coefficients), Some(at)) = (coefficients, at.as_f64()) else { return false };
    let terms = coefficients.iter().enumerate();
    let sum: f64 = terms.map(|(power, coefficient)| coefficient * at.powf(power as f64)).sum();
    sum.abs() <= atol
}

/// Tells whether a result is a number with a point, or a list or tuple of such and nothing else.
fn is_floats(value: &Value) -> bool {
    match value {
        Value::Float(_) => true,
        Value::List(items) | Value::Tuple(items) => {
            !items.is_empty() && items.iter().all(|item| matches!(item, Value::Float(_)))
        }
        _ => false,
    }
}

/// Tells whether two arrays of numbers have one shape and agree within the tolerances. (numpy would stretch one of two
/// that differ in shape; here they differ.)
fn is_close(value: &Value, expected: &Value, atol: f64) -> bool {
    match (value, expected) {
        (Value::List(a) | Value::Tuple(a), Value::List(b) | Value::Tuple(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_close(a, b, atol))
        }
        (Value::Complex(a, b), Value::Complex(x, y)) => {
            (a - x).hypot(b - y) <= atol + RTOL * x.hypot(*y)
        }
        _ => match (value.as_f64(), expected.as_f64()) {
            // Infinities of one sign are equal, and close to nothing else.
            (Some(a), Some(b)) if a.is_infinite() || b.is_infinite() => a == b,
            (Some(a), Some(b)) => (a - b).abs() <= atol + RTOL * b.abs(),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(
        dataset: Dataset,
        entry: &str,
        input: &str,
        value: &str,
        expected: &str,
        atol: f64,
    ) -> bool {
        let read = |text: &str| Value::from_json(&serde_json::from_str(text).unwrap()).unwrap();
        let input = read(input).items().unwrap();
        let reply = Reply::Value(read(value));
        let oracle = Oracle { dataset, entry };
        oracle.accepts(&reply, &read(expected), &|| input.clone(), &mut { atol })
    }

    #[test]
    fn numbers_are_compared_with_the_tolerances_of_the_harness() {
        let plain =
            |value, expected, atol| accepts(Dataset::HumanEval, "f", "[]", value, expected, atol);
        assert!(plain(r#"{"f":"1.0000005"}"#, r#"{"f":"1.0"}"#, 0.0), "1e-6 where none is named");
        assert!(!plain(r#"{"f":"1.00001"}"#, r#"{"f":"1.0"}"#, 0.0));
        assert!(plain(r#"[{"f":"0.1"},{"f":"0.2"}]"#, r#"[{"f":"0.1"},{"f":"0.2000001"}]"#, 0.0));
        assert!(plain("1", r#"{"f":"1.0"}"#, 0.0), "equal is equal, whatever the type");
        assert!(!plain("1", r#"{"f":"1.0000001"}"#, 0.0), "close is not, of another type");
        assert!(!plain("2", "1", 0.0), "whole numbers have no tolerance");
        assert!(plain("2", "1", 1.0), "unless the task says so");
        assert!(!plain("[1,2]", "[1,2,3]", 1.0));
        assert!(!plain(r#"{"f":"nan"}"#, r#"{"f":"nan"}"#, 0.0));
        assert!(plain(r#"{"f":"inf"}"#, r#"{"f":"inf"}"#, 0.0));
        assert!(!plain(r#""1""#, r#"{"f":"1.0"}"#, 0.0));
    }

    #[test]
    fn a_tolerance_stays_for_the_tests_behind() {
        let mut atol = 0.0;
        let oracle = Oracle { dataset: Dataset::HumanEval, entry: "f" };
        let one = Reply::Value(Value::Float(1.0));
        assert!(oracle.accepts(&one, &Value::Float(1.0), &Vec::new, &mut atol));
        assert_eq!(atol, ATOL);
    }

    #[test]
    fn special_cases_are_those_of_the_harness() {
        let mbpp = |entry, input, value, expected, atol| {
            accepts(Dataset::Mbpp, entry, input, value, expected, atol)
        };
        assert!(mbpp("are_equivalent", "[1,2]", "true", "false", 0.0));
        assert!(mbpp("sum_div", "[7]", "0", "1", 0.0));
        assert!(!mbpp("sum_div", "[7]", "2", "1", 0.0));
        assert!(mbpp("surface_Area", "[3,4]", "35", "33", 0.0));
        assert!(!mbpp("surface_Area", "[3,4]", "36", "33", 0.0));
        assert!(!mbpp("surface_Area", "[3,4]", r#""34""#, "33", 0.0));
        assert!(mbpp("digit_distance_nums", "[1,256]", "12", "0", 0.0));
        assert!(!mbpp("digit_distance_nums", "[1,256]", "11", "0", 0.0));
        assert!(mbpp("Diff", "[]", "[3,1,1]", "[1,3]", 0.0));
        assert!(!mbpp("Diff", "[]", "[[3]]", "[1,3]", 0.0), "what has no hash");
        assert!(!mbpp("Diff", "[]", "3", "[3]", 0.0));
        assert!(mbpp("check_str", "[]", r#""found""#, "true", 0.0));
        assert!(!mbpp("check_str", "[]", "null", "true", 0.0));
        assert!(!mbpp("check_str", "[]", "false", "true", 0.0));
        let odd = Reply::Odd("Match".into());
        let oracle = Oracle { dataset: Dataset::Mbpp, entry: "check_str" };
        assert!(oracle.accepts(&odd, &Value::Bool(true), &Vec::new, &mut 0.0));
        assert!(!Oracle { entry: "f", ..oracle }.accepts(
            &odd,
            &Value::Bool(true),
            &Vec::new,
            &mut 0.0
        ));
        let zero = |value| {
            accepts(Dataset::HumanEval, "find_zero", "[[1,2]]", value, r#"{"f":"9.0"}"#, 1e-4)
        };
        assert!(zero(r#"{"f":"-0.5"}"#) && !zero(r#"{"f":"0.5"}"#) && !zero(r#""x""#));
    }
}
