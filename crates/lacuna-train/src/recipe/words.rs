//! Tells what is wrong with a recipe in a user's words: where it stands, what was expected, what to write.

use std::path::Path;

/// Describes a fault of the file itself: the place, the words, and the line with a mark under the fault.
pub(super) fn of_file(text: &str, error: &toml::de::Error) -> String {
    let message = in_words(error.message());
    let Some(span) = error.span() else { return message };
    let start = (0..=span.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let before = &text[..start.unwrap_or(0)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let row = text[line_start..].lines().next().unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = text[line_start..before.len()].chars().count() + 1;
    // A text that swallowed its closing quote ends, and fails, in the line after it.
    let last = before[..line_start].lines().next_back().unwrap_or_default();
    let escaped = |row: &str| row.contains('"') && row.contains('\\');
    let escapes = (escaped(row) || escaped(last)) && !error.message().contains("unknown ");
    let hint = if escapes { format!("\n{}", BACKSLASH) } else { String::new() };
    // A mark under a place far to the right would be torn off by a narrow terminal.
    if row.chars().count() > 120 {
        return format!("line {line}, column {column}: {message}{hint}");
    }
    let (number, row) = (line.to_string(), row.replace('\t', " "));
    let (width, space) = (number.len(), column - 1);
    let marked = text[before.len()..span.end.clamp(before.len(), text.len())].lines().next();
    let marks = "^".repeat(marked.map_or(0, |part| part.chars().count()).max(1));
    format!(
        "line {line}, column {column}: {message}\n{number} | {row}\n{:width$} | {:space$}{marks}{hint}",
        "", ""
    )
}

const BACKSLASH: &str = "a backslash between double quotes begins an escape (\\t is a tab); write a path in \
                         single quotes, 'C:\\data', or with /, \"C:/data\"";

/// Puts serde's and TOML's messages about a value into a user's words.
pub(super) fn in_words(message: &str) -> String {
    let message = message.trim();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown("unknown key", rest);
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        return unknown("unknown value", rest);
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("the key {rest} is missing");
    }
    for prefix in ["invalid type: ", "invalid value: "] {
        let parts = message.strip_prefix(prefix).and_then(|rest| rest.rsplit_once(", expected "));
        if let Some(("unit variant", _)) = parts {
            return "expected one of the key's own words, as a text between quotes".to_owned();
        }
        if let Some((found, expected)) = parts {
            if found.contains("i128") || found.contains("u128") {
                return format!("{} is too large for any key", found.replace(" as i128", ""));
            }
            return format!("expected {}, found {}", kind(expected), found_words(found));
        }
    }
    if message.starts_with("invalid boolean") || message.contains("must be quoted") {
        return "a value is a number, true or false, or a text between quotes".to_owned();
    }
    if message.contains("duplicate key") {
        return format!("{message}: a key stands once in its section; keep one of the two");
    }
    message.to_owned()
}

/// Puts the key before an error without a place, as the parser's last line names it: "in `stage.steps`".
pub(super) fn with_key(error: &toml::de::Error) -> String {
    let (message, whole) = (in_words(error.message()), error.to_string());
    match whole.lines().find_map(|line| line.trim().strip_prefix("in `")?.strip_suffix('`')) {
        Some(key) => format!("{key}: {message}"),
        None => message,
    }
}

/// Describes an unknown name with the nearest known one, given serde's `` `wrong`, expected one of `a`, `b` ``.
fn unknown(what: &str, rest: &str) -> String {
    let quoted: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let Some((wrong, known)) = quoted.split_first() else { return format!("{what} {rest}") };
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(wrong, a).total_cmp(&strsim::jaro_winkler(wrong, b)));
    let known = known.join(", ");
    match nearest {
        Some(nearest) => {
            format!("{what} `{wrong}`; did you mean `{nearest}`? (known here: {known})")
        }
        None => format!("{what} `{wrong}`; none is known here"),
    }
}

fn kind(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" => "a whole number from 0",
        "a nonzero usize" | "a nonzero u64" | "a nonzero u32" => "a whole number from 1",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" | "path string" => "a text between quotes",
        "a sequence" => "a list, as in [\"a\", \"b\"] (or [[stage]] for stages)",
        other if other.starts_with("struct ") || other == "a map" => "a section of keys",
        other => other,
    }
}

