//! Writes a run's report: one page that needs nothing else, with curves, scores, samples as they were denoised, recipe
//! and machine.

use anyhow::{Context, Result, bail};
use lacuna::text::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};

use super::super::replay::{SCRIPT, STYLE, open_tokenizer, page_data};
use super::pace::duration;
use super::plot::{as_svg, named_after};

/// No text of a run is longer that a page is made of.
const LONGEST: u64 = 64 << 20;
/// Samples of so many steps are shown, from the first to the last.
const MOST_STEPS: usize = 6;

/// Writes `report.html` into a run's folder.
///
/// # Errors
/// Errors if the metrics can't be read or the page can't be written.
pub(super) fn write_into(run: &Path) -> Result<()> {
    if !run.join("metrics.jsonl").exists() {
        return Ok(());
    }
    let path = run.join("report.html");
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        bail!("{}: there is something of this name that is no file", path.display());
    }
    Ok(lacuna_files::write_file(&path, page(run)?.as_bytes())?)
}

/// The report of a run, as it stands.
///
/// # Errors
/// Errors if the folder holds no run or its metrics can't be read.
pub(crate) fn page(run: &Path) -> Result<String> {
    let metrics = run.join("metrics.jsonl");
    if !metrics.is_file() {
        bail!("{}: no run's folder, it has no metrics.jsonl", run.display());
    }
    let read = |name: &str| lacuna_files::read_text(&run.join(name), LONGEST).unwrap_or_default();
    let object = |name: &str| serde_json::from_str::<Value>(&read(name)).unwrap_or_default();
    let (record, results) = (object("run.json"), object("results.json"));
    let data = page_data(&traces(run), tokenizer(run).as_ref());
    let has_samples = data["requests"].as_array().is_some_and(|all| !all.is_empty());
    let mut engine = minijinja::Environment::new();
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    let page = engine.template_from_str(include_str!("report.html"))?;
    let context = minijinja::context! {
        name => named_after(run),
        state => state(run, &record),
        facts => facts(&record),
        scores => scores(&results),
        pictures => as_svg(run).context("drawing the curves")?,
        machines => machines(&record),
        recipe => read("recipe.toml"),
        has_samples,
        data => minijinja::value::Serde(data),
        style => STYLE,
        script => SCRIPT,
    };
    Ok(page.render(context)?)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn state(run: &Path, record: &Value) -> &'static str {
    let last = record["sessions"].as_array().and_then(|all| all.last());
    let recipe = lacuna::train::Recipe::load(&run.join("recipe.toml"), &[]);
    let all = recipe.ok().map(|recipe| recipe.total_steps());
    match last.map(|session| (session["end"].as_str(), session["to_step"].as_u64())) {
        Some((Some("finished"), _)) => "finished",
        // The report of a run that ends is written just before its record says so.
        Some((None, taken)) if taken.is_some() && taken == all => "finished",
        Some((Some(_), _)) => "stopped, to be resumed",
        _ => "under way, or killed",
    }
}

/// Rows of what the record says: names and values.
fn facts(record: &Value) -> Vec<(&'static str, String)> {
    let last = record["sessions"].as_array().and_then(|all| all.last()).cloned();
    let last = last.unwrap_or_default();
    let sessions = record["sessions"].as_array().map_or(0, Vec::len);
    let seconds = record["seconds"].as_f64().filter(|seconds| *seconds > 0.0);
    let bytes = |value: &Value| {
        value
            .as_u64()
            .map_or(String::new(), |n| format!("{:.0} MiB", n as f64 / f64::from(1 << 20)))
    };
    let rows = vec![
        ("started", text(&record["started"])),
        ("last saved", text(&record["ended"])),
        ("steps saved", text(&last["to_step"])),
        ("time", seconds.map_or(String::new(), duration)),
        ("starts", sessions.to_string()),
        ("memory at most", bytes(&record["peak_memory_bytes"])),
        ("seed", text(&record["seed"])),
        ("recipe", text(&record["recipe"])),
    ];
    rows.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// Rows of the scores before the first step, if there are any, and of the stages': stage, measure, nats a token, bits a
/// byte.
fn scores(results: &Value) -> Vec<[String; 4]> {
    let stages = results["stages"].as_array().cloned().unwrap_or_default();
    let start = Some(results["start"].clone()).filter(Value::is_object);
    let number = |value: &Value| value.as_f64().map_or("–".to_owned(), |n| format!("{n:.3}"));
    let rows = start.into_iter().chain(stages).flat_map(|stage| {
        let scores = stage["scores"].as_array().cloned().unwrap_or_default();
        scores.into_iter().map(move |score| {
            let (nats, bits) = (&score["nats_per_token"], &score["bits_per_byte"]);
            [text(&stage["stage"]), text(&score["name"]), number(nats), number(bits)]
        })
    });
    rows.collect()
}

/// The machines that the run was on, each once, newest last: names and values.
fn machines(record: &Value) -> Vec<Vec<(&'static str, String)>> {
    let mut found: Vec<Vec<(&'static str, String)>> = Vec::new();
    for session in record["sessions"].as_array().into_iter().flatten() {
        let machine = &session["machine"];
        let gib = machine["memory_bytes"]
            .as_u64()
            .map_or(String::new(), |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
        let rows = vec![
            ("processor", text(&machine["processor"])),
            ("cores", text(&machine["cores"])),
            ("threads", text(&machine["threads"])),
            ("memory", gib),
            ("system", text(&machine["system"])),
            ("device", text(&machine["device"])),
            ("lacuna", format!("{} {}", text(&machine["version"]), text(&machine["commit"]))),
        ];
        let rows: Vec<_> = rows.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        if !found.contains(&rows) {
            found.push(rows);
        }
    }
    found
}

/// The traces of the samples of some steps, from the first to the last: a title, the file's text, the request's number.
fn traces(run: &Path) -> Vec<(String, String, usize)> {
    let lines = lacuna_files::read_text(&run.join("samples.jsonl"), LONGEST).unwrap_or_default();
    let lines: Vec<Value> =
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut steps: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
    steps.dedup();
    let last = steps.len().saturating_sub(1);
    let count = steps.len().min(MOST_STEPS);
    let chosen: Vec<u64> = (0..count).map(|i| steps[i * last / (count - 1).max(1)]).rev().collect();
    let mut found = Vec::new();
    for step in chosen {
        for line in lines.iter().filter(|line| line["step"].as_u64() == Some(step)) {
            let file = run.join("samples").join(format!("step-{step}.jsonl"));
            let Ok(trace) = lacuna_files::read_text(&file, LONGEST) else { continue };
            let number = line["request"].as_u64().unwrap_or(0) as usize;
            let title = format!("After step {step}, stage {}", text(&line["stage"]));
            found.push((title, trace, number));
        }
    }
    found
}

/// The tokenizer of the run's model, wherever in its folder one is found.
fn tokenizer(run: &Path) -> Option<Tokenizer> {
    let checkpoints = lacuna_files::list(&run.join("checkpoints")).unwrap_or_default();
    let mut places: Vec<PathBuf> = vec![run.join("final")];
    places.extend(checkpoints);
    let found = places.iter().find_map(|place| open_tokenizer(place).ok());
    found.or_else(|| {
        let recipe = lacuna::train::Recipe::load(&run.join("recipe.toml"), &[]).ok()?;
        lacuna::train::open_tokenizer(&recipe.data.tokenizer).ok()
    })
}
