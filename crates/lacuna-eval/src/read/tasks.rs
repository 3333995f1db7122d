//! Makes tasks of a benchmark's own objects.

use super::fields::Fields;
use crate::benchmark::Format;
use crate::language::Language;
use crate::task::{CompletionEnd, Dataset, Task, Tests};

/// The task of an object, which is the `number`th of its file.
pub(super) fn task(format: Format, fields: &Fields<'_>, number: usize) -> Result<Task, String> {
    match format {
        Format::HumanEval => human_eval(fields),
        Format::HumanEvalPlus => plus(fields, Dataset::HumanEval),
        Format::MbppPlus => plus(fields, Dataset::Mbpp),
        Format::Mbpp => mbpp(fields),
        Format::CruxOutput => crux(fields, number, false),
        Format::CruxInput => crux(fields, number, true),
        Format::EditDescriptive => edit(fields, number, "instruction_descriptive"),
        Format::Mbxp(language) => mbxp(fields, language),
        Format::MultiplE(language) => multipl_e(fields, language),
        Format::BigCodeBench => big_code(fields),
        Format::Exercism => Err("an exercise is a folder, and no object".into()),
        Format::EditLazy => edit(fields, number, "instruction_lazy"),
    }
}

fn human_eval(fields: &Fields<'_>) -> Result<Task, String> {
    Ok(Task {
        id: fields.text("task_id")?,
        prompt: fields.text("prompt")?,
        suffix: fields.text("suffix").ok(),
        instruction: None,
        entry: fields.text("entry_point")?,
        canonical: fields.text("canonical_solution")?,
        tests: Tests::Check { program: fields.text("test")?, takes_candidate: true },
    })
}

fn plus(fields: &Fields<'_>, dataset: Dataset) -> Result<Task, String> {
    let inputs = |key: &str| {
        let raw = fields.raw(key)?;
        // MBPP+ has an object in place of an empty list.
        Ok::<_, String>(if raw == "{}" { "[]".to_owned() } else { raw.to_owned() })
    };
    let atol = fields.json("atol")?.as_f64().ok_or("`atol` is no number")?;
    if !(0.0..=1.0).contains(&atol) {
        return Err(format!("`atol` is {atol}, expected 0 to 1"));
    }
    Ok(Task {
        id: fields.text("task_id")?,
        prompt: fields.text("prompt")?,
        suffix: None,
        instruction: None,
        entry: fields.text("entry_point")?,
        canonical: fields.text("canonical_solution")?,
        tests: Tests::Differential {
            base: inputs("base_input")?,
            plus: inputs("plus_input")?,
            atol,
            dataset,
        },
    })
}

fn mbpp(fields: &Fields<'_>) -> Result<Task, String> {
    let number = fields.json("task_id")?;
    let number = number.as_u64().ok_or("`task_id` is no number")?;
    // The sanitized tasks say `prompt`, all of them together `text`.
    let words = fields.text("prompt").or_else(|_| fields.text("text"))?;
    let (code, tests) = (fields.text("code")?, fields.texts("test_list")?);
    let first = tests.first().ok_or("`test_list` is empty")?;
    let mut setup = fields.texts("test_imports")?;
    setup.extend(fields.text("test_setup_code"));
    let entry = tested(&code, first).ok_or("no function of `code` is called in `test_list`")?;
    Ok(Task {
        id: format!("Mbpp/{number}"),
        // The form that EvalPlus gives it.
        prompt: format!("\"\"\"\n{}\n{first}\n\"\"\"\n", words.trim()),
        suffix: None,
        instruction: None,
        entry,
        canonical: code.replace("\r\n", "\n"),
        tests: Tests::Check { program: [setup, tests].concat().join("\n"), takes_candidate: false },
    })
}

