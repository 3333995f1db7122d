//! Tests the page, what it may load, and the passes that it draws.

use crate::support::Server;
use serde_json::json;
use std::io::Write;
use std::process::Command;

#[test]
fn the_page_may_load_nothing_but_itself() {
    let server = Server::start();
    let page = server.get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(page.text.contains("lacuna/watch"));
}

#[test]
fn every_pass_of_what_is_watched_is_told_and_adds_up_to_the_text() {
    let server = Server::start();
    for (task, block) in [("continue", 4), ("fill", 8), ("edit", 4)] {
        let body = json!({"task": task, "text": "def f(x):\n    return ", "suffix": "\n", "instruction": "go on",
            "max_tokens": 24, "temperature": 0, "block_size": block});
        let events = server.post("/lacuna/watch", &body).events();
        let end = events.last().unwrap();
        assert_eq!(end["kind"], "end", "{end}");
        let passes = events.iter().filter(|event| event["kind"] == "refinement").count();
        assert!(
            passes as u64 >= end["timings"]["passes"].as_u64().unwrap(),
            "{task}: {passes}, {end}"
        );
        for event in events.iter().filter(|event| event["kind"] == "refinement") {
            for place in event["places"].as_array().unwrap() {
                let confidence = place["confidence"].as_f64().unwrap();
                assert!((0.0..=1.0).contains(&confidence) && place["text"].is_string());
            }
        }
        let text: String = events
            .iter()
            .filter_map(|event| match &event["kind"] {
                kind if kind == "text" => event["text"].as_str(),
                _ => None,
            })
            .collect();
        assert!(task == "edit" || text == end["text"], "{task}: {text:?}, {end}");
    }
}

/// The names that it has.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

#[test]
fn a_browser_draws_a_text_that_is_filled_in() {
    let version = |name: &&&str| {
        Command::new(name).arg("--version").output().is_ok_and(|told| told.status.success())
    };
    let Some(browser) = BROWSERS.iter().find(version) else {
        // Past the harness, which keeps what tests print that pass.
        let said = "SKIPPED: no chromium on this machine, so the page was not drawn (apt-get install chromium)\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    };
    let server = Server::start();
    let profile = tempfile::tempdir().unwrap();
    let url = format!("http://{}/#fill=def%20f(x)%3A%0A%20%20%20%20return%20", server.address);
    // The browser's clock runs ahead of ours where it has nothing to do: on a busy machine it takes more of its time.
    let drawn = |budget_ms: u64| {
        let drawn = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
            .arg(format!("--virtual-time-budget={budget_ms}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(&url)
            .output()
            .unwrap();
        String::from_utf8_lossy(&drawn.stdout).into_owned()
    };
    let is_done = |page: &String| page.contains("data-done=\"yes\"");
    let budgets = [20_000, 100_000, 500_000, 2_500_000, 25_000_000, 250_000_000];
    let page = budgets.into_iter().map(drawn).find(is_done).unwrap_or_default();
    assert!(page.contains("data-done=\"yes\""), "the text did not come to its end: {page}");
    let canvas = page.split("id=\"canvas\"").nth(1).unwrap().split("</pre>").next().unwrap();
    assert!(canvas.matches("<span").count() > 8, "{canvas}");
    let numbers = page.split("id=\"numbers\">").nth(1).unwrap().split('<').next().unwrap();
    assert!(numbers.contains("tokens a pass"), "{numbers}");
    let error = page.split("id=\"error\"").nth(1).unwrap().split('>').nth(1).unwrap();
    assert!(error.starts_with("</p"), "{error}");
}
