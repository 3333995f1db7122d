//! Tests what a resumed run does about recipes that have changed.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use super::*;
use crate::{Event, Outcome, RunOptions, TrainError, run};
use lacuna_test::timeless;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

mod changes;

const RECIPE: &str = r#"
name = "keys"
seed = 1
[model]
hidden_size = 16
intermediate_size = 16
layers = 1
heads = 2
[data]
tokenizer = "TOKENIZER"
corpus = ["src"]
window = 8
[sft]
samples = ["chat.jsonl"]
packing = "split-long"
[evaluation]
windows = 1
prompts = ["def"]
[[stage]]
name = "done"
objective = "autoregressive"
steps = 3
batch_size = 2
learning_rate = 1e-3
[[stage]]
name = "now"
objective = "block-diffusion"
block_size = 4
steps = 6
batch_size = 2
learning_rate = 1e-3
[[stage]]
name = "later"
objective = "block-diffusion"
block_size = 4
steps = 4
batch_size = 2
learning_rate = 1e-3
"#;

/// A folder with a recipe, its text, and a run of it in `run`.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures/tokenizer/tokenizer.json")
            .canonicalize()
            .unwrap();
        place.write("r.toml", &RECIPE.replace("TOKENIZER", tokenizer.to_str().unwrap()));
        for i in 0..24 {
            place.write(
                &format!("src/f{i}.py"),
                &format!("def f{i}(x):\n    return x + {i} * {i}\n"),
            );
        }
        let turn = |role: &str| format!("{{\"role\": \"{role}\", \"content\": \"two and two\"}}");
        let chat = format!("{{\"messages\": [{}, {}]}}\n", turn("user"), turn("assistant"));
        place.write("chat.jsonl", &chat.repeat(4));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs the recipe with some keys set; stops when `steps` are taken.
    fn run(
        &self,
        set: &[&str],
        (resume, accept_changes): (bool, bool),
        steps: u64,
    ) -> Result<Outcome, TrainError> {
        let set: Vec<String> = set
            .iter()
            .map(|item| item.replace("HERE", self.folder.path().to_str().unwrap()))
            .collect();
        let recipe = Recipe::load(&self.path("r.toml"), &set)?;
        let stop = AtomicBool::new(false);
        let options =
            RunOptions { resume, accept_changes, ..RunOptions::new(self.path("run"), &stop) };
        run(&recipe, &options, &mut |event| {
            let taken = match &event {
                Event::Ready { step, .. } => *step,
                Event::Step { metrics, .. } => metrics.step,
                _ => 0,
            };
            if taken >= steps {
                stop.store(true, Ordering::Relaxed);
            }
        })
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn recorded(&self) -> BTreeMap<String, toml::Value> {
        flat(&Recipe::load(&self.path("run/recipe.toml"), &[]).unwrap())
    }

    /// Copies the run's folder as it is now, to come back to.
    fn keep(&self) {
        copy(&self.path("run"), &self.path("kept"));
    }

    fn put_back(&self) {
        std::fs::remove_dir_all(self.path("run")).unwrap();
        copy(&self.path("kept"), &self.path("run"));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn told(result: Result<Outcome, TrainError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

/// Every key that the recipe's form knows, as serde lists them, stages without their number.
fn known_keys() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
    let sections = [
        "",
        "model",
        "data",
        "data.fim",
        "data.source.0",
        "sft",
        "lora",
        "optimizer",
        "stage.0",
        "stage.0.corruption",
        "evaluation",
    ];
    let mut known = BTreeSet::new();
    for section in sections {
        let dot = if section.is_empty() { "" } else { "." };
        let set = [
            "sft.samples=[\"a\"]".to_owned(),
            "lora.rank=1".to_owned(),
            "data.fim.rate=0.5".to_owned(),
            "data.source=[{corpus=[\"a\"]}]".to_owned(),
            format!("{section}{dot}no_such_key=1"),
        ];
        let error = Recipe::load(&path, &set).unwrap_err().to_string();
        let listed = error.split("known here: ").nth(1).expect(&error).split(')').next().unwrap();
        for key in listed.split(", ") {
            known.insert(numberless(&format!("{section}{dot}{key}")));
        }
    }
    for section in sections.map(numberless) {
        known.remove(&section);
    }
    known
}

fn numberless(key: &str) -> String {
    key.replace(".0", "")
}

#[test]
fn every_key_of_a_recipe_has_one_class() {
    let classed: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    assert_eq!(classed.len(), KEYS.len(), "a key stands twice");
    assert_eq!(classed, known_keys());
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/tiny.toml");
    for key in flat(&Recipe::load(&recipe, &[]).unwrap()).keys() {
        assert!(rule(key).is_some(), "{key}");
    }
}

#[test]
fn the_docs_have_the_table_of_classes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/write-a-recipe.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = |key: &Key| format!("| `{}` | {} | {} |\n", key.name, key.on_resume.word(), key.why);
    let table: String = KEYS.iter().map(row).collect();
    assert!(page.contains(&table), "docs/guides/write-a-recipe.md lacks:\n{table}");
}

#[test]
fn the_guide_explains_every_key_in_its_section_and_no_other() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/write-a-recipe.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, explained) = page.split_once("## Every key").unwrap();
    let (explained, _) = explained.split_once("## Resume a run").unwrap();
    let mut found = BTreeSet::new();
    for section in explained.split("\n### ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap();
        let prefix = match title {
            "Top level" => String::new(),
            // [`data`], [[stage]], [stage.corruption]: the name, and a dot.
            title => format!("{}.", title.trim_matches(['`', '[', ']'])),
        };
        // The rows of the section's first table; a row may be of several keys.
        let table = body.lines().skip_while(|line| !line.starts_with("| key |"));
        for row in table.skip(2).take_while(|line| line.starts_with('|')) {
            let keys = row.split('|').nth(1).unwrap();
            let keys = keys.split(',').map(|key| key.trim().trim_matches('`'));
            keys.for_each(|key| assert!(found.insert(format!("{prefix}{key}")), "{key} twice"));
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    let missing: Vec<_> = known.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
}

#[test]
fn the_checkpoint_that_a_run_began_from_may_move_and_not_change() {
    let place = Place::new();
    place.run(&["name=first"], (false, false), 99).unwrap();
    std::fs::rename(place.path("run"), place.path("first")).unwrap();
    let from = ["model.from=HERE/first/checkpoints/step-3"];
    place.run(&from, (false, false), 5).unwrap();
    place.keep();
    copy(&place.path("first/checkpoints/step-3"), &place.path("moved"));
    place.run(&["model.from=HERE/moved"], (true, false), 0).unwrap();
    place.put_back();
    let other = ["model.from=HERE/first/checkpoints/step-9"];
    let error = told(place.run(&other, (true, true), 0));
    assert!(error.contains("model.from"), "{error}");
}

#[test]
fn a_stage_to_come_may_be_changed_and_a_finished_one_may_not() {
    let place = Place::new();
    place.run(&[], (false, false), 5).unwrap();
    place.keep();
    for key in ["block_size=2", "steps=2", "learning_rate=3e-3", "name=last", "logit_shift=true"] {
        let set = format!("stage.2.{key}");
        assert!(told(place.run(&[&set], (true, false), 0)).contains("--accept-changes"), "{set}");
        place.run(&[&set], (true, true), 0).unwrap();
        place.put_back();
    }
    for key in ["steps=5", "steps=2", "learning_rate=3e-3", "batch_size=4"] {
        let error = told(place.run(&[&format!("stage.0.{key}")], (true, true), 0));
        assert!(error.contains("the stage is finished"), "{error}");
    }
    place.run(&["stage.0.checkpoint_every=9"], (true, false), 0).unwrap();
    place.put_back();
    let error = told(place.run(&["stage.1.steps=1"], (true, true), 0));
    assert!(error.contains("2 steps of the stage are taken"), "{error}");
    // An edited recipe.toml in the run's folder is no way around that.
    let edited = String::from_utf8(place.read("run/recipe.toml")).unwrap();
    place.write("run/recipe.toml", &edited.replace("block_size = 4", "block_size = 2"));
    std::fs::copy(place.path("run/recipe.toml"), place.path("r.toml")).unwrap();
    assert!(told(place.run(&[], (true, true), 0)).contains("stage.1.block_size: 4 → 2"));
}

#[test]
fn a_finished_run_is_left_alone_and_can_be_given_more_steps_or_stages() {
    let place = Place::new();
    let whole = place.run(&["stage.2.steps=7"], (false, false), 99).unwrap();
    assert!(!whole.interrupted && !whole.finished_before);
    let unbroken = place.read("run/final/model.safetensors");
    let metrics = steps(&place.path("run/metrics.jsonl"));
    std::fs::remove_dir_all(place.path("run")).unwrap();

    place.run(&[], (false, false), 99).unwrap();
    place.keep();
    let files = snapshot(&place.path("run"));
    assert!(place.run(&[], (true, false), 0).unwrap().finished_before);
    assert_eq!(snapshot(&place.path("run")), files, "a finished run was touched");
    assert!(told(place.run(&["stage.2.steps=7"], (true, false), 99)).contains("--accept-changes"));
    let more = place.run(&["stage.2.steps=7"], (true, true), 99).unwrap();
    assert!(!more.interrupted && !more.finished_before);
    assert!(place.read("run/final/model.safetensors") == unbroken, "extended is not unbroken");
    assert_eq!(steps(&place.path("run/metrics.jsonl")), metrics);

    // After its learning rate has fallen, more steps would be of no schedule that anybody asked for.
    std::fs::remove_dir_all(place.path("run")).unwrap();
    place.run(&["stage.2.learning_rate_decay=2"], (false, false), 99).unwrap();
    let error =
        told(place.run(&["stage.2.learning_rate_decay=2", "stage.2.steps=7"], (true, true), 99));
    assert!(error.contains("add a [[stage]]"), "{error}");
}

/// The steps among the lines.
fn steps(path: &Path) -> Vec<serde_json::Value> {
    let mut lines = timeless(path);
    lines.retain(|line| line.get("loss").is_some());
    lines
}

/// Every file under a folder, with its bytes' hash.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_none_or(|name| name != ".lock") {
                let hash = blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string();
                files.insert(path, hash);
            }
        }
    }
    files
}

