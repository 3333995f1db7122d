//! Draws the dashboard into memory, in terminals of many sizes.

use super::*;
use lacuna::train::{MachineMetrics, Recipe, StepMetrics};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn recipe() -> Recipe {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/smoke.toml");
    Recipe::load(file.as_ref(), &[]).expect("a recipe")
}

/// A run in its second stage, with something to show everywhere.
fn state() -> State {
    let mut state = State::new(&recipe());
    for step in 1..=20 {
        state.step(&StepMetrics {
            step,
            stage: "block-diffusion".into(),
            loss_unweighted: 9.0 - 0.2 * step as f64,
            supervised: 30,
            grad_norm: 1.25,
            lr: 3e-3,
            mask_rate: Some(0.5),
            tokens: step * 128,
            tokens_per_second: 13_050.0,
            epoch: Some(0.125),
            skipped: 2,
            machine: Some(MachineMetrics {
                share_of_peak: Some(0.42),
                memory_bytes: Some(163 << 20),
            }),
            ..StepMetrics::default()
        });
    }
    state.held_out = vec![(10.0, 7.5), (20.0, 5.5)];
    state.best = Some((20, 5.5));
    state.sample = Some((20, "def add(a, b):\n\treturn a\u{1b}[2J".into()));
    state.say("checkpoint runs/smoke/checkpoints/step-20\nwarning: no room");
    state
}

fn picture(state: &State, (width, height): (u16, u16)) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
    terminal.draw(|frame| draw(frame, state)).expect("a picture");
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(row).collect()
}

#[test]
fn all_of_it_stands_on_a_terminal_of_80_by_24() {
    let rows = picture(&state(), (80, 24));
    let text = rows.join("\n");
    for part in [
        "smoke",
        "block-diffusion (2 of 2)",
        "step 20 of 25",
        "held out",
        "5.0000",
        "5.5000 @20",
        "42.0 %",
        "163.00 MiB",
        "2,560",
        "it writes, after step 20",
        "def add(a, b):",
        "runs/smoke/checkpoints/step-20",
        "warning: no room",
        "q  save and end",
    ] {
        assert!(text.contains(part), "`{part}`:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "what a model writes commands no terminal");
    let drawn = text.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
    assert!(drawn > 5, "a curve:\n{text}");
}

#[test]
fn nothing_is_cut_on_a_narrow_terminal() {
    let mut state = state();
    state.total = 123_456;
    state.doing = "scoring held-out text 3/12".into();
    state.say("warning: step 20 is not saved: no room is left on the disk");
    for width in [38, 48, 63] {
        let rows = picture(&state, (width, 30));
        let text = rows.join("\n");
        // Words that a line breaks between two rows are put together again.
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c == '│').collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let told = words.join(" ");
        for part in [
            "scoring held-out text 3/12",
            "20/123,456",
            "loss 5.000",
            "it writes, after step 20",
            "warning: step 20 is not saved: no room is left on the disk",
        ] {
            let part = if width >= 60 { part.replace("20/123", "20 of 123") } else { part.into() };
            let either =
                told.contains(&part) || told.contains(&part.replace("20/123", "20 of 123"));
            assert!(either, "{width}: `{part}`:\n{text}");
        }
        assert!(rows.last().unwrap().trim_end().ends_with("scale"), "{text}");
        assert!(text.contains("─ training • held out"), "{text}");
    }
}

#[test]
fn no_size_and_no_number_is_too_odd_to_be_drawn() {
    let mut odd = state();
    odd.losses.push((21.0, f64::MAX));
    odd.held_out.push((21.0, f64::NAN));
    odd.last.epoch = Some(f64::INFINITY);
    for size in [(1, 1), (2, 5), (20, 3), (30, 10), (63, 18), (64, 17), (200, 60)] {
        for state in [&mut state(), &mut odd, &mut State::new(&recipe())] {
            for is_log in [false, true] {
                state.is_log = is_log;
                assert_eq!(picture(state, size).len(), usize::from(size.1));
            }
        }
    }
}

#[test]
fn a_curve_of_any_length_is_a_few_hundred_means() {
    let mut state = State::new(&recipe());
    for step in 0..100_000 {
        state.losses.push((f64::from(step), f64::from(step % 10)));
    }
    let points = &state.losses.points;
    assert!((100..=400).contains(&points.len()), "{}", points.len());
    assert!(points.iter().all(|(_, y)| (y - 4.5).abs() < 0.5));
}
