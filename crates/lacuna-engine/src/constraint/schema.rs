//! Writes a JSON schema as a regular expression, where one can stand for it.
//!
//! The expression matches nothing that the schema does not accept: keywords other than those below are refused. Objects have the properties that the schema names, in its order; behind a colon and a
//! comma there may be a space. Annotations (`title`, `description`, `default`, `format`, …) are passed over, as the
//! standard has it.

use lacuna_files::json::{self, Json};
use serde_json::Number;
use std::fmt::Write;

/// The deepest that references may lead into each other.
const DEPTH_MAX: usize = 32;

/// The longest expression that is made.
const BYTES_MAX: usize = 1 << 20;

/// A JSON value whose objects keep their order.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Null,
    Truth(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

type Schema = Vec<(String, Node)>;

/// The expression of the schema that `text` is; it matches whole documents.
pub(super) fn regex(text: &str) -> Result<String, String> {
    let root = json::read(text.as_bytes(), node).map_err(|error| error.to_string())?;
    let mut writer = Writer { root: &root, depth: 0, written: 0 };
    writer.value(&root, "#")
}

/// The expression of an object of anything that stands at most so many levels deep.
pub(super) fn any_object(levels: usize) -> String {
    let scalar = format!("\"{STRING_PART}*\"|{NUMBER}|true|false|null");
    let (mut value, mut object) = (format!("(?:{scalar})"), r"\{\}".to_owned());
    for _ in 0..levels {
        let member = format!("\"{STRING_PART}*\": ?{value}");
        object = format!(r"\{{(?:{member}(?:{COMMA}{member})*)?\}}");
        let list = format!(r"\[(?:{value}(?:{COMMA}{value})*)?\]");
        value = format!("(?:{scalar}|{list}|{object})");
    }
    object
}

/// The value of a document, held.
fn node(json: Json<'_, '_>) -> Result<Node, json::Stop> {
    Ok(match json {
        Json::Null => Node::Null,
        Json::Truth(truth) => Node::Truth(truth),
        Json::Number(number) => Node::Number(number),
        Json::Text(text) => Node::Text(text.into_owned()),
        Json::List(list) => {
            let mut nodes = Vec::new();
            list.each(|item| {
                nodes.push(node(item)?);
                Ok(())
            })?;
            Node::List(nodes)
        }
        Json::Object(object) => {
            let mut nodes: Schema = Vec::new();
            object.each(|key, value| {
                if nodes.iter().any(|(known, _)| *known == key) {
                    return Err(format!("`{key}` appears twice").into());
                }
                nodes.push((key.into_owned(), value.read(node)?));
                Ok(())
            })?;
            Node::Object(nodes)
        }
    })
}

/// Keywords that say nothing about a value.
const ANNOTATIONS: [&str; 14] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
    "additionalProperties",
];

const STRING_PART: &str = r#"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))"#;
/// As many digits as 64 bits hold for sure, so that every reader reads them alike, and a model can't go on forever.
const INTEGER: &str = r"-?(?:0|[1-9][0-9]{0,17})";
const NUMBER: &str = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?";
const COMMA: &str = ", ?";

struct Writer<'a> {
    root: &'a Node,
    depth: usize,
    written: usize,
}

