//! Holds files and folders to be whole or absent, whoever else writes and whoever died before.

use crate::support::names;
use lacuna_files::{Manifest, WholeFile, WholeFolder, remove_leftovers, write_file};
use std::fs;

#[test]
fn a_file_has_its_name_only_when_it_is_whole() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("f");
    write_file(&path, b"old").unwrap();
    let mut file = WholeFile::beside(&path).unwrap();
    file.write(b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(file);
    assert_eq!(names(place.path()), ["f"], "what was begun and dropped is gone");
    let mut file = WholeFile::beside(&path).unwrap();
    file.write(b"new").unwrap();
    file.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(place.path()), ["f"]);
}

#[cfg(unix)]
#[test]
fn a_device_is_written_to_and_not_replaced_and_a_pipe_without_a_reader_is_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    // A link to it, so that a fault takes the link.
    let path = place.path().join("null");
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    write_file(&path, b"gone").unwrap();
    assert!(path.is_symlink() && !path.is_file());
    let pipe = place.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    write_file(&pipe, b"nobody").unwrap_err();
    assert_eq!(names(place.path()), ["null", "pipe"]);
}

#[cfg(unix)]
#[test]
fn a_link_stays_and_the_file_that_it_leads_to_is_replaced() {
    use std::os::unix::fs::symlink;
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("far")).unwrap();
    symlink("far/file", at("first")).unwrap();
    symlink(at("first"), at("second")).unwrap();
    // Also where the file is yet to be.
    for bytes in [b"new", b"two"] {
        write_file(&at("second"), bytes).unwrap();
        assert_eq!(fs::read(at("far/file")).unwrap(), bytes);
        assert!(at("first").is_symlink() && at("second").is_symlink());
        assert_eq!(names(&at("far")), ["file"]);
    }
    symlink("circle", at("circle")).unwrap();
    let told = write_file(&at("circle"), b"x").unwrap_err().to_string();
    assert!(told.contains("circle"), "{told}");
    assert!(at("circle").is_symlink());
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_for_an_open_file_is_written_to_and_never_replaced() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let mut open = fs::File::create(&path).unwrap();
    open.write_all(b"before, ").unwrap();
    // As /dev/stdout leads to what a shell opened.
    let link = place.path().join("stdout");
    std::os::unix::fs::symlink(format!("/proc/self/fd/{}", open.as_raw_fd()), &link).unwrap();
    let told = WholeFile::beside(&link).err().map(|error| error.to_string());
    assert!(told.is_some_and(|told| told.contains("open already")));
    for name in [link.clone(), format!("/proc/self/fd/{}", open.as_raw_fd()).into()] {
        write_file(&name, b"then. ").unwrap();
    }
    assert!(link.is_symlink());
    assert_eq!(fs::read(&path).unwrap(), b"before, then. then. ");
    drop(open);
    write_file(&link, b"closed").unwrap_err();
    assert!(link.is_symlink(), "what leads nowhere now leads where it led");
    assert_eq!(names(place.path()), ["log", "stdout"]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("f");
    write_file(&path, b"old").unwrap();
    let mut file = WholeFile::beside(&path).unwrap();
    file.write(&[7; 1 << 20]).unwrap();
    // That which had the name became a folder meanwhile: the rename is refused.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let message = file.publish().unwrap_err().to_string();
    assert!(message.contains("f: cannot"), "{message}");
    assert_eq!(names(place.path()), ["f"]);
}

#[test]
fn two_writers_of_one_name_do_not_meet() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("f");
    let (mut first, mut second) =
        (WholeFile::beside(&path).unwrap(), WholeFile::beside(&path).unwrap());
    assert_ne!(first.path(), second.path());
    first.write(b"first").unwrap();
    second.write(b"second").unwrap();
    first.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    second.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
}

#[test]
fn what_the_dead_left_goes_and_what_the_living_write_stays() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    // Nobody holds these: their writers were killed.
    fs::write(at(".f.4711-0.partial"), "half").unwrap();
    fs::create_dir(at(".d.4711-1.partial")).unwrap();
    fs::write(at(".d.4711-1.partial").join("half"), "").unwrap();
    fs::write(at(".gitignore"), "somebody's").unwrap();
    let living = WholeFile::beside(&at("g")).unwrap();
    let filled = WholeFolder::beside(&at("h")).unwrap();
    remove_leftovers(place.path());
    assert!(living.path().exists() && filled.path().exists());
    assert!(!at(".f.4711-0.partial").exists() && !at(".d.4711-1.partial").exists());
    drop((living, filled));
    assert_eq!(names(place.path()), [".gitignore"]);
}

