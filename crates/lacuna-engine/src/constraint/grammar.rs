//! Writes a grammar in llama.cpp's form (GBNF) as a regular expression, where one can stand for it: no rule leads into
//! itself. The expression matches what the grammar derives, and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

/// The deepest that groups may stand in each other.
const DEPTH_MAX: usize = 64;

/// The longest expression that is made.
const BYTES_MAX: usize = 1 << 20;

/// The expression of the rule `root`.
pub(super) fn regex(text: &str) -> Result<String, String> {
    let rules = Reader { rest: text.chars().peekable(), line: 1, depth: 0 }.rules()?;
    Writer { rules: &rules, open: Vec::new(), made: BTreeMap::new() }.rule("root")
}

/// One of several sequences.
type Ways = Vec<Vec<Part>>;

#[derive(Debug)]
enum Part {
    /// An expression that stands for itself.
    Plain(String),
    /// A rule by its name.
    Rule(String),
    Group(Ways),
    /// The part before, so many times: `*`, `{2,3}`.
    Times(Box<Part>, String),
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rules(mut self) -> Result<BTreeMap<String, Ways>, String> {
        let mut rules = BTreeMap::new();
        loop {
            self.space(true);
            if self.rest.peek().is_none() {
                return Ok(rules);
            }
            let name = self.name();
            self.space(false);
            if name.is_empty() || !"::=".chars().all(|letter| self.next_if(letter)) {
                return self.wrong("expected a rule: `name ::= …`");
            }
            self.space(true);
            let ways = self.ways(false)?;
            match self.rest.peek() {
                None | Some('\n') => {}
                Some(other) => {
                    let reason = format!("`{}` is nothing that a rule has", other.escape_debug());
                    return self.wrong(&reason);
                }
            }
            if rules.insert(name.clone(), ways).is_some() {
                return self.wrong(&format!("the rule `{name}` stands twice"));
            }
        }
    }

    fn wrong<T>(&self, reason: &str) -> Result<T, String> {
        Err(format!("line {}: {reason}", self.line))
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn next_if(&mut self, letter: char) -> bool {
        self.rest.peek() == Some(&letter) && self.next().is_some()
    }

    /// Passes over spaces and comments, and over the ends of lines where a rule goes on behind them.
    fn space(&mut self, lines: bool) {
        while let Some(letter) = self.rest.peek().copied() {
            match letter {
                '#' => while self.rest.next_if(|letter| *letter != '\n').is_some() {},
                '\n' if !lines => return,
                ' ' | '\t' | '\r' | '\n' => drop(self.next()),
                _ => return,
            }
        }
    }

    fn name(&mut self) -> String {
        let of_name =
            |letter: &char| letter.is_ascii_alphanumeric() || *letter == '-' || *letter == '_';
        std::iter::from_fn(|| self.rest.next_if(of_name)).collect()
    }

    fn ways(&mut self, nested: bool) -> Result<Ways, String> {
        let mut ways = Vec::new();
        loop {
            ways.push(self.sequence(nested)?);
            if !self.next_if('|') {
                return Ok(ways);
            }
            self.space(true);
        }
    }

    fn sequence(&mut self, nested: bool) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        loop {
            self.space(nested);
            let part = match self.rest.peek().copied() {
                Some('"') => Part::Plain(self.literal()?),
                Some('[') => Part::Plain(self.class()?),
                Some('.') => {
                    self.next();
                    Part::Plain("(?s:.)".to_owned())
                }
                Some('(') => self.group()?,
                Some(letter) if letter.is_ascii_alphanumeric() => Part::Rule(self.name()),
                Some('<' | '!') => {
                    return self
                        .wrong("tokens by their names are not known here; write their text");
                }
                _ => return Ok(parts),
            };
            parts.push(self.times(part)?);
        }
    }