impl Writer<'_> {
    /// The expression of a schema; `at` is its place, for messages.
    fn value(&mut self, node: &Node, at: &str) -> Result<String, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!(
                "{at} leads into itself, or deeper than {DEPTH_MAX}: no regular expression follows that"
            ));
        }
        let written = match node {
            Node::Object(schema) => self.schema(schema, at),
            Node::Truth(true) => Err(any(at)),
            _ => Err(format!("{at} is no schema: expected an object")),
        }?;
        self.depth -= 1;
        self.written += written.len();
        match self.written > BYTES_MAX {
            true => Err(format!("{at} makes an expression of more than {BYTES_MAX} bytes")),
            false => Ok(written),
        }
    }

    fn schema(&mut self, schema: &Schema, at: &str) -> Result<String, String> {
        let get = |key: &str| schema.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        let (forms, keys): (Vec<&str>, &[&str]) = match () {
            () if get("$ref").is_some() => (vec!["$ref"], &["$ref"]),
            () if get("const").is_some() => (vec!["const"], &["const", "type"]),
            () if get("enum").is_some() => (vec!["enum"], &["enum", "type"]),
            () if get("anyOf").is_some() => (vec!["anyOf"], &["anyOf"]),
            () => match get("type") {
                Some(Node::Text(name)) => (vec![name], keywords(name)),
                Some(Node::List(names)) => {
                    let names: Option<Vec<&str>> = names.iter().map(text).collect();
                    let names = names.ok_or_else(|| format!("{at}/type holds no names"))?;
                    if let [one] = names[..] {
                        (vec![one], keywords(one))
                    } else {
                        (names, &["type"])
                    }
                }
                Some(_) => return Err(format!("{at}/type is no name")),
                None if get("properties").is_some() => (vec!["object"], keywords("object")),
                None => return Err(any(at)),
            },
        };
        let unknown = |key: &&str| !keys.contains(key) && !ANNOTATIONS.contains(key);
        if let Some(key) = schema.iter().map(|(key, _)| key.as_str()).find(unknown) {
            return Err(format!(
                "{at}/{key}: no regular expression stands for it; leave it out, or check it afterwards"
            ));
        }
        let ways = forms.iter().map(|form| match *form {
            "$ref" => self.reference(get("$ref"), at),
            "const" => get("const").map_or(Ok(String::new()), |value| Ok(literal(value))),
            "enum" => match get("enum") {
                Some(Node::List(values)) if !values.is_empty() => {
                    Ok(either(values.iter().map(literal).collect()))
                }
                _ => Err(format!("{at}/enum: expected a list of values")),
            },
            "anyOf" => match get("anyOf") {
                Some(Node::List(parts)) if !parts.is_empty() => {
                    let parts = parts.iter().enumerate();
                    let parts = parts.map(|(n, part)| self.value(part, &format!("{at}/anyOf/{n}")));
                    Ok(either(parts.collect::<Result<_, _>>()?))
                }
                _ => Err(format!("{at}/anyOf: expected a list of schemas")),
            },
            "null" => Ok("null".to_owned()),
            "boolean" => Ok("(?:true|false)".to_owned()),
            "integer" => Ok(INTEGER.to_owned()),
            "number" => Ok(NUMBER.to_owned()),
            "string" => {
                let count =
                    times(number(get("minLength"), at)?, number(get("maxLength"), at)?, at)?;
                Ok(format!("\"{STRING_PART}{count}\""))
            }
            "array" => self.array(&get, at),
            "object" => self.object(&get, at),
            other => Err(format!("{at}/type: `{other}` is no type")),
        });
        Ok(either(ways.collect::<Result<_, _>>()?))
    }

    fn reference(&mut self, to: Option<&Node>, at: &str) -> Result<String, String> {
        let Some(Node::Text(to)) = to else { return Err(format!("{at}/$ref is no text")) };
        let missing = || format!("{at}/$ref: `{to}` is not in the schema");
        let path = to.strip_prefix('#').ok_or_else(missing)?;
        let mut found = self.root;
        for part in path.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            found = match found {
                Node::Object(object) => {
                    let member = object.iter().find(|(key, _)| *key == part);
                    &member.ok_or_else(missing)?.1
                }
                _ => return Err(missing()),
            };
        }
        self.value(found, to)
    }

    fn array<'n>(
        &mut self,
        get: &impl Fn(&str) -> Option<&'n Node>,
        at: &str,
    ) -> Result<String, String> {
        let Some(items) = get("items") else { return Err(any(&format!("{at}/items"))) };
        let (least, most) =
            (number(get("minItems"), at)?.unwrap_or(0), number(get("maxItems"), at)?);
        let item = self.value(items, &format!("{at}/items"))?;
        if most == Some(0) && least == 0 {
            return Ok(r"\[\]".to_owned());
        }
        let more =
            times(Some(least.saturating_sub(1)), most.map(|most| most.saturating_sub(1)), at)?;
        let some = format!("{item}(?:{COMMA}{item}){more}");
        self.written += some.len();
        Ok(match least {
            0 => format!(r"\[(?:{some})?\]"),
            _ => format!(r"\[{some}\]"),
        })
    }

    fn object<'n>(
        &mut self,
        get: &impl Fn(&str) -> Option<&'n Node>,
        at: &str,
    ) -> Result<String, String> {
        let required = match get("required") {
            None => Vec::new(),
            Some(Node::List(names)) => names
                .iter()
                .map(text)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| format!("{at}/required holds no names"))?,
            Some(_) => return Err(format!("{at}/required is no list of names")),
        };
        let properties = match get("properties") {
            Some(Node::Object(properties)) => properties.as_slice(),
            Some(_) => return Err(format!("{at}/properties is no object")),
            None if required.is_empty()
                && get("additionalProperties") == Some(&Node::Truth(false)) =>
            {
                &[]
            }
            None => return Err(any(at)),
        };
        let is_there = |name: &&str| properties.iter().any(|(known, _)| known == name);
        if let Some(name) = required.iter().find(|name| !is_there(name)) {
            return Err(format!("{at}/required names `{name}`, which properties does not"));
        }
        let mut members = Vec::new();
        for (name, schema) in properties {
            let value = self.value(schema, &format!("{at}/properties/{name}"))?;
            let member = format!("{}: ?{value}", literal(&Node::Text(name.clone())));
            members.push((member, required.contains(&name.as_str())));
        }
        // From the last member to the first: what may follow where a member stands before, and where none does.
        let (mut behind, mut first) = (String::new(), String::new());
        for (member, is_required) in members.iter().rev() {
            (behind, first) = match is_required {
                true => (format!("{COMMA}{member}{behind}"), format!("{member}{behind}")),
                false => (
                    format!("(?:{COMMA}{member})?{behind}"),
                    format!("(?:{member}{behind}|{first})"),
                ),
            };
            if first.len() > BYTES_MAX {
                return Err(format!("{at} has too many optional properties"));
            }
        }
        Ok(format!(r"\{{{first}\}}"))
    }
}

