//! Tests that metrics survive damage, full disks and numbers without digits.

use super::*;
use proptest::prelude::*;
use std::fs;

fn step(step: u64, loss: f64) -> StepMetrics {
    StepMetrics {
        step,
        stage: "bd".into(),
        loss,
        loss_unweighted: loss,
        supervised: 3,
        grad_norm: 1.0,
        lr: 1e-3,
        mask_rate: Some(0.5),
        tokens: 64 * step,
        tokens_per_second: 100.0,
        ..StepMetrics::default()
    }
}

fn written(path: &Path, steps: u64) {
    let (mut writer, notices) = MetricsWriter::open(path, 0);
    assert!(notices.is_empty());
    assert!((1..=steps).all(|n| writer.write(&step(n, 2.0)).is_none()));
}

#[test]
fn numbers_without_digits_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut odd = step(1, f64::INFINITY);
    odd.grad_norm = f64::NEG_INFINITY;
    odd.autoregressive_loss = Some(f64::NAN);
    let (mut writer, _) = MetricsWriter::open(&path, 0);
    assert!(writer.write(&odd).is_none());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""loss":"inf""#) && text.contains(r#""grad_norm":"-inf""#), "{text}");
    let read = &read_metrics(&path).unwrap()[0];
    assert_eq!((read.loss, read.grad_norm), (f64::INFINITY, f64::NEG_INFINITY));
    assert!(read.autoregressive_loss.unwrap().is_nan());
    // This is as lacuna 0.1 wrote it.
    fs::write(&path, text.replace(r#""inf""#, "null")).unwrap();
    assert!(read_metrics(&path).unwrap()[0].loss.is_nan());
}

#[test]
fn a_damaged_line_is_left_out_with_a_word_and_the_others_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    written(&path, 5);
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[1].replace_range(2..3, "\u{1}");
    // One line is about something else than a step, as scores are.
    lines.insert(3, r#"{"step": 3, "scores": {"exact": 1.5}}"#.into());
    fs::write(&path, lines.join("\n") + "\n{\"step\": 6, \"los").unwrap();
    let (mut writer, notices) = MetricsWriter::open(&path, 4);
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("1 lines can't be read"), "{notices:?}");
    assert!(writer.write(&step(5, 1.0)).is_none());
    let after = fs::read_to_string(&path).unwrap();
    let after: Vec<_> = after.lines().collect();
    assert_eq!(after[..4], [&lines[0], &lines[2], &lines[3], &lines[4]]);
    assert_eq!(after.len(), 5);
    assert_eq!(read_metrics(&path).unwrap().len(), 4);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_once_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let (mut writer, _) = MetricsWriter::open(&path, 0);
    let said = writer.write(&step(1, 2.0)).unwrap();
    assert!(said.contains("metrics.jsonl: cannot be written"), "{said}");
    assert!(writer.write(&step(2, 2.0)).is_none());
    assert!(path.is_symlink(), "a device stays what it is");
    // There is room again.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    writer.log = None;
    let said = writer.write(&step(3, 2.0)).unwrap();
    assert!(said.contains("can be written again"), "{said}");
    assert_eq!(read_metrics(&path).unwrap().len(), 3);
}

#[cfg(unix)]
#[test]
fn what_can_not_be_a_log_is_said_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::create_dir(&path).unwrap();
    for resumed in [0, 7] {
        let (mut writer, notices) = MetricsWriter::open(&path, resumed);
        assert!(!notices.is_empty());
        assert!(writer.write(&step(8, 2.0)).is_some());
        assert!(writer.write(&step(9, 2.0)).is_none());
    }
}

proptest! {
    #[test]
    fn no_flipped_bit_stops_a_run(at in any::<prop::sample::Index>(), bit in 0u32..8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        written(&path, 3);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        fs::write(&path, bytes).unwrap();
        let (mut writer, _) = MetricsWriter::open(&path, 3);
        prop_assert!(writer.write(&step(4, 1.0)).is_none());
        prop_assert!(read_metrics(&path).unwrap().iter().any(|read| read.step == 4));
    }
}
