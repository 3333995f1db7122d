//! Shows answers as models give them, each with the file that is in it.

use super::*;
use proptest::prelude::*;
use std::path::Path;

fn asked<'a>(old: &'a str, path: &'a str) -> Asked<'a> {
    Asked { old, path: Path::new(path), part: false }
}

fn of(old: &str, path: &str, answer: &str) -> Result<String, String> {
    file_in(answer, &asked(old, path))
}

/// Answers of all shapes to "make x 2" in a file of one line.
#[test]
fn the_file_is_found_in_answers_of_all_shapes() {
    let table = [
        ("the file alone", "x = 2\n"),
        ("without a last line end", "x = 2"),
        ("blank lines around", "\n\nx = 2\n\n\n"),
        ("a fence", "```\nx = 2\n```"),
        ("a language", "```python\nx = 2\n```\n"),
        ("a language with more behind", "```python title=\"p.py\"\nx = 2\n```\n"),
        ("four backticks", "````python\nx = 2\n````"),
        ("tildes", "~~~\nx = 2\n~~~\n"),
        ("a longer closing fence", "```\nx = 2\n``````"),
        ("an indented fence", "1. Change it:\n\n   ```python\n   x = 2\n   ```\n"),
        ("a sentence before", "Sure:\n```\nx = 2\n```"),
        (
            "sentences around",
            "Here is the changed file:\n\n```python\nx = 2\n```\n\nI changed 1 to 2.",
        ),
        ("thoughts before", "<think>\nOne line.\n</think>\n\nx = 2\n"),
        ("thoughts before a fence", "<think>Is it\n```\nx = 3\n```\n?</think>\n```\nx = 2\n```"),
        ("thoughts begun by the template", "It is one line.\n</think>\n\nx = 2\n"),
        ("thoughts between", "Sure.\n<think>\n```\nx = 5\n</think>\n```\nx = 2\n```"),
        ("several thoughts", "<think>a</think>\n<think>b</think>\nx = 2"),
        ("other thoughts", "<thinking>a</thinking>[THINK]b[/THINK]\nx = 2\n"),
        ("line ends of another system", "```\r\nx = 2\r\n```\r\n"),
        ("a byte order mark", "\u{feff}x = 2\n"),
        ("the same twice", "```\nx = 2\n```\nAs a whole:\n```\nx = 2\n```"),
        ("the old text first", "Before:\n```\nx = 1\n```\nAfter:\n```\nx = 2\n```"),
        ("how to run it", "```python\nx = 2\n```\nRun it:\n```sh\npython3 p.py\n```"),
        ("another file", "p.py:\n```\nx = 2\n```\n`test_p.py`:\n```\nx = 2\nassert x == 2\n```"),
        ("an element", "<file>\nx = 2\n</file>\n"),
        (
            "an element with a name, around a fence",
            "<updated_file path=\"p.py\">\n```\nx = 2\n```\n</updated_file>",
        ),
        ("code within a line", "`x = 2`"),
        ("a patch, and the file", "```diff\n-x = 1\n+x = 2\n```\nSo:\n```python\nx = 2\n```\n"),
        ("a name as language", "```python p.py\nx = 2\n```\n```python q.py\nx = 1 + 1\n```"),
    ];
    for (what, answer) in table {
        assert_eq!(of("x = 1\n", "p.py", answer).as_deref(), Ok("x = 2\n"), "{what}");
    }
}