    fn group(&mut self) -> Result<Part, String> {
        self.next();
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.wrong(&format!("groups stand in each other deeper than {DEPTH_MAX}"));
        }
        self.space(true);
        let ways = self.ways(true)?;
        self.depth -= 1;
        match self.next_if(')') {
            true => Ok(Part::Group(ways)),
            false => self.wrong("expected `)`"),
        }
    }

    /// The part with the repetitions that stand behind it.
    fn times(&mut self, mut part: Part) -> Result<Part, String> {
        loop {
            let times = match self.rest.peek() {
                Some(sign @ ('*' | '+' | '?')) => {
                    let sign = sign.to_string();
                    self.next();
                    sign
                }
                Some('{') => {
                    let mut inside = String::new();
                    while let Some(letter) = self.rest.next_if(|letter| !"}\n".contains(*letter)) {
                        inside.push(letter);
                    }
                    let inside: String = inside.chars().skip(1).filter(|c| *c != ' ').collect();
                    let numbers: Vec<&str> = inside.split(',').collect();
                    let is_number = |text: &&str| text.parse::<u32>().is_ok();
                    let fits = match &numbers[..] {
                        [one] => is_number(one),
                        [least, most] => is_number(least) && (most.is_empty() || is_number(most)),
                        _ => false,
                    };
                    if !fits || !self.next_if('}') {
                        return self.wrong("expected `{m}`, `{m,}` or `{m,n}`");
                    }
                    format!("{{{inside}}}")
                }
                _ => return Ok(part),
            };
            part = Part::Times(Box::new(part), times);
        }
    }

    fn literal(&mut self) -> Result<String, String> {
        self.next();
        let mut out = String::new();
        while !self.next_if('"') {
            let letter = self.letter("a text is not closed")?;
            spell(letter, &mut out);
        }
        Ok(out)
    }

    fn class(&mut self) -> Result<String, String> {
        self.next();
        let mut out = String::from(if self.next_if('^') { "[^" } else { "[" });
        let empty = out.len();
        while !self.next_if(']') {
            let low = self.letter("a class is not closed")?;
            spell(low, &mut out);
            // A hyphen that stands last is one.
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next() != Some(']') {
                self.next();
                let high = self.letter("a class is not closed")?;
                if high < low {
                    return self.wrong("a range of a class ends before it begins");
                }
                out.push('-');
                spell(high, &mut out);
            }
        }
        match out.len() == empty {
            true => self.wrong("a class has no letter"),
            false => Ok(out + "]"),
        }
    }

    /// A letter of a text or a class, which may be written as an escape.
    fn letter(&mut self, unclosed: &str) -> Result<char, String> {
        let letter = match self.next() {
            None | Some('\n') => return self.wrong(unclosed),
            Some('\\') => self.next().unwrap_or('\n'),
            Some(letter) => return Ok(letter),
        };
        let digits = match letter {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' => return Ok(letter),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                return self
                    .wrong("an escape is none of \\n \\r \\t \\\\ \\\" \\[ \\] \\x \\u \\U");
            }
        };
        let code: String =
            (0..digits).filter_map(|_| self.rest.next_if(char::is_ascii_hexdigit)).collect();
        let code = Some(code).filter(|code| code.len() == digits);
        let letter = code.and_then(|code| char::from_u32(u32::from_str_radix(&code, 16).ok()?));
        letter.map_or_else(|| self.wrong("an escape names no character"), Ok)
    }
}

/// Writes a letter as the expression that matches it alone, in a class too.
fn spell(letter: char, out: &mut String) {
    match letter.is_ascii_alphanumeric() {
        true => out.push(letter),
        false => {
            // Writing to a string does not fail.
            let _ = write!(out, r"\x{{{:x}}}", u32::from(letter));
        }
    }
}

struct Writer<'r> {
    rules: &'r BTreeMap<String, Ways>,
    /// The rules that are being written, each inside the one before.
    open: Vec<&'r str>,
    /// Those that are.
    made: BTreeMap<&'r str, String>,
}

