//! Holds the readers to the forms of the benchmarks, and to refusing everything else.

use std::io::Write;
use std::path::Path;

use super::*;
use crate::task::{Dataset, Tests};

fn tasks(format: Format, text: &str) -> Result<Vec<Task>> {
    tasks_of(format, text, Path::new("tasks.jsonl"))
}

#[test]
fn every_form_becomes_tasks() {
    let human = r#"{"task_id":"HumanEval/0","prompt":"def f(x):\n","entry_point":"f","canonical_solution":"    return x\n","test":"def check(c): pass"}"#;
    let task = &tasks(Format::HumanEval, human).unwrap()[0];
    assert_eq!(task.solution(), "def f(x):\n    return x\n");
    let plus = r#"{"task_id":"Mbpp/2","prompt":"","entry_point":"f","canonical_solution":"x","base_input":[[1, NaN, 123456789012345678901234567890]],"plus_input":{},"atol":0}"#;
    let task = &tasks(Format::MbppPlus, plus).unwrap()[0];
    let Tests::Differential { base, plus, dataset: Dataset::Mbpp, .. } = &task.tests else {
        panic!()
    };
    assert_eq!((&**base, &**plus), ("[[1, NaN, 123456789012345678901234567890]]", "[]"));
    let mbpp = r#" [ {"task_id": 7, "prompt": "Find it.", "code": "def g(x):\r\n  return x\r\ndef h(x):\r\n  return g(x)", "test_imports": ["import math"], "test_list": ["assert set(h(1)) == {1}"]} ] "#;
    let task = &tasks(Format::Mbpp, mbpp).unwrap()[0];
    assert_eq!((&*task.id, &*task.entry), ("Mbpp/7", "h"));
    assert_eq!(task.prompt, "\"\"\"\nFind it.\nassert set(h(1)) == {1}\n\"\"\"\n");
    let crux = r#"{"code":"def f(x):\n    return x","input":"'a'","output":"'a'","id":"sample_0"}"#;
    assert_eq!(tasks(Format::CruxOutput, crux).unwrap()[0].solution(), "'a'");
    assert_eq!(tasks(Format::CruxInput, crux).unwrap()[0].solution(), "f('a')");
    let edit = r#"{"full_name":"1_x","before":"a = 1","after":"a = 2","tests":"assert a == 2","instruction_descriptive":"d","instruction_lazy":"l"}"#;
    assert_eq!(tasks(Format::EditLazy, edit).unwrap()[0].instruction.as_deref(), Some("l"));
}

#[test]
fn faults_are_named_with_their_lines() {
    let good = r#"{"task_id":"HumanEval/0","prompt":"","entry_point":"f","canonical_solution":"","test":""}"#;
    for (line, reason) in [
        ("{", "byte"),
        ("[]]", "no `{`"),
        ("{} x", "something more"),
        (r#"{"a":1,"a":2}"#, "`a` comes twice"),
        (r#"{"task_id":"t"}"#, "`prompt` is missing"),
        (r#"{"task_id":7}"#, "`task_id` is no text"),
        (r#"{"task_id":"unended}"#, "does not end"),
        (r#"{1:2}"#, "a key that is no text"),
        (r#"{"a":}"#, "no value"),
        (good, "a second task"),
        (&format!(r#"{{"a":{}}}"#, "[".repeat(10_000)), "nested too deeply"),
    ] {
        let error =
            tasks(Format::HumanEval, &format!("{good}\n\n{line}\n")).unwrap_err().to_string();
        assert!(error.contains(reason) && error.starts_with("tasks.jsonl:3:"), "{line}: {error}");
    }
    assert!(tasks(Format::HumanEval, "\n").unwrap_err().to_string().contains("no task"));
    let list = "[\n{\"task_id\": 1},\n{\"task_id\": 2}]";
    assert!(tasks(Format::Mbpp, list).unwrap_err().to_string().contains(":2:"));
}

#[test]
fn compressed_files_are_read_and_damaged_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"{\"x\": 1}\n").unwrap();
    let packed = packed.finish().unwrap();
    std::fs::write(&path, &packed).unwrap();
    assert_eq!(text_of(&path).unwrap(), "{\"x\": 1}\n");
    std::fs::write(&path, &packed[..packed.len() - 6]).unwrap();
    assert!(text_of(&path).unwrap_err().to_string().contains("can't be decompressed"));
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(text_of(&path).unwrap_err().to_string().contains("no UTF-8"));
}

/// An archive of one stored file.
fn archive(name: &str, content: &[u8], listed: u32) -> Vec<u8> {
    let (length, name_length) = (content.len() as u32, name.len() as u16);
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend([0; 22]);
    zip.extend(name_length.to_le_bytes());
    zip.extend([0; 2]);
    zip.extend(name.as_bytes());
    zip.extend(content);
    let directory = zip.len() as u32;
    zip.extend(b"PK\x01\x02");
    zip.extend([0; 16]);
    zip.extend(length.to_le_bytes());
    zip.extend(listed.to_le_bytes());
    zip.extend(name_length.to_le_bytes());
    zip.extend([0; 16]);
    zip.extend(name.as_bytes());
    zip.extend(b"PK\x05\x06");
    zip.extend([0; 6]);
    zip.extend(1u16.to_le_bytes());
    zip.extend([0; 4]);
    zip.extend(directory.to_le_bytes());
    zip.extend([0; 2]);
    zip
}

#[test]
fn a_file_of_a_wheel_is_found_by_the_wheels_own_list() {
    let whole = archive("a/b", b"text", 4);
    assert_eq!(wheel::member(&whole, "a/b", 100).unwrap(), b"text");
    assert!(wheel::member(&whole, "a/c", 100).unwrap_err().contains("no a/c"));
    assert!(wheel::member(&whole, "a/b", 3).unwrap_err().contains("at most 3"));
    assert!(
        wheel::member(&archive("a/b", b"text", 5), "a/b", 100).unwrap_err().contains("4 bytes")
    );
    for cut in 0..whole.len() {
        let _ = wheel::member(&whole[..cut], "a/b", 100);
        let mut torn = whole.clone();
        torn[cut] ^= 0xff;
        let _ = wheel::member(&torn, "a/b", 100);
    }
}
