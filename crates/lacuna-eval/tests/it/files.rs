//! Holds the readers of samples to the forms of four harnesses.

use lacuna_eval::{Benchmark, Sample, Task, read_samples, read_tasks};
use std::path::Path;

use crate::support::{problems, problems_file};

fn read(text: &str) -> lacuna_eval::Result<Vec<Sample>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples");
    std::fs::write(&path, text).unwrap();
    read_samples(&path, &problems())
}

fn programs(text: &str) -> Vec<(String, usize, String)> {
    let samples = read(text).unwrap_or_else(|error| panic!("{error}"));
    samples.into_iter().map(|sample| (sample.task, sample.number, sample.program)).collect()
}

fn first() -> Task {
    problems().remove(0)
}

#[test]
fn samples_of_four_harnesses_are_read() {
    let task = first();
    let (completion, whole) = ("    return 1\n", task.program("    return 1\n"));
    let is = |text: &str| {
        assert_eq!(programs(text)[0], ("Own/0".to_owned(), 0, whole.clone()), "{text}")
    };
    let line =
        |key: &str, text: &str| serde_json::json!({ "task_id": "Own/0", key: text }).to_string();
    is(&line("completion", completion));
    is(&line("solution", &whole));
    is(&serde_json::json!([[whole]]).to_string());
    is(&serde_json::json!({ "Own/0": [whole] }).to_string());
    let doc = serde_json::json!({ "task_id": "Own/0" });
    is(&serde_json::json!({ "doc_id": 0, "doc": doc, "resps": [["x"]], "filtered_resps": [[whole]] }).to_string());
    is(&serde_json::json!({ "doc_id": 0, "doc": doc, "resps": [[completion]] }).to_string());
    let two = format!("{}\n{}\n", line("completion", "a"), line("completion", "b"));
    let numbers: Vec<_> = programs(&two).into_iter().map(|(_, number, _)| number).collect();
    assert_eq!(numbers, [0, 1], "samples of a task are counted");
}

#[test]
fn what_is_no_samples_is_refused_with_its_line() {
    for (text, reason) in [
        ("", "no sample"),
        ("{\"task_id\": \"Own/0\"}", "neither"),
        ("{\"x\": 1}", "no `task_id`"),
        ("{\"task_id\": \"Other/0\", \"completion\": \"\"}", "no task of the benchmark"),
        ("[1]", "no list"),
        ("[[1]]", "no text"),
        ("not json", ":1:"),
        ("{\"doc\": {}}", "no `task_id` in `doc`"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let many = serde_json::json!(vec![vec!["x"]; 13]).to_string();
    assert!(read(&many).unwrap_err().to_string().contains("13 tasks"));
}

#[test]
fn a_file_that_is_not_there_or_no_file_is_an_error() {
    let humaneval = Benchmark::named("humaneval").unwrap();
    assert!(read_tasks(humaneval, Path::new("/nowhere")).is_err());
    assert!(read_tasks(humaneval, problems_file().parent().unwrap()).is_err());
}

#[cfg(feature = "fetch")]
#[test]
fn a_cached_file_is_held_to_its_hash() {
    use lacuna_eval::cached;
    let folder = tempfile::tempdir().unwrap();
    let humaneval = Benchmark::named("humaneval").unwrap();
    assert_eq!(cached(humaneval, folder.path()).unwrap(), None);
    let name = humaneval.source.url.unwrap().rsplit('/').next().unwrap();
    std::fs::write(folder.path().join(name), "another").unwrap();
    assert!(
        cached(humaneval, folder.path()).unwrap_err().to_string().contains("expected b4e2844c")
    );
    let plus = Benchmark::named("humaneval+").unwrap();
    let name = plus.source.url.unwrap().rsplit('/').next().unwrap();
    std::fs::write(folder.path().join(name), "first").unwrap();
    std::fs::write(
        folder.path().join(format!("{name}.sha256")),
        format!("{}  {name}\n", "0".repeat(64)),
    )
    .unwrap();
    assert!(cached(plus, folder.path()).is_err(), "the recorded hash counts");
}