/// The function of a program that a test calls: of those that are called, the one that comes first.
fn tested(code: &str, test: &str) -> Option<String> {
    let defined = code.lines().filter_map(|line| line.strip_prefix("def ")?.split('(').next());
    let place = |name: &str| {
        let call = format!("{name}(");
        let calls = test.match_indices(&call);
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        calls.map(|(at, _)| at).find(|at| !test[..*at].ends_with(is_name))
    };
    let called = defined.map(str::trim).filter_map(|name| Some((place(name)?, name.to_owned())));
    called.min().map(|(_, name)| name)
}

fn crux(fields: &Fields<'_>, number: usize, asks_input: bool) -> Result<Task, String> {
    let (code, output) = (fields.text("code")?, fields.text("output")?);
    let input = fields.text("input")?;
    let (shown, canonical, tests) = match asks_input {
        true => {
            let tests = Tests::Input { code: code.clone(), output: output.clone() };
            (format!("{code}\nassert f(??) == {output}"), format!("f({input})"), tests)
        }
        false => {
            let tests = Tests::Output { output: output.clone() };
            (format!("{code}\nassert f({input}) == ??"), output, tests)
        }
    };
    Ok(Task {
        id: fields.text("id").unwrap_or_else(|_| format!("sample_{number}")),
        prompt: shown,
        suffix: None,
        instruction: None,
        entry: "f".into(),
        canonical,
        tests,
    })
}

fn mbxp(fields: &Fields<'_>, language: Language) -> Result<Task, String> {
    Ok(Task {
        id: fields.text("task_id")?,
        prompt: fields.text("prompt")?,
        suffix: None,
        instruction: None,
        entry: fields.text("entry_point")?,
        // Some tasks have none.
        canonical: fields.text("canonical_solution").unwrap_or_default(),
        tests: Tests::Behind {
            language,
            program: fields.text("test")?,
            end: CompletionEnd::ClosingLine,
        },
    })
}

fn multipl_e(fields: &Fields<'_>, language: Language) -> Result<Task, String> {
    let known = match language {
        Language::JavaScript => "js",
        Language::Cpp => "cpp",
        Language::Php => "php",
        _ => "sh",
    };
    let told = fields.text("language")?;
    if told != known {
        let told = lacuna_files::short(&told);
        return Err(format!(
            "`language` is `{told}`, expected `{known}`: this is another benchmark's file"
        ));
    }
    let stops = fields.texts("stop_tokens")?;
    if stops.is_empty() {
        return Err("`stop_tokens` is missing or empty".into());
    }
    if stops.iter().any(String::is_empty) {
        return Err("a text of `stop_tokens` is empty".into());
    }
    let name = fields.text("name")?;
    let entry = name.splitn(3, '_').nth(2).ok_or_else(|| {
        format!("`name` is `{}`, expected one like HumanEval_23_strlen", lacuna_files::short(&name))
    })?;
    let entry = entry.to_owned();
    Ok(Task {
        id: name,
        prompt: fields.text("prompt")?,
        suffix: None,
        instruction: None,
        entry,
        canonical: String::new(),
        tests: Tests::Behind {
            language,
            program: fields.text("tests")?,
            end: CompletionEnd::Before(stops),
        },
    })
}

fn big_code(fields: &Fields<'_>) -> Result<Task, String> {
    Ok(Task {
        id: fields.text("task_id")?,
        prompt: fields.text("complete_prompt")?,
        suffix: None,
        instruction: None,
        entry: fields.text("entry_point")?,
        canonical: fields.text("canonical_solution")?,
        tests: Tests::Cases { program: fields.text("test")?, head: fields.text("code_prompt")? },
    })
}

fn edit(fields: &Fields<'_>, number: usize, instruction: &str) -> Result<Task, String> {
    Ok(Task {
        id: fields.text("full_name").unwrap_or_else(|_| format!("edit_{number}")),
        prompt: fields.text("before")?,
        suffix: None,
        instruction: Some(fields.text(instruction)?),
        entry: String::new(),
        canonical: fields.text("after")?,
        tests: Tests::Together { program: fields.text("tests")? },
    })
}
