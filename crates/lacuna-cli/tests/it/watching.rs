//! Runs that are watched: plots, reports, samples, plans, and the dashboard's terminal.

use crate::support::{lacuna, said, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

fn recipe() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml").display().to_string()
}

/// A run that was scored, sampled and told to TensorBoard on the way.
fn watched() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = RUN.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("watched").display().to_string();
        let set = ["evaluation.evaluate_every=5", "evaluation.sample_every=5"];
        let recipe = recipe();
        let args =
            ["train", &recipe, "--out", &out, "--tensorboard", "--set", set[0], "--set", set[1]];
        let text = stdout(&lacuna(&args));
        assert!(text.contains("report.html"), "{text}");
        place
    });
    static NAME: OnceLock<PathBuf> = OnceLock::new();
    NAME.get_or_init(|| place.path().join("watched"))
}

fn in_folder(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lacuna")).args(args).current_dir(folder).output().unwrap()
}

#[test]
fn a_report_is_one_page_that_asks_no_other_host_for_anything() {
    let page = std::fs::read_to_string(watched().join("report.html")).unwrap();
    for part in [
        "<title>watched: a run of lacuna</title>",
        "exact-nelbo",
        "<svg",
        "hidden_size = 32",
        "processor",
        "After step 20, stage block-diffusion",
        "default-src &#x27;none&#x27;",
    ] {
        let plain = part.replace("&#x27;", "'");
        assert!(page.contains(&plain), "{plain}");
    }
    // The name space of SVG is a name and no address that is fetched.
    let rest = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!rest.contains(outside), "{outside}");
    }
    let place = tempfile::tempdir().unwrap();
    let run = watched().display().to_string();
    stdout(&in_folder(place.path(), &["plot", &run, "--html", "again.html"]));
    assert!(place.path().join("again.html").is_file());
}

#[test]
fn what_a_run_wrote_on_the_way_is_replayed_refinement_by_refinement() {
    let run = watched();
    let lines = std::fs::read_to_string(run.join("samples.jsonl")).unwrap();
    let steps: Vec<u64> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(steps, [5, 10, 15, 20, 25]);
    for step in steps {
        let trace = run.join(format!("samples/step-{step}.jsonl")).display().to_string();
        let model = run.join("final").display().to_string();
        let text = stdout(&lacuna(&["replay", &trace, "--model", &model]));
        assert!(text.contains("the replay agrees"), "{text}");
    }
}