#[test]
fn an_answer_that_is_no_file_for_sure_is_refused_with_the_reason() {
    let table = [
        ("", "empty"),
        (" \n\n", "empty"),
        ("```\n```", "empty file"),
        ("```python\n\n\n```", "empty file"),
        ("<think>x = 2", "does not end"),
        ("<think>x = 2</think>\n", "empty"),
        ("```python\nx = 2\n", "not closed"),
        ("x = 2\n```", "not closed"),
        ("Sure:\n```\nx = 2\n```\n```\ny", "not closed"),
        ("I cannot do that.", "prose"),
        ("Sure!", "prose"),
        ("Sorry, the file has no function of that name", "prose"),
        ("```\nI can't help with that.\n```", "prose"),
        ("Here is the changed file:\nx = 2\n", "prose around"),
        ("x = 2\n\nI changed 1 to 2.\n", "prose around"),
        ("```\nx = 2\n```\n```\nx = 3\n```", "2 fenced parts"),
        ("```python\nimport os\n```\n```python\nprint()\n```", "2 fenced parts"),
        ("x = 2\n# ... rest of the code unchanged\n", "leaves parts"),
        ("```\n# ... existing code ...\nx = 2\n```", "leaves parts"),
        ("```diff\n--- a/p.py\n+++ b/p.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n```", "patch"),
        ("```diff\n-x = 1\n+x = 2\n```", "patch"),
        ("```patch\n+x = 2\n```", "patch"),
        ("-x = 1\n+x = 2\n", "patch"),
        ("```python\n- x = 1\n+ x = 2\n```", "patch"),
        ("<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE", "patch"),
    ];
    for (answer, reason) in table {
        let told = of("x = 1\n", "p.py", answer).unwrap_err();
        assert!(told.contains(reason), "{answer:?}: {told}");
    }
    let old: String = (1..=40).map(|i| format!("x{i} = {i}\n")).collect();
    let told = of(&old, "p.py", "Change it so:\n```\nx3 = 4\n```\n").unwrap_err();
    assert!(told.contains("1 lines and the file 40"), "{told}");
    let part = Asked { part: true, ..asked(&old, "p.py") };
    assert_eq!(file_in("x3 = 4", &part).as_deref(), Ok("x3 = 4\n"), "of lines, few may be left");
}

#[test]
fn a_file_keeps_the_fences_that_are_its_own() {
    let one = "```sh\nls\n```\n";
    let new = Ok("```sh\npwd\n```\n".to_owned());
    assert_eq!(of(one, "f.md", "```sh\npwd\n```"), new, "the file is one fence");
    assert_eq!(of(one, "f.md", "Sure:\n\n```sh\npwd\n```\n"), new);
    assert_eq!(of(one, "f.md", "````\n```sh\npwd\n```\n````"), new);
    assert_eq!(of(one, "f.md", "```markdown\n```sh\npwd\n```\n```"), new);
    let bare = "```\nls\n```\n";
    let new = Ok("```\npwd\n```\n".to_owned());
    assert_eq!(of(bare, "f.md", "```\npwd\n```"), new);
    assert_eq!(of(bare, "f.md", "```markdown\n```\npwd\n```\n```\n"), new);

    let readme =
        "# Tool\n\nRun it:\n\n```\ntool\n```\n\nOr so:\n\n```sh\ntool -x\n```\n\nThe end.\n";
    let new = readme.replace("tool\n", "tool -v\n");
    let inside = new.trim_end();
    for answer in [
        new.clone(),
        format!("```markdown\n{new}```\n"),
        format!("````markdown\n{new}````\n"),
        format!("~~~\n{new}~~~\n"),
        format!("Here is the changed file:\n\n```markdown\n{inside}\n```\n\nI added `-v`.\n"),
    ] {
        assert_eq!(of(readme, "README.md", &answer).as_deref(), Ok(&*new), "{answer}");
    }
    let told = of(readme, "README.md", &format!("Here is the changed file:\n\n{new}")).unwrap_err();
    assert!(told.contains("prose around"), "{told}");

    // An example is added to a text that had none.
    let plain = "# Tool\n\nIt does one thing.\n\nThe end.\n";
    let new = "# Tool\n\nIt does one thing.\n\n```sh\ntool\n```\n\nThe end.\n";
    assert_eq!(of(plain, "README.md", new).as_deref(), Ok(new));
    assert_eq!(of(plain, "README.md", &format!("```md\n{new}```")).as_deref(), Ok(new));
    let told = of(plain, "README.md", "Add this at the end:\n\n```sh\ntool\n```\n").unwrap_err();
    assert!(told.contains("for sure"), "{told}");
    let doc = "def f():\n    \"\"\"F.\n\n    ```\n    f()\n    ```\n    \"\"\"\n    return 1\n";
    let new = doc.replace("return 1", "return 2");
    assert_eq!(of(doc, "p.py", &new).as_deref(), Ok(&*new), "fences in a docstring");
    assert_eq!(of(doc, "p.py", &format!("```python\n{new}```")).as_deref(), Ok(&*new));
}

