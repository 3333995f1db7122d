//! Ends the writers of this crate by anything, at any operation: what they write is old or new, and
//! whole.

use crate::support::names;
use lacuna_files::testing::{End, Ends, Survives, TestDisk, every_end};
use lacuna_files::{Log, Manifest, WholeFile, WholeFolder, remove_folder, replace_text_file};
use std::fs;
use std::path::Path;

/// A folder to play on, with `files` in it.
fn template(place: &Path, files: &[(&str, &str)]) -> std::path::PathBuf {
    let template = place.join("t");
    fs::create_dir(&template).unwrap();
    for (name, text) in files {
        fs::create_dir_all(template.join(name).parent().unwrap()).unwrap();
        fs::write(template.join(name), text).unwrap();
    }
    template
}

#[test]
fn a_file_is_the_old_or_the_new_one() {
    let place = tempfile::tempdir().unwrap();
    let new = "new ".repeat(1 << 19);
    let write = |folder: &Path| {
        let file = WholeFile::beside(&folder.join("f"));
        let _ = file.and_then(|mut file| {
            new.as_bytes().chunks(1000).try_for_each(|piece| file.write(piece))?;
            file.publish()
        });
    };
    let count =
        every_end(&template(place.path(), &[("f", "old")]), Ends::All(3), write, |end: &End| {
            let found = fs::read_to_string(end.folder.join("f")).unwrap();
            assert!(
                found == new || (found == "old" && !end.finished),
                "{end}: {} bytes",
                found.len()
            );
            write(&end.folder);
            assert_eq!(names(&end.folder), ["f"], "{end}");
        });
    assert!(count >= 5, "create, write, sync, rename, sync the folder; seen: {count}");
}

#[test]
fn a_folder_is_the_old_or_the_new_one_and_the_files_of_others_stay() {
    let place = tempfile::tempdir().unwrap();
    let write = |folder: &Path| {
        let fill = || {
            let new = WholeFolder::beside(&folder.join("deep/model"))?;
            lacuna_files::write_file(&new.path().join("weights"), b"new weights")?;
            lacuna_files::create_folder(&new.path().join("more"))?;
            lacuna_files::write_file(&new.path().join("more/card"), b"new card")?;
            Manifest::of(new.path())?.write(new.path())?;
            new.replace(|name| name == "weights" || name == "more").map(drop)
        };
        let _: lacuna_files::Result<()> = fill();
    };
    let check = |end: &End| {
        let model = end.folder.join("deep/model");
        let read = |name: &str| fs::read_to_string(model.join(name)).ok();
        let weights = read("weights");
        let others = read("notes");
        match weights.as_deref() {
            Some("old weights") => {
                assert!(!end.finished, "{end}");
                assert_eq!(read("more/card"), None, "{end}");
            }
            Some("new weights") => {
                assert_eq!(read("more/card").as_deref(), Some("new card"), "{end}");
                Manifest::read(&model).unwrap().unwrap().verify(&model).unwrap();
            }
            other => panic!("{end}: {other:?}"),
        }
        assert_eq!(others.as_deref(), Some("three days of work"), "{end}");
        write(&end.folder);
        assert_eq!(read("weights").as_deref(), Some("new weights"), "{end}");
        assert_eq!(read("notes").as_deref(), Some("three days of work"), "{end}");
        assert_eq!(names(&end.folder.join("deep")), ["model"], "{end}");
    };
    let files = [("deep/model/weights", "old weights"), ("deep/model/notes", "three days of work")];
    assert!(every_end(&template(place.path(), &files), Ends::All(6), write, check) > 15);
}

#[test]
fn a_new_folder_with_its_parents_is_there_or_not() {
    let place = tempfile::tempdir().unwrap();
    let write = |folder: &Path| {
        let fill = || {
            let new = WholeFolder::beside(&folder.join("a/b/c"))?;
            lacuna_files::write_file(&new.path().join("file"), b"text")?;
            new.publish()
        };
        let _: lacuna_files::Result<()> = fill();
    };
    every_end(&template(place.path(), &[]), Ends::All(3), write, |end| {
        let there = end.folder.join("a/b/c");
        if end.finished || there.exists() {
            assert_eq!(fs::read(there.join("file")).unwrap(), b"text", "{end}");
            return;
        }
        write(&end.folder);
        assert_eq!(names(&end.folder.join("a/b")), ["c"], "{end}");
        assert_eq!(fs::read(there.join("file")).unwrap(), b"text", "{end}");
    });
}