#[test]
fn a_diverged_run_takes_the_lower_learning_rate_that_it_is_advised_to_take() {
    let place = Place::new();
    let every = "stage.1.checkpoint_every=1";
    let error = told(place.run(&[every, "stage.1.learning_rate=1e30"], (false, false), 99));
    assert!(error.contains("learning_rate"), "{error}");
    let block = told(place.run(&[every, "stage.1.block_size=2"], (true, false), 99));
    assert!(block.contains("stage.1.block_size"), "{block}");
    assert!(!place.run(&[every], (true, false), 99).unwrap().interrupted);
    let record = String::from_utf8(place.read("run/run.json")).unwrap();
    assert!(record.contains("\"stage.1.learning_rate\""), "{record}");
}

#[test]
fn a_run_that_is_stopped_anywhere_and_resumed_is_an_unbroken_one() {
    let place = Place::new();
    place.run(&[], (false, false), 99).unwrap();
    let files = ["run/final/model.safetensors", "run/results.json", "run/recipe.toml"];
    let unbroken = files.map(|file| place.read(file));
    let metrics = timeless(&place.path("run/metrics.jsonl"));
    std::fs::remove_dir_all(place.path("run")).unwrap();
    // Before the first step, in every stage, at the end of each, and at the very end.
    let mut resume = false;
    for steps in [0, 1, 3, 4, 9, 9, 11, 13] {
        let outcome = place.run(&[], (resume, false), steps).unwrap();
        assert!(outcome.interrupted, "{steps}");
        resume = true;
    }
    assert!(!place.path("run/final").exists());
    assert!(!place.run(&[], (true, false), 99).unwrap().interrupted);
    for (file, bytes) in files.iter().zip(&unbroken) {
        assert!(place.read(file) == *bytes, "{file}");
    }
    assert_eq!(timeless(&place.path("run/metrics.jsonl")), metrics);
    assert!(place.run(&[], (true, false), 99).unwrap().finished_before);
}

