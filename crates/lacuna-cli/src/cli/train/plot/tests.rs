//! Tests that plots can be drawn of any run, and read.

use lacuna_files::testing::{Ends, every_end};

use super::chart::power_of_ten;
use super::*;

fn metrics(step: u64, stage: &str, grad_norm: f64) -> StepMetrics {
    StepMetrics {
        step,
        stage: stage.into(),
        loss: 3.0,
        loss_unweighted: 3.0,
        supervised: 1,
        grad_norm,
        grad_norms: Default::default(),
        clipped_steps: 0,
        lr: 1e-3,
        tokens: step,
        tokens_per_second: 1.0,
        ..StepMetrics::default()
    }
}

#[test]
fn ticks_are_powers_of_ten() {
    let ticks: Vec<_> = [-5, -2, 0, 1, 4, 5].map(power_of_ten).into();
    assert_eq!(ticks, ["1e-5", "0.01", "1", "10", "10000", "1e5"]);
}

#[test]
fn any_run_can_be_drawn_and_its_title_is_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("my-run");
    std::fs::create_dir(&run).unwrap();
    let odd = [0.0, f64::NAN, f64::INFINITY, 1e-30, 1e30, 1.0];
    let steps: Vec<_> = odd.iter().zip(1..).map(|(norm, step)| metrics(step, "a", *norm)).collect();
    let point = |y| HeldOutPoint { step: 3, label: "exact block NELBO", nats_per_token: y };
    for (steps, held_out) in [
        (&steps[..1], vec![]),
        (&steps[1..2], vec![]),
        (&steps[..], vec![point(2.5), point(f64::NAN)]),
    ] {
        draw(&run, steps, &held_out).unwrap();
    }
    let svg = std::fs::read_to_string(run.join("loss.svg")).unwrap();
    for part in ["my-run", "exact block NELBO", "learning rate", "gradient norm"] {
        assert!(svg.contains(part), "{part}");
    }
    assert!(std::fs::metadata(run.join("loss.png")).unwrap().len() > 1000);
}

/// The place that an attribute of a line of SVG names.
fn number(line: &str, name: &str) -> f64 {
    let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
    rest.split('"').next().unwrap().parse().unwrap()
}

#[test]
fn a_legend_is_beside_the_panel_with_a_sample_of_each_curve_and_marks_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let steps: Vec<_> = (1..=20).map(|step| metrics(step, "a", 1.0)).collect();
    let point = HeldOutPoint { step: 20, label: "exact block NELBO", nats_per_token: 2.5 };
    draw(dir.path(), &steps, &[point]).unwrap();
    let svg = std::fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    let panel = f64::from(1120 - LEGEND - 16);
    let lines: Vec<_> = svg.lines().collect();
    let text = |label: &str| {
        let at = lines.iter().position(|line| *line == label).unwrap();
        (number(lines[at - 1], "x"), number(lines[at - 1], "y"))
    };
    // The sample is left of its text, at its height, and as long as one can see.
    let (x, y) = text("training, per masked token");
    let sample = lines.iter().any(|line| {
        line.contains("polyline") && line.contains("#1F5A8A") && {
            let (_, points) = line.split_once("points=\"").unwrap();
            let points: Vec<f64> = points
                .split(['"', ' ', ','])
                .take_while(|part| !part.starts_with('/'))
                .filter_map(|part| part.parse().ok())
                .collect();
            points.len() == 4
                && points[0] > panel
                && (points[2] - points[0] - 18.0).abs() < 1.0
                && points[2] < x
                && (points[1] - y).abs() < 12.0
        }
    });
    assert!(x > panel && sample);
    let (x, y) = text("exact block NELBO");
    let circles: Vec<&str> =
        lines.iter().copied().filter(|line| line.contains("<circle")).collect();
    let (beside, inside): (Vec<&str>, Vec<&str>) =
        circles.iter().partition(|line| number(line, "cx") > panel);
    assert_eq!((beside.len(), inside.len()), (1, 1));
    assert!(number(beside[0], "cx") < x && (number(beside[0], "cy") - y).abs() < 12.0);
    assert!(number(inside[0], "cx") + number(inside[0], "r") <= panel);
}