/// The keywords of a type.
fn keywords(name: &str) -> &'static [&'static str] {
    match name {
        "string" => &["type", "minLength", "maxLength"],
        "array" => &["type", "items", "minItems", "maxItems"],
        "object" => &["type", "properties", "required"],
        _ => &["type"],
    }
}

fn text(node: &Node) -> Option<&str> {
    match node {
        Node::Text(text) => Some(text),
        _ => None,
    }
}

fn any(at: &str) -> String {
    format!(
        "{at} allows values of any depth, which no regular expression does: give a type, and an object its properties"
    )
}

/// A count, if one is given.
fn number(node: Option<&Node>, at: &str) -> Result<Option<u64>, String> {
    match node {
        None => Ok(None),
        Some(Node::Number(number)) if number.as_u64().is_some() => Ok(number.as_u64()),
        Some(_) => Err(format!("{at}: a length is no whole number")),
    }
}

/// A number of repetitions, as an expression has it.
fn times(least: Option<u64>, most: Option<u64>, at: &str) -> Result<String, String> {
    let least = least.unwrap_or(0);
    match most {
        None if least == 0 => Ok("*".to_owned()),
        None => Ok(format!("{{{least},}}")),
        Some(most) if most >= least => Ok(format!("{{{least},{most}}}")),
        Some(most) => Err(format!("{at}: at least {least} and at most {most} is never met")),
    }
}

/// One of several expressions.
fn either(mut ways: Vec<String>) -> String {
    match ways.len() {
        1 => ways.remove(0),
        _ => format!("(?:{})", ways.join("|")),
    }
}