#[test]
fn runs_are_drawn_and_compared_and_nothing_else_is_written() {
    let place = tempfile::tempdir().unwrap();
    let run = watched().display().to_string();
    let names = |folder: &Path| {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = names(watched());
    stdout(&in_folder(place.path(), &["plot", &run]));
    assert_eq!(names(place.path()), ["watched.png", "watched.svg"]);
    let metrics = watched().join("metrics.jsonl").display().to_string();
    for against in ["steps", "tokens", "hours"] {
        stdout(&in_folder(place.path(), &["plot", &run, &metrics, "--against", against]));
        let svg = std::fs::read_to_string(place.path().join("compare.svg")).unwrap();
        for part in ["nats per token", "gradient norm", "tokens per second", "exact block NELBO"] {
            assert!(svg.contains(part), "{part}");
        }
        // Two runs of one name go by their paths.
        assert!(svg.contains("metrics.jsonl"), "{against}");
    }
    stdout(&in_folder(place.path(), &["plot", &run, &run, "--out", "a.b.png"]));
    assert!(place.path().join("a.b.svg").is_file() && place.path().join("a.b.png").is_file());
    assert_eq!(names(watched()), before);
}

#[test]
fn what_is_no_run_is_told_by_its_name() {
    let place = tempfile::tempdir().unwrap();
    let run = watched().display().to_string();
    std::fs::write(place.path().join("empty.jsonl"), "").unwrap();
    std::fs::write(place.path().join("torn.jsonl"), &[0xff, 0x7b][..]).unwrap();
    let nine = vec![run.as_str(); 9];
    for (args, words) in [
        (vec!["plot", "nowhere", &run], "nowhere"),
        (vec!["plot", "empty.jsonl"], "no step has been taken"),
        (vec!["plot", "torn.jsonl"], "no step has been taken"),
        (vec!["plot", ".", &run], "metrics.jsonl"),
        (vec!["plot", ".", "--html", "x.html"], "no run's folder"),
        (vec!["plot", &run, "--out", "no/such/folder"], "no/such"),
        ([&["plot"][..], &nine].concat(), "8 at most"),
    ] {
        let output = in_folder(place.path(), &args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{args:?}: {}", said(&output));
    }
    let output = in_folder(place.path(), &["plot", &run, &run, "--html", "x.html"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(!place.path().join("x.html").exists());
}

#[test]
fn a_plan_says_what_a_run_takes_and_writes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let text = stdout(&in_folder(place.path(), &["train", &recipe(), "--plan", "--json"]));
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["tokens"], 25 * 4 * 32);
    let memory = &plan["memory"];
    assert_eq!(memory["weights"].as_u64(), plan["parameters"].as_u64().map(|n| 4 * n));
    assert!(plan["stages"][1]["flop_per_step"].as_f64() > Some(1e6), "{plan}");
    assert!(plan["stages"][0]["seconds_per_step"].as_f64() > Some(0.0), "{plan}");
    let devices: Vec<_> = plan["devices"].as_array().unwrap().iter().map(|d| &d["name"]).collect();
    assert_eq!(devices, ["H200 SXM", "H100 SXM", "A100 SXM", "RTX 4090"]);
    let h100 = &plan["devices"][1];
    let seconds = plan["flop"].as_f64().unwrap() / (0.4 * 989e12);
    assert!((h100["seconds"].as_f64().unwrap() - seconds).abs() < 1e-9 * seconds);
    let table = stdout(&in_folder(place.path(), &["train", &recipe(), "--plan"]));
    for part in ["block-diffusion", "gradients", "this machine", "RTX 4090", "arithmetic"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    let refused = in_folder(place.path(), &["train", &recipe(), "--plan", "--resume"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}

/// On Linux, where a process can read what it held at most.
#[cfg(target_os = "linux")]
#[test]
fn a_plan_s_memory_is_what_the_run_then_takes() {
    // Thirteen million parameters: what they take is most of what the process has.
    const SET: &[&str] = &[
        "model.hidden_size=512",
        "model.intermediate_size=1408",
        "model.layers=4",
        "model.heads=8",
        "model.kv_heads=8",
        "data.window=128",
        "stage.0.steps=2",
        "stage.0.learning_rate_warmup=0",
        "stage.1.steps=2",
        "stage.1.corruption.warmup_steps=0",
        "evaluation.windows=0",
        "evaluation.prompts=[]",
    ];
    let place = tempfile::tempdir().unwrap();
    for (name, more) in [
        ("whole", "optimizer.moments=f32"),
        ("rounded", "optimizer.moments=8-bit"),
        ("averaged", "optimizer.ema_decay=0.9"),
    ] {
        let recipe = recipe();
        let set = SET.iter().chain([&more]).flat_map(|item| ["--set", item]);
        let out = place.path().join(name).display().to_string();
        let args: Vec<&str> = ["train", &recipe].into_iter().chain(set).collect();
        let plan = stdout(&in_folder(place.path(), &[&args[..], &["--plan", "--json"]].concat()));
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        let parts = plan["memory"].as_object().unwrap();
        let planned = parts["total"].as_f64().unwrap();
        drop(stdout(&in_folder(place.path(), &[&args[..], &["--out", &out]].concat())));
        let record = std::fs::read(place.path().join(name).join("run.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let taken = record["peak_memory_bytes"].as_f64().unwrap();
        // Not planned are memory that the allocator keeps, and pages of files that the system counts.
        assert!(
            (0.8..1.3).contains(&(planned / taken)),
            "{name}: {planned} planned, {taken} taken"
        );
    }
}

#[test]
fn a_dashboard_without_a_terminal_is_wrong_usage() {
    let place = tempfile::tempdir().unwrap();
    let output = in_folder(place.path(), &["train", &recipe(), "--tui"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--tui needs a terminal"), "{}", said(&output));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn no_line_says_that_nothing_is_left_while_something_is() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("run").display().to_string();
    // A warmup so long that its first steps mask nothing.
    let set = ["stage.0.steps=3", "stage.1.steps=40", "stage.1.corruption.warmup_steps=40"];
    let mut args = vec!["train", "", "--out", &out, "--set", "evaluation.prompts=[]"];
    let recipe = recipe();
    args[1] = &recipe;
    set.iter().for_each(|set| args.extend(["--set", set]));
    let output = lacuna(&args);
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("nothing masked"), "{told}");
    assert!(!told.contains("about 0 s left"), "{told}");
    let last = told.lines().rfind(|line| line.contains("step 43/43")).unwrap();
    assert!(!last.contains("left"), "{last}");
}

/// The dashboard of a run that goes on for ever, under `script`, which is a terminal: what it wrote, once `end` has
/// ended the process of this number. `None` where there is no `script`.
#[cfg(target_os = "linux")]
fn on_a_terminal(run: &Path, end: impl FnOnce(u32)) -> Option<String> {
    use std::time::{Duration, Instant};
    let typescript = run.with_extension("typescript");
    let command = format!(
        "stty rows 24 cols 80; '{}' train '{}' --tui --out '{}' --set stage.0.steps=1000000; echo status $?; stty -a",
        env!("CARGO_BIN_EXE_lacuna"),
        recipe(),
        run.display()
    );
    let mut script = Command::new("script");
    script.args(["-q", "-f", "-c", &command]).arg(&typescript);
    script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = script.spawn().ok()?;
    let began = Instant::now();
    let taken = || std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    while taken().lines().count() < 3 {
        assert!(began.elapsed() < Duration::from_secs(120), "no step was taken");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(600));
    let lock = std::fs::read_to_string(run.join(".lock")).unwrap();
    end(lock.trim().trim_start_matches("process ").parse().unwrap());
    child.wait().unwrap();
    Some(String::from_utf8_lossy(&std::fs::read(&typescript).unwrap()).into_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn the_terminal_is_given_back_by_every_signal_that_ends_a_dashboard() {
    let place = tempfile::tempdir().unwrap();
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138)] {
        let run = place.path().join(signal);
        let Some(text) = on_a_terminal(&run, |process| {
            let args = [format!("-{signal}"), process.to_string()];
            assert!(Command::new("kill").args(args).status().unwrap().success());
        }) else {
            return;
        };
        assert!(text.contains("step") && text.contains("training"), "a picture: {text}");
        let (before, after) = text.rsplit_once("\u{1b}[?1049l").expect("the screen is left");
        assert!(before.contains("\u{1b}[?1049h") && !after.contains("\u{1b}[?1049h"));
        assert!(text.rfind("\u{1b}[?25h") > text.rfind("\u{1b}[?25l"), "the cursor is shown");
        assert!(after.contains("checkpoints/step-"), "{after}");
        assert!(after.contains(&format!("status {status}")), "SIG{signal}: {after}");
        assert!(after.contains(" icanon") && after.contains(" echo "), "{after}");
        assert!(run.join("checkpoints").read_dir().unwrap().count() > 0);
    }
}