impl<'r> Writer<'r> {
    fn rule(&mut self, name: &str) -> Result<String, String> {
        if let Some(made) = self.made.get(name) {
            return Ok(made.clone());
        }
        let missing = || format!("there is no rule `{name}`");
        let (name, ways) = self.rules.get_key_value(name).ok_or_else(missing)?;
        if self.open.contains(&name.as_str()) {
            return Err(format!(
                "the rule `{name}` leads into itself: no regular expression follows that to any depth"
            ));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("the rule `{name}` stands deeper than {DEPTH_MAX} others"));
        }
        self.open.push(name);
        let made = self.ways(ways)?;
        self.open.pop();
        self.made.insert(name, made.clone());
        Ok(made)
    }

    fn ways(&mut self, ways: &'r Ways) -> Result<String, String> {
        let mut out = String::from("(?:");
        for (number, way) in ways.iter().enumerate() {
            out.push_str(if number > 0 { "|" } else { "" });
            for part in way {
                out += &self.part(part)?;
                if out.len() > BYTES_MAX {
                    return Err(format!("it makes an expression of more than {BYTES_MAX} bytes"));
                }
            }
        }
        Ok(out + ")")
    }

    fn part(&mut self, part: &'r Part) -> Result<String, String> {
        match part {
            Part::Plain(expression) => Ok(expression.clone()),
            Part::Rule(name) => self.rule(name),
            Part::Group(ways) => self.ways(ways),
            Part::Times(part, times) => Ok(format!("(?:{}){times}", self.part(part)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constraint::automaton;

    fn takes(grammar: &str, text: &str) -> bool {
        automaton(&regex(grammar).unwrap()).unwrap().accepts(text.as_bytes())
    }

    #[test]
    fn a_grammar_takes_what_it_derives() {
        for (grammar, yes, no) in [
            (r#"root ::= "yes" | "no""#, &["yes", "no"][..], &["", "yesno", "y"][..]),
            (
                "# a list\nroot ::= item (\", \" item)* # of items\nitem ::= [a-c]+ | number\nnumber ::= [0-9]{1,3}",
                &["a", "abc, 12, 9"],
                &["a,b", "1234", "a, "],
            ),
            ("root ::= (\n  \"a\"\n  | \"b\"\n)? \"c\"", &["c", "ac", "bc"], &["abc", "a"]),
            (r#"root ::= [^"\\\x00-\x1f]{2,}"#, &["é🦀", "a-]"], &["a", "a\"", "a\n"]),
            (r#"root ::= [-+.]+ "\u00e9\t\"""#, &["-+.é\t\""], &["é\t\"", "-é"]),
            ("root ::= . .", &["\nb", "éé"], &["a"]),
            ("root ::= \"a\" |\n  \"(b)*\"", &["a", "(b)*"], &["", "b"]),
            ("root ::= \"a\" end\nend ::= | \"!\"", &["a", "a!"], &["!"]),
            ("root ::= x{2} x{0,1}\nx ::= \"ab\"", &["abab", "ababab"], &["ab", "abababab"]),
        ] {
            yes.iter().for_each(|text| assert!(takes(grammar, text), "{grammar} {text}"));
            no.iter().for_each(|text| assert!(!takes(grammar, text), "{grammar} {text}"));
        }
    }

    #[test]
    fn what_is_no_grammar_or_no_regular_one_says_why() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100));
        let wide: String = (0..40).map(|n| format!("r{n} ::= r{} r{}\n", n + 1, n + 1)).collect();
        let wide = format!("root ::= r0\n{wide}r40 ::= \"a\"");
        for (grammar, said) in [
            ("", "no rule `root`"),
            ("root", "line 1: expected a rule"),
            ("root ::= \"a\"\nx := b", "line 2: expected a rule"),
            ("root ::= other", "no rule `other`"),
            ("root ::= \"(\" root \")\" | \"x\"", "`root` leads into itself"),
            ("root ::= a\na ::= b\nb ::= a | \"x\"", "`a` leads into itself"),
            ("root ::= \"a", "not closed"),
            ("root ::= [a", "not closed"),
            ("root ::= []", "no letter"),
            ("root ::= [z-a]", "ends before it begins"),
            ("root ::= (\"a\"", "expected `)`"),
            ("root ::= \"a\"{x}", "expected `{m}`"),
            ("root ::= \"\\q\"", "an escape"),
            ("root ::= \"\\ud800\"", "names no character"),
            ("root ::= <think>", "tokens by their names"),
            ("root ::= \"a\" )", "`)` is nothing"),
            ("root ::= \"a\"\nroot ::= \"b\"", "stands twice"),
            (&deep, "deeper than 64"),
            (&wide, "more than 1048576 bytes"),
        ] {
            let reason = regex(grammar).unwrap_err();
            assert!(reason.contains(said), "{grammar}: {reason}");
        }
    }
}