fn found_words(found: &str) -> String {
    for (serde, words) in
        [("string", "the text"), ("integer", "the number"), ("floating point", "the number")]
    {
        if let Some(rest) = found.strip_prefix(serde) {
            return format!("{words}{rest}");
        }
    }
    match found {
        "map" => "a section".to_owned(),
        "sequence" => "a list".to_owned(),
        other => other.to_owned(),
    }
}

/// The reason why bytes are no recipe's text.
pub(super) fn no_text(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            "it is UTF-16 text, as PowerShell's > writes it; save it as UTF-8"
        }
        _ => "it is no UTF-8 text; save it as UTF-8",
    }
}

/// Refuses a path that holds control characters: on no system does anybody mean them.
pub(super) fn check_path(key: &str, path: &Path) -> Result<(), String> {
    let text = path.to_string_lossy();
    if !text.contains(char::is_control) {
        return Ok(());
    }
    let shown: String = text.chars().map(spelt_out).collect();
    Err(format!("{key} is `{shown}`, and a path holds no control characters; {BACKSLASH}"))
}

fn spelt_out(c: char) -> String {
    match c {
        '\t' => "<tab>".into(),
        '\n' => "<line break>".into(),
        '\r' => "<carriage return>".into(),
        '\u{8}' => "<backspace>".into(),
        '\u{c}' => "<form feed>".into(),
        '\u{1b}' => "<escape>".into(),
        c if c.is_control() || lacuna_files::is_moving(c) => format!("<U+{:04X}>", u32::from(c)),
        c => c.to_string(),
    }
}

