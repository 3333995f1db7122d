//! Holds what people read in the sources to whole sentences: the first lines of every file, and the beginning of every
//! comment.

use super::Tree;

/// Words that open a clause. A comment that begins with one is a fragment or a riddle.
const CLAUSES: &[(&str, &str)] = &[
    ("What", "name the thing: `The bytes that …`, `The reason for …`"),
    ("How", "name the thing: `The number of …`, `The way in which …`"),
    ("Where", "name the place (`The folder that …`), or begin with `If`"),
    ("Whether", "say `True if …` of a field, `Tells whether …` of a function"),
    ("Which", "name the thing: `The positions that …`, `Picks the …`"),
    ("Why", "name the thing: `The reason …`"),
    ("Who", "name the one: `The process that …`"),
    ("Whose", "name the owner"),
];

/// Verbs that files open with. The list grows with the language of the house.
const VERBS: &str = "\
    accepts adds agree agrees allows am answers are asks assembles become becomes begin begins \
    belong belongs blanks bounds brings builds buys calls can cannot can't carries changes \
    checks chooses collects come comes commits compares compiles completes computes connects \
    consists contains continues converts copies corrupts costs counts covers creates cuts deals \
    decide decides decodes defines depend depends describes did differs divides do does doesn't \
    don't draws edits encodes ends estimates excludes expects explains fails fetches fills finds \
    fits fixes follow follows forgets formats forms fuzzes gathers give gives go goes groups \
    guards had happens has have helps hold holds implements installs interrupts is isn't joins \
    judges keep keeps knows lays lead leads learns leave leaves lets lie lies lists live loads \
    locks looks make makes maps marks matches matters may means measures meet meets merges mixes \
    moves multiplies must names need needs normalizes obey obeys offers opens orders overrides \
    packs parses passes picks plans plays plots points prepares prints produces proposes \
    protects proves provides publishes pulls puts quantizes quotes ranks read reads receives \
    records refuses releases remembers removes renames renders repairs repeats replaces replay \
    replays reports resolves rests resumes returns rotates rounds run runs samples saves say \
    says scales scores scripts see sees selects sends serves sets settles shall share shares \
    should shows sorts spells splits stand stands starts stay stays steps stops stores streams \
    sums supports survives sweeps take takes talks tell tells tests throws times touches tracks \
    trains translates turns understands undoes updates uses validates verifies waits walks wants \
    warns was watches weighs were will won't works would wraps write writes";

/// Words whose clause has a verb of its own, which is not the sentence's.
const SUBORDINATE: &str = "\
    that which who whom whose what whatever whoever where how whether when if why";

/// Behind these a verb is an infinitive.
const BEFORE_INFINITIVE: &str = "\
    to can cannot can't could may might must not shall should will would";

/// Every file opens with `//!` in a whole sentence, which a reader meets before any code.
pub(super) fn openings(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in sources(tree) {
        let opening = text.lines().map_while(|line| line.strip_prefix("//!"));
        let opening: Vec<&str> =
            opening.map(str::trim).take_while(|line| !line.is_empty()).collect();
        if opening.is_empty() {
            complaints.push(format!(
                "{path}:1: open with `//!` and a sentence that says what the file is for"
            ));
        } else if !is_sentence(&opening.join(" ")) {
            complaints.push(format!(
                "{path}:1: the `//!` is no whole sentence with a verb; say what the file is for: `Reads …`, `This module \
                 decides …` (a verb that the rule does not know goes into xtask/src/tidy/prose.rs)"
            ));
        }
    }
    complaints
}

/// No comment begins with a bare clause.
pub(super) fn clauses(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in sources(tree) {
        let mut before = None;
        for (index, line) in text.lines().enumerate() {
            let comment = comment(line);
            let begins = comment.map(|(kind, _)| kind) != before;
            before = comment.map(|(kind, _)| kind);
            let Some((_, words)) = comment.filter(|_| begins) else { continue };
            let first = words.split(|c: char| !c.is_alphabetic()).next();
            if let Some((word, instead)) = CLAUSES.iter().find(|(word, _)| Some(*word) == first) {
                let line = index + 1;
                complaints.push(format!("{path}:{line}: begins with `{word} …`; {instead}"));
            }
        }
    }
    complaints
}