#[test]
fn every_measure_has_a_mark_of_its_own_and_two_at_one_place_are_both_seen() {
    let dir = tempfile::tempdir().unwrap();
    let steps: Vec<_> = (1..=20).map(|step| metrics(step, "a", 1.0)).collect();
    let labels =
        ["exact block NELBO", "left-to-right NLL", "autoregressive NLL", "Monte-Carlo NELBO"];
    let point = |label| HeldOutPoint { step: 20, label, nats_per_token: 2.5 };
    draw(dir.path(), &steps, &labels.map(point)).unwrap();
    let svg = std::fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    for label in labels {
        assert!(svg.contains(label), "{label}");
    }
    let lines = |form: &str| svg.lines().filter(|line| line.contains(form)).count();
    // One in the panel and one beside it, of rings and of dots; a cross is two strokes.
    assert_eq!((lines("<circle"), lines("<polygon")), (4, 2));
    let strokes = svg.lines().filter(|line| line.starts_with("<line") && line.contains("#8A631F"));
    assert_eq!(strokes.count(), 4);
}

#[test]
fn runs_that_are_compared_show_all_measures_their_stages_and_names_that_are_not_cut() {
    let place = tempfile::tempdir().unwrap();
    let long = "a-run-with-a-name-that-is-longer-than-the-space-beside-a-panel";
    let mut runs = Vec::new();
    for (name, second) in [(long, "b"), ("other", "c")] {
        let run = place.path().join(name);
        std::fs::create_dir(&run).unwrap();
        let mut text = String::new();
        for step in 1..=20 {
            let stage = if step <= 10 { "first" } else { second };
            text += &format!("{}\n", serde_json::to_string(&metrics(step, stage, 1.0)).unwrap());
        }
        for (name, nats) in [("exact-nelbo", 2.5), ("left-to-right", 2.4)] {
            let scores = serde_json::json!({ name: nats });
            let line = serde_json::json!({ "step": 20, "stage": second, "nats_per_token": scores });
            text += &format!("{line}\n");
        }
        std::fs::write(run.join("metrics.jsonl"), text).unwrap();
        runs.push(run);
    }
    let svg_of = |runs: &[PathBuf]| {
        let [svg, _] = compare(runs, Against::Steps, &place.path().join("compared")).unwrap();
        std::fs::read_to_string(svg).unwrap()
    };
    let svg = svg_of(&runs);
    for part in ["held out, exact block NELBO", "held out, left-to-right NLL"] {
        assert!(svg.lines().any(|line| line == part), "{part}");
    }
    let shortened = |line: &str| line.starts_with("a-run-with") && line.ends_with("a-panel");
    assert!(svg.lines().any(|line| shortened(line) && line.contains('…')));
    // No line beside the panels is longer than there is room for.
    let mut beside = svg.lines().skip_while(|line| !line.starts_with("held out")).take(1);
    assert!(beside.all(|line| line.chars().count() <= 28));
    // Their second stages differ: each border has its run's colour. Of one run alone, stages have their names.
    let border = |svg: &str, colour: &str| {
        svg.lines().any(|line| {
            line.contains("polyline") && line.contains(colour) && line.contains("opacity=\"0.35\"")
        })
    };
    assert!(border(&svg, "#1F5A8A") && border(&svg, "#B43A2F"), "{svg}");
    let alone = svg_of(&runs[..1]);
    assert!(alone.lines().any(|line| line == "first") && !border(&alone, "#1F5A8A"));
}

#[test]
fn what_has_a_plots_name_and_is_no_file_is_told_and_not_waited_for() {
    let run = tempfile::tempdir().unwrap();
    std::fs::create_dir(run.path().join("loss.png")).unwrap();
    let told = format!("{:#}", draw(run.path(), &[metrics(1, "a", 1.0)], &[]).unwrap_err());
    assert!(told.contains("loss.png") && told.contains("no file"), "{told}");
}

#[test]
fn plots_are_the_old_or_the_new_ones_wherever_drawing_is_ended() {
    let place = tempfile::tempdir().unwrap();
    let steps: Vec<_> = (1..=5).map(|step| metrics(step, "a", 1.0)).collect();
    let write = |folder: &Path| drop(draw(folder, &steps, &[]));
    let old = place.path().join("t");
    std::fs::create_dir(&old).unwrap();
    draw(&old, &steps[..2], &[]).unwrap();
    every_end(&old, Ends::Turns, write, |end| {
        for name in ["loss.svg", "loss.png"] {
            let bytes = std::fs::read(end.folder.join(name)).unwrap();
            let is_old = bytes == std::fs::read(old.join(name)).unwrap();
            let is_whole = match name {
                "loss.svg" => bytes.trim_ascii_end().ends_with(b"</svg>"),
                _ => bytes.ends_with(b"IEND\xaeB\x60\x82"),
            };
            assert!(is_whole && (!is_old || !end.finished), "{end}: {name}");
        }
        write(&end.folder);
        let mut names: Vec<_> = std::fs::read_dir(&end.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["loss.png", "loss.svg"], "{end}");
    });
}
