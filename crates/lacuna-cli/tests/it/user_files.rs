//! Has commands write into a user's file: they write the file that was asked for, or leave it as it
//! is.

use crate::support::said;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A folder with a model in it that answers with these pieces.
struct Place {
    folder: tempfile::TempDir,
    model: String,
}

impl Place {
    fn new(pieces: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = lacuna_test::checkpoints::scripted(&folder.path().join("model"), pieces);
        Self { folder, model }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lacuna"))
            .args([command, "--model", &self.model])
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The file after an edit in place that ends well.
    fn edited(&self, name: &str, old: impl AsRef<[u8]>, args: &[&str]) -> Vec<u8> {
        fs::write(self.at(name), old).unwrap();
        let ran = self.run("edit", &[&[name, "-i", "change it", "--in-place"], args].concat());
        assert!(ran.status.success(), "{}", said(&ran));
        fs::read(self.at(name)).unwrap()
    }

    /// The message where an edit in place is refused; the file is the old one, and nothing lies
    /// beside it.
    fn refused(&self, name: &str, old: impl AsRef<[u8]>, args: &[&str], status: i32) -> String {
        fs::write(self.at(name), &old).unwrap();
        let count = || fs::read_dir(self.folder.path()).unwrap().count();
        let before = count();
        let ran = self.run("edit", &[&[name, "-i", "change it", "--in-place"], args].concat());
        assert_eq!(ran.status.code(), Some(status), "{}", said(&ran));
        assert!(ran.stdout.is_empty());
        assert_eq!(fs::read(self.at(name)).unwrap(), old.as_ref());
        assert_eq!(count(), before);
        said(&ran)
    }
}

#[test]
fn an_edit_writes_the_file_of_an_answer_and_no_word_around_it() {
    let answers: [&[&str]; 4] = [
        &[
            "Here is the changed file:\n\n",
            "```python\n",
            "x = 2\n",
            "```",
            "\n\nI changed 1 to 2.",
        ],
        &["~~~~\n", "x = 2\n", "~~~~~\n"],
        &["<think>\nOne\n", "```\nline.\n", "</think>\n\n", "x = 2\n"],
        &["x = 2"],
    ];
    for answer in answers {
        assert_eq!(Place::new(answer).edited("p.py", "x = 1\n", &[]), b"x = 2\n", "{answer:?}");
    }
    let refused: [(&[&str], &str); 6] = [
        (&["I cannot do that."], "prose"),
        (&[], "empty"),
        (&["```\n", "``` "], "empty"),
        (&["```python\n", "x = 2\n"], "not closed"),
        (&["x = 2\n", "# ... rest of the code unchanged\n"], "leaves parts"),
        (&["```\n", "x = 2\n", "```\n\n", "Or:\n\n```\n", "x = 3\n", "```"], "2 fenced parts"),
    ];
    for (answer, reason) in refused {
        let refusal = Place::new(answer).refused("p.py", "x = 1\n", &["-q"], 1);
        assert!(
            refusal.contains("p.py was left as it is") && refusal.contains(reason),
            "{refusal}"
        );
    }
    let cut = Place::new(&["x = 2\n", "y = 3\n", "z = 4\n"]);
    let refusal = cut.refused("p.py", "x = 1\n", &["--max-new-tokens", "2"], 1);
    assert!(refusal.contains("cut off after 2 tokens; raise --max-new-tokens"), "{refusal}");
    // Nothing that is no file is data either.
    let prose = Place::new(&["I cannot do that."]);
    let ran = prose.run("edit", &["p.py", "-i", "x"]);
    fs::write(prose.at("p.py"), "x = 1\n").unwrap();
    let shown = prose.run("edit", &["p.py", "-i", "x"]);
    assert_eq!((ran.status.code(), shown.status.code()), (Some(1), Some(1)));
    assert!(
        shown.stdout.is_empty() && said(&shown).contains("I cannot do that."),
        "{}",
        said(&shown)
    );
}

#[test]
fn what_is_around_a_text_stays() {
    let place = Place::new(&["x = 2\n", "y = 3\n"]);
    let edited = |old: &[u8]| place.edited("p.py", old, &["-q"]);
    assert_eq!(edited(b"x = 1\r\ny = 3\r\n"), b"x = 2\r\ny = 3\r\n");
    assert_eq!(edited(b"x = 1\r\ny = 3\nz\r\n"), b"x = 2\r\ny = 3\n", "a kept line keeps its end");
    assert_eq!(edited(b"x = 1\ny = 3"), b"x = 2\ny = 3");
    assert_eq!(edited(b"\xef\xbb\xbfx = 1\r\n"), b"\xef\xbb\xbfx = 2\r\ny = 3\r\n");
    assert_eq!(edited(b""), b"x = 2\ny = 3\n");
    for (bytes, word) in [(&b"x = '\xe4'\n"[..], "byte 6"), (b"\xff\xfex\0", "UTF-16")] {
        assert!(place.refused("p.py", bytes, &[], 1).contains(word), "{word}");
    }
    fs::write(place.at("p.py"), "x = 1\r\ny = 3\r\n").unwrap();
    let ran = place.run("edit", &["p.py", "-i", "x", "--diff", "-q"]);
    let diff = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(diff, "--- a/p.py\n+++ b/p.py\n@@ -1,2 +1,2 @@\n-x = 1\r\n+x = 2\r\n y = 3\r\n");
    let first = place.run("edit", &["p.py", "-i", "x", "--in-place"]);
    assert!(first.status.success());
    let again = place.run("edit", &["p.py", "-i", "x", "--in-place", "--yes"]);
    assert!(again.status.success() && said(&again).contains("nothing to change"));
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay_and_a_file_that_may_not_be_written_is_refused_first() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let place = Place::new(&["x = 2\n"]);
    fs::write(place.at("real.py"), "x = 1\n").unwrap();
    fs::set_permissions(place.at("real.py"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::hard_link(place.at("real.py"), place.at("twin.py")).unwrap();
    symlink("real.py", place.at("link.py")).unwrap();
    assert!(place.run("edit", &["link.py", "-i", "x", "--in-place"]).status.success());
    assert!(place.at("link.py").is_symlink());
    assert_eq!(fs::read(place.at("twin.py")).unwrap(), b"x = 2\n");
    let there = fs::metadata(place.at("real.py")).unwrap();
    assert_eq!((there.mode() & 0o777, there.nlink()), (0o750, 2));

    fs::write(place.at("fixed.py"), "x = 1\n").unwrap();
    fs::set_permissions(place.at("fixed.py"), fs::Permissions::from_mode(0o444)).unwrap();
    for args in [["edit", "-i", "x"], ["fill", "--at", "1:1"]] {
        let ran = place.run(args[0], &[&args[1..], &["fixed.py", "--in-place"]].concat());
        assert_eq!(ran.status.code(), Some(1));
        assert!(
            said(&ran).contains("read-only") && !said(&ran).contains("tokens"),
            "{}",
            said(&ran)
        );
    }
}

#[test]
fn a_part_is_rewritten_and_the_rest_is_byte_for_byte_the_same() {
    let place = Place::new(&["Sure:\n", "```\n", "x = 2\n", "```"]);
    let old = "\u{feff}a\r\nb\nc\td\r\n\r\ne";
    let part = |args: &[&str]| String::from_utf8(place.edited("p.py", old, args)).unwrap();
    assert_eq!(part(&["--lines", "2:3"]), "\u{feff}a\r\nx = 2\r\n\r\ne");
    assert_eq!(part(&["--lines", "1:1"]), "\u{feff}x = 2\r\nb\nc\td\r\n\r\ne");
    assert_eq!(part(&["--at", "3:2"]), "\u{feff}a\r\nb\nx = 2\r\n\r\ne");
    assert_eq!(part(&["--lines", "5:5"]), "\u{feff}a\r\nb\nc\td\r\n\r\nx = 2", "no last line end");
    assert_eq!(part(&["--lines", "1:5"]), "\u{feff}x = 2");
    for (args, words) in
        [(["--lines", "5:6"], "5 lines"), (["--at", "6"], "5 lines"), (["--at", "1:3"], "column 2")]
    {
        assert!(place.refused("p.py", old, &args, 2).contains(words), "{args:?}");
    }
    for args in [["--lines", "0:1"], ["--lines", "3:2"], ["--lines", "x"], ["--at", "0"]] {
        place.refused("p.py", old, &args, 2);
    }
    // A large file costs its part.
    let old: String = (0..40_000).map(|i| format!("x{i} = {i}\n")).collect();
    let new = place.edited("p.py", &old, &["--lines", "20001:20001"]);
    assert!(new == old.replace("x20000 = 20000\n", "x = 2\n").into_bytes());
    fs::write(place.at("p.py"), &old).unwrap();
    let ran = place.run("edit", &["p.py", "-i", "x", "--at", "1", "--diff"]);
    assert!(
        said(&ran).contains("of the 40000 lines of p.py the model sees 1 to"),
        "{}",
        said(&ran)
    );
    let refusal = place.refused("p.py", &old, &[], 1);
    assert!(refusal.contains("4096 positions") && refusal.contains("--lines"), "{refusal}");
}

#[test]
fn a_middle_ends_its_lines_as_the_file_does_and_columns_are_characters() {
    let place = Place::new(&["1", "\n", "2"]);
    let filled = |old: &str, at: &str| {
        fs::write(place.at("c.py"), old).unwrap();
        let ran = place.run("fill", &["c.py", "--at", at, "--in-place", "--yes", "-q"]);
        assert!(ran.status.success(), "{}", said(&ran));
        fs::read_to_string(place.at("c.py")).unwrap()
    };
    assert_eq!(filled("a\r\nb\r\n", "2:1"), "a\r\n1\r\n2b\r\n");
    assert_eq!(filled("a\r\nb\r\n", "1:2"), "a1\r\n2\r\nb\r\n", "before a line end, never in it");
    assert_eq!(filled("\u{feff}a\n", "1:1"), "\u{feff}1\n2a\n", "behind the mark");
    assert_eq!(filled("\tä漢b", "1:4"), "\tä漢1\n2b", "a tab and a wide character are one each");
    assert_eq!(filled("a\n", "2:1"), "a\n1\n2", "the empty line behind the last line end");
    assert_eq!(filled("", "1:1"), "1\n2");
    for (at, words) in [("1:5", "ends at column 2"), ("3:1", "2 lines")] {
        fs::write(place.at("c.py"), "a\r\n").unwrap();
        let ran = place.run("fill", &["c.py", "--at", at, "--in-place"]);
        assert!(!ran.status.success() && said(&ran).contains(words), "{}", said(&ran));
    }
    // stdout gets the middle as it was written.
    fs::write(place.at("c.py"), "a\r\nb\r\n").unwrap();
    assert_eq!(place.run("fill", &["c.py", "--at", "2:1", "-q"]).stdout, b"1\n2");
}

#[test]
fn a_hole_in_a_file_beyond_the_models_positions_is_filled_from_the_lines_around_it() {
    let place = Place::new(&["1", "\n", "2"]);
    let lines = |range: std::ops::Range<usize>| range.map(|i| format!("x{i} = {i}\r\n"));
    for count in [20_000, 60_000] {
        let (before, after): (String, String) =
            (lines(0..count).collect(), lines(count..2 * count).collect());
        fs::write(place.at("c.py"), format!("{before}{after}")).unwrap();
        let at = format!("{}:1", count + 1);
        let ran = place.run("fill", &["c.py", "--at", &at, "--in-place", "--yes"]);
        assert!(ran.status.success(), "{}", said(&ran));
        let seen = format!("of the {} lines of c.py the model sees", 2 * count);
        assert!(said(&ran).contains(&seen), "{}", said(&ran));
        let new = fs::read_to_string(place.at("c.py")).unwrap();
        assert_eq!(new, format!("{before}1\r\n2{after}"));
    }
    // One line that has no room: nothing of it is seen, and the file is still written whole.
    let wide = "y".repeat(3_000_000);
    fs::write(place.at("c.py"), format!("{wide}\n\n")).unwrap();
    let ran = place.run("fill", &["c.py", "--at", "2:1", "--in-place", "--yes"]);
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(fs::read_to_string(place.at("c.py")).unwrap(), format!("{wide}\n1\n2\n"));
}