/// Refuses a name that can't be the name of a file, or stand in a line of a log.
pub(super) fn check_name(key: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let shown: String = name.chars().map(spelt_out).collect();
    let refuse = |reason: &str| {
        Err(format!(
            "{key} is `{shown}`: {reason}; a name is a plain file name of letters, digits, - _ ."
        ))
    };
    if name.is_empty() {
        return refuse("it is empty");
    }
    if let Some(odd) = name.chars().find(|c| !plain(*c)) {
        return refuse(&format!("it holds `{}`", spelt_out(odd)));
    }
    if name.starts_with(['.', '-']) || name.ends_with('.') {
        return refuse("it begins with . or -, or ends with .");
    }
    if name.len() > 100 {
        return refuse("it is longer than 100 bytes");
    }
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = |device: &str| {
        let number = stem.strip_prefix(device);
        number.is_some_and(|n| n.len() == 1 && n.chars().all(|c| c.is_ascii_digit()))
    };
    let device = ["con", "prn", "aux", "nul"].contains(&stem.as_str());
    if device || numbered("com") || numbered("lpt") {
        return refuse("Windows keeps it for a device");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Recipe;

    const PLAIN: &str = "name = \"mine\"\nseed = 1\n[model]\nhidden_size = 32\nintermediate_size = 64\nlayers = 1\n\
                         heads = 2\n[data]\ntokenizer = \"tok.json\"\ncorpus = [\"src\"]\nwindow = 16\n[[stage]]\n\
                         name = \"base\"\nobjective = \"autoregressive\"\nsteps = 4\nbatch_size = 2\n\
                         learning_rate = 1e-3\n";

    fn load(bytes: &[u8], set: &[&str]) -> Result<Recipe, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.toml");
        std::fs::write(&file, bytes).unwrap();
        let set: Vec<String> = set.iter().map(|item| (*item).to_owned()).collect();
        Recipe::load(&file, &set).map_err(|error| error.to_string())
    }

    /// The error of the plain recipe with one text put in the place of another.
    fn fault(old: &str, new: &str) -> String {
        assert!(PLAIN.contains(old), "{old}");
        let text = PLAIN.replacen(old, new, 1);
        load(text.as_bytes(), &[]).map(|_| ()).expect_err(new)
    }

    #[test]
    fn a_backslash_between_double_quotes_is_explained_whatever_the_parser_makes_of_it() {
        load(PLAIN.as_bytes(), &[]).unwrap();
        for path in [
            r"C:\Users\me\tok.json",
            r"C:\temp\tok.json",
            r"data\tok.json",
            r"C:\new\file",
            r"D:\x\y",
            r"C:\back\",
            r"C:\esc",
            r"\\server\share",
        ] {
            for key in ["tokenizer = \"tok.json\"", "\"src\""] {
                let written = key.replace("tok.json", path).replace("src", path);
                let error = fault(key, &written);
                assert!(error.contains("backslash") && error.contains("single quotes"), "{error}");
                assert!(!error.contains(|c: char| c.is_control() && c != '\n'), "{error:?}");
            }
        }
        // Single quotes and doubled backslashes are the way out.
        for good in [r"'C:\temp\tok.json'", r#""C:\\temp\\tok.json""#, r#""C:/temp/tok.json""#] {
            let text = PLAIN.replace("\"tok.json\"", good);
            load(text.as_bytes(), &[]).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        let set = "data.tokenizer=\"C:\\temp\"";
        assert!(load(PLAIN.as_bytes(), &[set]).unwrap_err().contains("<tab>"));
        assert!(load(PLAIN.as_bytes(), &["data.tokenizer=\"C:\\Users\""]).is_err());
        load(PLAIN.as_bytes(), &["data.tokenizer=C:\\temp"]).unwrap();
    }

    #[test]
    fn a_fault_is_told_with_its_line_and_in_words_for_users() {
        for (old, new, words) in [
            (
                "seed = 1",
                "seed = \"one\"",
                "line 2, column 8: expected a whole number from 0, found the text \"one\"",
            ),
            ("seed = 1", "seed = -1", "found the number `-1`"),
            ("seed = 1", "seed = 1.5", "expected a whole number from 0, found the number `1.5`"),
            (
                "seed = 1",
                "seed = 99999999999999999999",
                "line 2, column 8: integer `99999999999999999999` is too large",
            ),
            ("seed = 1", "seed = 1\nseed = 2", "duplicate key"),
            (
                "layers = 1",
                "layer = 1",
                "line 6, column 1: unknown key `layer`; did you mean `layers`?",
            ),
            ("steps = 4", "", "the key `steps` is missing"),
            ("[\"src\"]", "\"src\"", "line 10, column 10: expected a list"),
            ("\"autoregressive\"", "\"autoregresive\"", "did you mean `autoregressive`?"),
            ("\"autoregressive\"", "4", "expected one of the key's own words, as a text between"),
            ("[[stage]]", "[stage]", "[[stage]]"),
            ("[[stage]]", "[[stages]]", "did you mean `stage`?"),
            (
                "1e-3",
                "fast",
                "line 17, column 17: a value is a number, true or false, or a text between quotes",
            ),
            ("1e-3", "\"fast\"", "expected a number, found the text \"fast\""),
        ] {
            let error = fault(old, new);
            assert!(error.contains(words), "{new}: {error}");
            assert!(error.contains("r.toml"), "{error}");
        }
        let error = load(PLAIN.as_bytes(), &["stage.0.steps=many"]).map(|_| ()).unwrap_err();
        assert!(error.contains("steps") && error.contains("a whole number from 0"), "{error}");
        let utf_16: Vec<u8> =
            [0xff, 0xfe].into_iter().chain(PLAIN.bytes().flat_map(|b| [b, 0])).collect();
        assert!(load(&utf_16, &[]).unwrap_err().contains("save it as UTF-8"));
        let marked = [b"\xef\xbb\xbf", PLAIN.as_bytes()].concat();
        load(&marked, &[]).unwrap();
        load(PLAIN.replace('\n', "\r\n").as_bytes(), &[]).unwrap();
    }

    #[test]
    fn a_hole_with_its_marks_fits_into_a_window() {
        let with = |context: &str| {
            let set = [format!("data.fim={{rate=0.5, context={context}}}")];
            load(PLAIN.as_bytes(), &set.each_ref().map(String::as_str))
        };
        with("12").unwrap();
        let error = with("13").map(|_| ()).unwrap_err();
        assert!(error.contains("data.fim.context is 13, expected at most 12"), "{error}");
        assert!(with("0").map(|_| ()).unwrap_err().contains("expected a whole number from 1"));
    }

    #[test]
    fn names_of_recipes_and_stages_are_plain_file_names() {
        for name in [
            "../../elsewhere",
            "a/b",
            r"a\\b",
            "..",
            ".hidden",
            "",
            "-q",
            "a b",
            r"\u001b]0;owned\u0007",
            "nul",
            "COM1.txt",
            "ends.",
        ] {
            for (key, at) in [("\"mine\"", "name"), ("\"base\"", "stage.0")] {
                let error = fault(key, &format!("\"{name}\""));
                assert!(error.contains("plain file name") && error.contains(at), "{name}: {error}");
                assert!(!error.contains('\u{1b}'));
            }
        }
        for name in ["mine-2", "v1.5_b", "größe", "模型"] {
            load(PLAIN.replace("\"mine\"", &format!("\"{name}\"")).as_bytes(), &[]).unwrap();
        }
    }
}