/// The expression of one value.
fn literal(node: &Node) -> String {
    let mut out = String::new();
    match node {
        Node::Null => out.push_str("null"),
        Node::Truth(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Node::Number(number) => escape(&number.to_string(), &mut out),
        Node::Text(text) => escape(&serde_json::Value::from(text.as_str()).to_string(), &mut out),
        Node::List(items) => {
            let items: Vec<String> = items.iter().map(literal).collect();
            let _ = write!(out, r"\[{}\]", items.join(COMMA));
        }
        Node::Object(members) => {
            let member = |(key, value): &(String, Node)| {
                format!("{}: ?{}", literal(&Node::Text(key.clone())), literal(value))
            };
            let members: Vec<String> = members.iter().map(member).collect();
            let _ = write!(out, r"\{{{}\}}", members.join(COMMA));
        }
    }
    out
}

/// Writes a text as the expression that matches it alone.
fn escape(text: &str, out: &mut String) {
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(letter) {
            out.push('\\');
        }
        out.push(letter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::automaton;

    fn takes(schema: &str, text: &str) -> bool {
        automaton(&regex(schema).unwrap()).unwrap().accepts(text.as_bytes())
    }

    #[test]
    fn values_of_every_kind_are_told_from_others() {
        for (schema, yes, no) in [
            (r#"{"type": "null"}"#, &["null"][..], &["", "nul", "0"][..]),
            (r#"{"type": "boolean"}"#, &["true", "false"], &["True"]),
            (
                r#"{"type": "integer"}"#,
                &["0", "-12"],
                &["01", "1.0", "-", "", "1234567890123456789"],
            ),
            (r#"{"type": "number"}"#, &["0", "-1.50", "2e-7"], &[".5", "1.", "1e"]),
            (
                r#"{"type": "string"}"#,
                &[r#""""#, r#""é\n\u00e9\"""#],
                &["a", r#""a"#, "\"\n\"", r#""\ud800""#],
            ),
            (
                r#"{"type": "string", "minLength": 1, "maxLength": 2}"#,
                &[r#""é""#, r#""\nb""#],
                &[r#""""#, r#""abc""#],
            ),
            (r#"{"type": ["null", "integer"]}"#, &["null", "7"], &["true"]),
            (r#"{"const": "a.b\"c"}"#, &[r#""a.b\"c""#], &[r#""axb\"c""#]),
            (
                r#"{"enum": [1, "x", null, [2, {"k": 3}]]}"#,
                &["1", r#""x""#, "null", r#"[2, {"k":3}]"#],
                &["x", "2"],
            ),
            (r#"{"anyOf": [{"type": "null"}, {"const": 5}]}"#, &["null", "5"], &["6"]),
            (
                r#"{"type": "array", "items": {"const": 1}}"#,
                &["[]", "[1]", "[1, 1,1]"],
                &["[1 ]", "[,1]", "[1,]"],
            ),
            (
                r#"{"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 3}"#,
                &["[1,1]", "[1,1,1]"],
                &["[]", "[1]", "[1,1,1,1]"],
            ),
            (
                r#"{"type": "array", "items": {"const": 1}, "maxItems": 1}"#,
                &["[]", "[1]"],
                &["[1,1]"],
            ),
            (r#"{"type": "object", "additionalProperties": false}"#, &["{}"], &["{} "]),
        ] {
            yes.iter().for_each(|text| assert!(takes(schema, text), "{schema} {text}"));
            no.iter().for_each(|text| assert!(!takes(schema, text), "{schema} {text}"));
        }
    }

    #[test]
    fn optional_members_may_be_left_out_in_any_combination_and_required_ones_may_not() {
        let schema = r#"{"type": "object", "required": ["c"], "properties": {
            "a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}, "d": {"const": 4}}}"#;
        for bits in 0..16 {
            let members = ["a", "b", "c", "d"].into_iter().zip(1..).enumerate();
            let members = members.filter(|(at, _)| bits >> at & 1 == 1);
            let members: Vec<String> =
                members.map(|(_, (name, value))| format!("\"{name}\": {value}")).collect();
            let text = format!("{{{}}}", members.join(", "));
            assert_eq!(takes(schema, &text), bits >> 2 & 1 == 1, "{text}");
        }
        assert!(!takes(schema, r#"{"c": 3, "a": 1}"#), "in the schema's order");
        let optional = r#"{"properties": {"b": {"const": 2}, "a": {"const": 1}}}"#;
        for text in ["{}", r#"{"b":2}"#, r#"{"a":1}"#, r#"{"b":2,"a":1}"#] {
            assert!(takes(optional, text), "{text}");
        }
    }

    #[test]
    fn references_are_followed_unless_they_lead_into_themselves() {
        let schema = r##"{"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "items":
            {"$ref": "#/$defs/a~1b"}, "minItems": 2, "maxItems": 2}, "a/b": {"type": "integer"}}}"##;
        assert!(takes(schema, "[1, 2]") && !takes(schema, "[1]"));
        let tree = r##"{"properties": {"left": {"$ref": "#"}}}"##;
        assert!(regex(tree).unwrap_err().contains("leads into itself"));
        assert!(regex(r##"{"$ref": "#/$defs/x"}"##).unwrap_err().contains("not in the schema"));
    }

    #[test]
    fn any_object_is_taken_down_to_its_depth() {
        let automaton = automaton(&any_object(3)).unwrap();
        let yes = [
            "{}",
            r#"{"a": 1, "b":[]}"#,
            r#"{"a": {"b": [1, "x", null]}}"#,
            r#"{"é\n": [[true], {"k": -1.5e3}]}"#,
        ];
        let no =
            ["[]", "{", "1", r#"{"a": {"b": {"c": {}}}}"#, r#"{"a" 1}"#, r#"{"a": 1,}"#, "{} "];
        yes.iter().for_each(|text| assert!(automaton.accepts(text.as_bytes()), "{text}"));
        no.iter().for_each(|text| assert!(!automaton.accepts(text.as_bytes()), "{text}"));
    }

    #[test]
    fn what_no_expression_stands_for_is_refused_with_its_place() {
        for (schema, said) in [
            (r#"{"type": "integer", "minimum": 3}"#, "#/minimum"),
            (
                r#"{"properties": {"a": {"type": "string", "pattern": "x"}}}"#,
                "#/properties/a/pattern",
            ),
            (r#"{"oneOf": [{"type": "null"}]}"#, "#"),
            (r#"{"type": "object"}"#, "# allows values of any depth"),
            (r#"{"type": "array"}"#, "#/items allows values of any depth"),
            ("true", "# allows values of any depth"),
            ("{}", "# allows values of any depth"),
            (r#"{"properties": {}, "required": ["a"]}"#, "names `a`"),
            (r#"{"type": "string", "minLength": 3, "maxLength": 2}"#, "never met"),
            (r#"{"type": "strin"}"#, "`strin` is no type"),
            ("[]", "is no schema"),
            ("{", "line 1"),
        ] {
            let reason = regex(schema).unwrap_err();
            assert!(reason.contains(said), "{schema}: {reason}");
        }
    }
}