#[test]
fn marks_of_thought_that_the_file_has_are_text() {
    let old = "OPEN = 1\nprint('<think>')\n";
    let new = "OPEN = 2\nprint('<think>')\n";
    assert_eq!(of(old, "p.py", new).as_deref(), Ok(new));
    let new = "<think>\nx\n</think>\n";
    assert_eq!(of("<think>\ny\n</think>\n", "f.xml", new).as_deref(), Ok(new));
}

#[test]
fn what_could_be_a_wrapping_is_text_in_a_file_of_its_kind() {
    for (old, path, new) in [
        ("<file>\n<a/>\n</file>\n", "f.xml", "<file>\n<b/>\n</file>\n"),
        ("x\n", "f.html", "<code>\ny\n</code>\n"),
        ("<file>\nx\n</file>\n", "f.conf", "<file>\ny\n</file>\n"),
        ("x\n", "f.md", "`y`\n"),
        ("- a\n", "f.yaml", "- a\n- b\n"),
        ("a\n", "f.md", "- a\n- b\n"),
        ("x = 1\n", "f.py", "x = (2\n-1)\n"),
    ] {
        assert_eq!(of(old, path, new).as_deref(), Ok(new), "{path}");
    }
}

#[test]
fn prose_may_become_other_prose() {
    let old = "Dear all,\n\nI have been away.\n\nYours\n";
    let new = "Dear all,\n\nI was away.\n\nYours truly\n";
    assert_eq!(of(old, "letter.txt", new).as_deref(), Ok(new));
    assert_eq!(of(old, "letter", new).as_deref(), Ok(new));
    assert_eq!(of(old, "letter.txt", &format!("```\n{new}```")).as_deref(), Ok(new));
    for said in ["I'm sorry, I can't do that.\n".to_owned(), format!("Sure! Here it is:\n\n{new}")]
    {
        assert!(of(old, "letter.txt", &said).is_err(), "{said}");
    }
}

/// Sentences as they stand around a block.
fn said() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("Here is the changed file:"),
        Just("I renamed it."),
        Just(""),
        Just("- a point with `code`"),
        Just("Sure!")
    ];
    proptest::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

proptest! {
    /// Whatever a file holds, fences and all: a fence that is long enough around it is taken off, with what is said
    /// around that, and nothing else is.
    #[test]
    fn what_a_long_enough_fence_encloses_is_the_file(
        content in "(([ab#`~ {}\\.\t\"]{0,6}|```|```sh|~~~~|````md|    ```)\n){1,12}",
        before in said(),
        after in said(),
        more in 0usize..3,
        tildes in any::<bool>(),
        info in "(python|markdown|)",
    ) {
        prop_assume!(!content.trim().is_empty());
        let mark = if tildes { "~" } else { "`" };
        let longest = content.lines().map(|line| line.matches(mark).count()).max().unwrap_or(0);
        let fence = mark.repeat(longest.max(2) + 1 + more);
        let answer = format!("{before}\n{fence}{info}\n{content}{fence}\n{after}");
        for path in ["p.py", "README.md"] {
            let asked = asked(&content, path);
            let kind = Kind::of(asked.path, asked.old);
            prop_assert_eq!(extract(&answer, &asked, kind), Ok(content.clone()), "{}", answer);
        }
    }

    #[test]
    fn no_answer_makes_an_empty_file_or_a_panic(answer in "([ab`~<>/\n .#-]|```|think|Sure){0,40}", old in "[a-z`\n]{1,20}") {
        for path in ["p.py", "README.md", "x"] {
            if let Ok(new) = of(&old, path, &answer) {
                prop_assert!(!new.trim().is_empty());
            }
        }
    }
}