#[test]
fn a_writer_removes_what_was_left_under_its_own_name_alone() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::write(at(".f.1-0.partial"), "").unwrap();
    fs::write(at(".g.1-0.partial"), "").unwrap();
    write_file(&at("f"), b"x").unwrap();
    assert_eq!(names(place.path()), [".g.1-0.partial", "f"]);
}

#[test]
fn a_replaced_folder_loses_our_files_and_keeps_those_of_others() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("final");
    let fill = |parts: &[&str]| {
        let folder = WholeFolder::beside(&target).unwrap();
        parts.iter().for_each(|part| fs::write(folder.path().join(part), *part).unwrap());
        Manifest::of(folder.path()).unwrap().write(folder.path()).unwrap();
        folder
    };
    fill(&["a", "b"]).replace(|_| false).unwrap();
    fs::write(target.join("notes.txt"), "three days of work").unwrap();
    fs::create_dir_all(target.join("plots/deep")).unwrap();
    fs::write(target.join("plots/deep/x"), "x").unwrap();
    fill(&["a", "c"]).replace(|_| false).unwrap();
    assert_eq!(names(&target), ["a", "c", "manifest.json", "notes.txt", "plots"]);
    assert_eq!(fs::read(target.join("notes.txt")).unwrap(), b"three days of work");
    assert!(target.join("plots/deep/x").exists());
    assert_eq!(names(place.path()), ["final"]);
}

#[test]
fn a_file_of_ours_that_somebody_changed_and_one_of_theirs_with_our_name_are_kept_beside_ours() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("final");
    let fill = |parts: &[(&str, &str)]| {
        let folder = WholeFolder::beside(&target).unwrap();
        parts.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        Manifest::of(folder.path()).unwrap().write(folder.path()).unwrap();
        folder
    };
    fill(&[("card", "ours"), ("same", "s"), ("weights", "w")]).replace(|_| false).unwrap();
    fs::write(target.join("card"), "mine").unwrap();
    fs::write(target.join("weights"), "damaged").unwrap();
    fs::write(target.join("template"), "theirs").unwrap();
    let parts = [("card", "ours 2"), ("same", "s 2"), ("template", "ours"), ("weights", "w 2")];
    let mut renamed = fill(&parts).replace(|name| name == "weights").unwrap();
    renamed.sort();
    assert_eq!(renamed, [target.join("card.kept"), target.join("template.kept")]);
    for (name, text) in
        parts.into_iter().chain([("card.kept", "mine"), ("template.kept", "theirs")])
    {
        assert_eq!(fs::read(target.join(name)).unwrap(), text.as_bytes(), "{name}");
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 7);
}

#[test]
fn bytes_are_put_over_others_before_a_file_has_its_name() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("f");
    let mut file = WholeFile::beside(&path).unwrap();
    file.write(b"head 000 ").unwrap();
    file.overwrite(5, b"123").unwrap();
    file.write(b"tail").unwrap();
    file.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"head 123 tail");
}

#[test]
fn a_locked_folder_is_freed_of_what_older_versions_left() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at(".partial-a1B2c3")).unwrap();
    fs::write(at(".partial-a1B2c3").join("half"), "").unwrap();
    for name in [".recipe.toml.partial", ".lacuna-x9.tmp", ".gitignore", "a.partial", ".partial-x"]
    {
        fs::write(at(name), "").unwrap();
    }
    let living = WholeFile::beside(&at("g")).unwrap();
    lacuna_files::remove_all_leftovers(place.path());
    assert!(living.path().exists());
    drop(living);
    assert_eq!(names(place.path()), [".gitignore", ".partial-x", "a.partial"]);
}

#[test]
fn a_folder_is_not_published_over_another() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("step-1");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("there"), "").unwrap();
    let folder = WholeFolder::beside(&target).unwrap();
    fs::write(folder.path().join("new"), "").unwrap();
    folder.publish().unwrap_err();
    assert_eq!(names(&target), ["there"]);
    assert_eq!(names(place.path()), ["step-1"]);
}