#[test]
fn a_removed_folder_is_there_in_full_or_gone() {
    let place = tempfile::tempdir().unwrap();
    let files = [("s/a", "1"), ("s/deep/b", "2"), ("s/deep/c", "3")];
    let write = |folder: &Path| drop(remove_folder(&folder.join("s")));
    every_end(&template(place.path(), &files), Ends::All(3), write, |end| {
        if end.folder.join("s").exists() {
            assert!(!end.finished, "{end}");
            // An empty folder has the name for as long as it takes to remove it.
            let left = names(&end.folder.join("s"));
            assert!(left.is_empty() || left == ["a", "deep"], "{end}: {left:?}");
            assert!(left.is_empty() || names(&end.folder.join("s/deep")) == ["b", "c"], "{end}");
            write(&end.folder);
        }
        lacuna_files::remove_leftovers(&end.folder);
        assert_eq!(names(&end.folder), [""; 0], "{end}");
    });
}

#[test]
fn a_text_of_a_user_is_the_old_or_the_new_one() {
    let place = tempfile::tempdir().unwrap();
    let write = |folder: &Path| {
        let path = folder.join("f.rs");
        let _ = replace_text_file(&path, &fs::read(&path).unwrap(), b"fn new() {}\n");
    };
    every_end(&template(place.path(), &[("f.rs", "fn old() {}\n")]), Ends::All(3), write, |end| {
        let text = fs::read_to_string(end.folder.join("f.rs")).unwrap();
        let is_old = text == "fn old() {}\n" && !end.finished;
        assert!(is_old || text == "fn new() {}\n", "{end}: {text}");
        write(&end.folder);
        assert_eq!(names(&end.folder), ["f.rs"], "{end}");
    });
}

#[test]
fn a_log_has_whole_lines_and_at_most_a_torn_end() {
    let place = tempfile::tempdir().unwrap();
    let lines: String = (0..5).map(|n| format!("{{\"line\": {n}}}\n")).collect();
    let write = |folder: &Path| {
        let append = || {
            let (mut log, _) = Log::resume(&folder.join("log"))?;
            let there = fs::read_to_string(folder.join("log"))?;
            for line in lines.split_inclusive('\n').skip(there.lines().count()) {
                log.append(line.as_bytes())?;
            }
            log.sync()
        };
        let _: std::io::Result<()> = append();
    };
    every_end(&template(place.path(), &[("log", "{\"line\": 0}\n")]), Ends::All(3), write, |end| {
        let text = fs::read_to_string(end.folder.join("log")).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        assert!(lines.starts_with(whole), "{end}: {text}");
        assert!(!end.finished || text == lines, "{end}: {text}");
        write(&end.folder);
        assert_eq!(fs::read_to_string(end.folder.join("log")).unwrap(), lines, "{end}");
    });
}

#[test]
fn a_file_that_is_not_synced_is_lost_and_a_name_in_a_folder_that_is_not_synced_too() {
    // The disk that forgets, on a writer that does it wrongly.
    let place = tempfile::tempdir().unwrap();
    let folder = template(place.path(), &[("f", "old")]);
    let disk = TestDisk::counting(&folder);
    fs::write(folder.join("x"), "written past the disk").unwrap();
    let mut log = Log::create(&folder.join("log")).unwrap();
    log.append(b"line\n").unwrap();
    drop(log);
    assert!(disk.operations().iter().any(|done| done == "write 5 bytes to log"));
    disk.cut_power(Survives::Names).unwrap();
    assert_eq!(fs::read(folder.join("log")).unwrap(), b"");
    assert_eq!(names(&folder), ["f", "log", "x"]);
    assert_eq!(fs::read(folder.join("f")).unwrap(), b"old");
}

#[test]
fn a_disk_that_has_stopped_does_nothing_more_and_works_again_when_it_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let folder = template(place.path(), &[]);
    let disk = TestDisk::stopping_at(&folder, 2);
    let mut file = WholeFile::beside(&folder.join("f")).unwrap();
    file.write(b"text").unwrap();
    file.publish().unwrap_err();
    assert_eq!(names(&folder).len(), 1, "no clean-up");
    lacuna_files::write_file(&folder.join("g"), b"").unwrap_err();
    assert_eq!(disk.operations().len(), 2);
    drop(disk);
    lacuna_files::write_file(&folder.join("f"), b"").unwrap();
    assert_eq!(names(&folder), ["f"], "the next writer removes what was left");
}