/// The Rust sources of the project; the corpus in `fixtures/` is other people's.
fn sources(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    let folders = ["benches/", "crates/", "examples/", "xtask/"].into_iter();
    folders.flat_map(|folder| tree.matching(folder, ".rs"))
}

/// The kind of a line that is all comment, and its words.
fn comment(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim_start();
    let kind = ["//!", "///", "//"].into_iter().find(|kind| line.starts_with(kind))?;
    Some((kind, line[kind.len()..].trim()))
}

/// Tells whether a paragraph's first sentence begins and ends as one, and has a verb that belongs to no clause inside it.
fn is_sentence(paragraph: &str) -> bool {
    let sentence = paragraph.split_once(". ").map_or(paragraph, |(first, _)| first);
    let begins = paragraph.starts_with(|c: char| c.is_uppercase() || "`[\"*".contains(c));
    let ends = paragraph.ends_with(['.', '!', '?', ':', ')']);
    begins && ends && has_main_verb(sentence)
}

fn has_main_verb(sentence: &str) -> bool {
    let prose = sentence.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let (mut verbs, mut clauses, mut before) = (0, 0, String::new());
    for word in prose.split(|c: char| !(c.is_alphabetic() || c == '\'' || c == '`')) {
        let word = word.to_lowercase();
        if listed(SUBORDINATE, &word) {
            clauses += 1;
        } else if listed(VERBS, &word) && !listed(BEFORE_INFINITIVE, &before) {
            verbs += 1;
        }
        if verbs > clauses {
            return true;
        }
        if !word.is_empty() {
            before = word;
        }
    }
    false
}

fn listed(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|listed| listed == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, check: fn(&Tree) -> Vec<String>) -> Vec<String> {
        check(&Tree::of(&[("crates/lacuna-random/src/draw.rs", text)]))
    }

    #[test]
    fn a_sentence_has_a_verb_of_its_own() {
        for sentence in [
            "Draws numbers from a stream.",
            "`draw` gives numbers, bounded numbers and orders.",
            "A file that nobody reads is removed.",
            "Every purpose has a number. It never changes.",
            "The lock\n may be taken.",
        ] {
            assert!(is_sentence(sentence), "{sentence}");
        }
        for fragment in [
            "What a machine is, and the two floors that everything is held against.",
            "The table that anyone can read, on the screen.",
            "Bars, as SVG.",
            "Ways to write a file.",
            "draws numbers.",
            "Draws numbers",
        ] {
            assert!(!is_sentence(fragment), "{fragment}");
        }
    }

    #[test]
    fn a_file_without_an_opening_or_with_a_fragment_is_told() {
        assert_eq!(told("//! Draws\n//! numbers.\n\nfn f() {}\n", openings), [""; 0]);
        assert!(told("use std::fmt;\n", openings)[0].contains("open with `//!`"));
        assert!(told("//! Numbers.\n", openings)[0].contains("no whole sentence"));
        let corpus = Tree::of(&[("fixtures/corpus/rust/a/src/lib.rs", "fn f() {}")]);
        assert_eq!(openings(&corpus), [""; 0], "other people's sources");
    }

    #[test]
    fn a_comment_that_begins_with_a_clause_is_told_with_its_line() {
        let text = "/// What it draws.\nfn f() {}\n    // Whether it ends.\n    // How so?\n";
        let told = told(text, clauses);
        assert_eq!(told.len(), 2, "only where a comment begins: {told:?}");
        assert!(told[0].contains("draw.rs:1: begins with `What …`"), "{told:?}");
        assert!(told[1].contains("draw.rs:3: begins with `Whether …`"), "{told:?}");
        let fine = "/// Whatever comes.\n/// However.\nfn f() { g() } // What it is.\n";
        assert_eq!(super::tests::told(fine, clauses), [""; 0]);
    }
}