#[test]
fn a_run_that_saved_nothing_starts_again_and_no_error_points_in_a_circle() {
    let place = Place::new();
    // Nothing at all is there at first: the command that a scheduler repeats is the first one too.
    place.run(&[], (true, false), 1).unwrap();
    std::fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    let error = told(place.run(&[], (false, false), 1));
    assert!(error.contains("--resume starts it again"), "{error}");
    let outcome = place.run(&["seed=5"], (true, false), 99).unwrap();
    assert!(!outcome.interrupted);
    assert_eq!(place.recorded()["seed"].as_integer(), Some(5));
    // A model without its checkpoints is not written over.
    std::fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    for resume in [false, true] {
        assert!(
            told(place.run(&["seed=5"], (resume, false), 1)).contains("holds a finished model")
        );
    }
}

#[test]
fn a_key_that_can_not_be_met_is_blamed_on_the_recipe() {
    let place = Place::new();
    for (set, words) in [
        ("model.mask_token=nothing", "model.mask_token is `nothing`"),
        ("model.heads=5", "model.heads is 5"),
        ("model.kv_heads=3", "model.kv_heads is 3"),
        ("model.rope_theta=0.0", "model.rope_theta is 0"),
        ("model.layers=5000", "model.layers = 5000"),
    ] {
        let error = told(place.run(&[set], (false, false), 1));
        assert!(error.contains("r.toml") && error.contains(words), "{error}");
        assert!(!error.contains("config.json") && !error.contains("run directory"), "{error}");
    }
}
