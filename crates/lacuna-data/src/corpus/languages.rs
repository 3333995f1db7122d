//! Knows which endings and names the files of each programming language have.

use crate::error::{Error, Result};

/// One line a language: its name, the endings of its files, and names that its files have as a whole.
const TABLE: &str = include_str!("languages.tsv");

/// The names of all languages that a corpus can be asked for, in the order of the alphabet.
///
/// ```
/// assert!(lacuna_data::corpus::languages().any(|name| name == "rust"));
/// ```
pub fn languages() -> impl Iterator<Item = &'static str> {
    rows().map(|(name, ..)| name)
}

/// The endings and the names that files are taken by.
#[derive(Debug, Clone, Default)]
pub(super) struct Choice {
    /// In small letters, without the dot.
    endings: Vec<String>,
    names: Vec<String>,
    /// True if endings were asked for that belong to no language.
    by_ending: bool,
}

impl Choice {
    /// # Errors
    /// When a language is not in the table; the error names the nearest one.
    pub(super) fn new(extensions: &[String], languages: &[String]) -> Result<Self> {
        let mut choice = Self { by_ending: languages.is_empty(), ..Self::default() };
        choice.endings.extend(extensions.iter().map(|ending| ending.trim_matches('.').to_owned()));
        for asked in languages {
            let wanted = common_name(&asked.trim().to_ascii_lowercase()).to_owned();
            let Some((_, endings, names)) = rows().find(|(name, ..)| *name == wanted) else {
                return Err(unknown(asked, &wanted));
            };
            choice.endings.extend(endings.map(str::to_owned));
            choice.names.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        }
        Ok(choice)
    }

    /// Tells whether a file of this name is taken.
    pub(super) fn takes(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        let ends = |ending: &String| {
            let stem =
                name.len().checked_sub(ending.len()).and_then(|at| name.split_at_checked(at));
            stem.is_some_and(|(stem, end)| stem.ends_with('.') && end.eq_ignore_ascii_case(ending))
        };
        (self.endings.is_empty() && self.names.is_empty())
            || self.endings.iter().any(ends)
            || self.names.iter().any(|known| known == name)
    }

    pub(super) fn reason(&self) -> super::Reason {
        if self.by_ending { super::Reason::OtherEnding } else { super::Reason::OtherLanguage }
    }
}

type Row = (&'static str, std::str::Split<'static, char>, std::str::Split<'static, char>);

fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter_map(|line| {
        let (name, rest) = line.split_once('\t')?;
        let (endings, names) = rest.split_once('\t').unwrap_or((rest, ""));
        Some((name, endings.split(' '), names.split(' ')))
    })
}

/// The table's name of a language that has several.
fn common_name(name: &str) -> &str {
    match name {
        "cpp" | "cxx" => "c++",
        "csharp" | "cs" => "c#",
        "fsharp" => "f#",
        "golang" => "go",
        "js" => "javascript",
        "ts" => "typescript",
        "py" => "python",
        "rs" => "rust",
        "rb" => "ruby",
        "sh" | "shell" => "bash",
        "docker" => "dockerfile",
        "make" => "makefile",
        "md" => "markdown",
        "terraform" => "hcl",
        "latex" => "tex",
        other => other,
    }
}

fn unknown(asked: &str, wanted: &str) -> Error {
    let start = |name: &&str| wanted.get(..1).is_some_and(|first| name.starts_with(first));
    let near: Vec<&str> = languages().filter(start).collect();
    let near = if near.is_empty() { languages().collect() } else { near };
    let shown = lacuna_files::printable(asked);
    Error::Packing(format!(
        "no language {shown:?} is known; there are {}; other files are taken by their endings (--extension, \
         data.extensions)",
        near.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(extensions: &[&str], languages: &[&str]) -> Result<Choice> {
        let owned =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Choice::new(&owned(extensions), &owned(languages))
    }

    #[test]
    fn files_are_taken_by_language_by_name_and_by_ending() {
        let two = choice(&[], &["Python", "make"]).unwrap();
        for taken in ["a.py", "deep/er/b.PYI", "Makefile", "x/Makefile", "rules.mk"] {
            assert!(two.takes(taken), "{taken}");
        }
        for left in ["a.rs", "py", "a.py.txt", "Makefile.in", "apy", ""] {
            assert!(!two.takes(left), "{left}");
        }
        assert!(choice(&["txt"], &["rust"]).unwrap().takes("notes.txt"));
        assert!(choice(&[], &[]).unwrap().takes("anything at all"));
        assert!(choice(&[".tar.gz"], &[]).unwrap().takes("a.tar.gz"));
    }

    #[test]
    fn the_table_is_sorted_and_every_language_has_an_ending() {
        let names: Vec<_> = languages().collect();
        assert!(names.is_sorted() && names.len() > 60, "{names:?}");
        for (name, endings, _) in rows() {
            let endings: Vec<_> = endings.collect();
            assert!(endings.iter().all(|ending| !ending.is_empty()), "{name}: {endings:?}");
            assert!(choice(&[], &[name]).unwrap().takes(&format!("x.{}", endings[0])), "{name}");
        }
    }

    #[test]
    fn an_unknown_language_is_told_with_those_near_it() {
        let error = choice(&[], &["pyton"]).unwrap_err().to_string();
        assert!(error.contains("\"pyton\"") && error.contains("python"), "{error}");
        assert!(!error.contains("zig"), "{error}");
    }
}
