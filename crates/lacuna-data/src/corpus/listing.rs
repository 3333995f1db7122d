//! Lists the files that an input stands for, before any of them is opened.

use super::languages::Choice;
use super::{CorpusOptions, Reason, Skipped};
use crate::error::{Error, Result, io_error};
use ignore::gitignore::Gitignore;
use lacuna_files::Kind;
use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A file to read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Relative to the input, with forward slashes.
    pub(super) name: String,
    /// On the disk.
    pub(super) bytes: u64,
    /// True if it was named itself: then it is taken whatever its size and ending, and what is
    /// wrong with it is an error.
    pub(super) named: bool,
}

/// The files of an input, sorted by their paths; what is passed over goes to `skipped`.
pub(super) fn list(
    input: &Path,
    (options, choice): (&CorpusOptions, &Choice),
    skipped: &mut Skipped,
) -> Result<Vec<Found>> {
    let metadata = input.metadata().map_err(io_error(input, "read"))?;
    if !metadata.is_dir() {
        // A pipe that is named is meant: `<(zcat …)`. A device would never end.
        if is_device(input) {
            let reason = "a device; name a file or a folder".to_owned();
            return Err(Error::Corpus { path: input.to_owned(), reason });
        }
        let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (path, bytes) = (input.to_owned(), metadata.len());
        return Ok(vec![Found { path, name, bytes, named: true }]);
    }
    let canonical = input.canonicalize().map_err(io_error(input, "read"))?;
    let mut walk = Walk {
        root: input,
        options,
        choice,
        skipped,
        found: vec![],
        folders: HashSet::new(),
        links: VecDeque::new(),
    };
    walk.folder(input, &canonical, None)?;
    walk.follow(&canonical);
    let mut found = walk.found;
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found.into_iter().map(|(_, found)| found).collect())
}

/// A pipe ends when its writer does; of these no end is known.
fn is_device(input: &Path) -> bool {
    matches!(lacuna_files::kind(input), Ok(Kind::Device | Kind::Socket))
}

struct Walk<'a> {
    root: &'a Path,
    options: &'a CorpusOptions,
    choice: &'a Choice,
    skipped: &'a mut Skipped,
    /// With the path relative to the root.
    found: Vec<(PathBuf, Found)>,
    /// The true paths of all folders that were read.
    folders: HashSet<PathBuf>,
    links: VecDeque<Link>,
}

/// A link that waits until everything that is no link has been found: where both lead to a file, the
/// file counts under its own name.
struct Link {
    path: PathBuf,
    /// The true path of the folder that it stands in.
    within: PathBuf,
    rules: Option<Rc<Rules>>,
}

impl Walk<'_> {
    fn name(&self, path: &Path) -> String {
        let relative = path.strip_prefix(self.root).unwrap_or(path);
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        parts.join("/")
    }

    fn skip(&mut self, reason: Reason, path: &Path) {
        self.skipped.add(reason, self.name(path));
    }

    fn unreadable(&mut self, path: &Path, error: &std::io::Error) {
        self.skipped.add(Reason::Unreadable, format!("{} ({error})", self.name(path)));
    }

    fn folder(&mut self, path: &Path, canonical: &Path, above: Option<Rc<Rules>>) -> Result<()> {
        if !self.folders.insert(canonical.to_owned()) {
            self.skip(Reason::Again, path);
            return Ok(());
        }
        let entries = match lacuna_files::list(path) {
            Ok(entries) => entries,
            Err(error) if path == self.root => return Err(io_error(path, "read")(error)),
            Err(error) => {
                self.unreadable(path, &error);
                return Ok(());
            }
        };
        let rules =
            if self.options.take_ignored { None } else { Some(Rc::new(Rules::new(path, above))) };
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_owned();
            let there = match path.symlink_metadata() {
                Ok(there) => there,
                Err(error) => {
                    self.unreadable(&path, &error);
                    continue;
                }
            };
            let verdict = rules.as_ref().and_then(|rules| rules.ignored(&path, there.is_dir()));
            let hidden = name.to_string_lossy().starts_with('.');
            if verdict == Some(true) {
                self.skip(Reason::Ignored, &path);
            } else if hidden && !self.options.take_hidden && verdict.is_none() {
                self.skip(Reason::Hidden, &path);
            } else if there.is_dir() {
                self.folder(&path, &canonical.join(name), rules.clone())?;
            } else if there.is_symlink() {
                let (within, rules) = (canonical.to_owned(), rules.clone());
                self.links.push_back(Link { path, within, rules });
            } else if there.is_file() {
                self.file(path, there.len());
            } else {
                self.skip(Reason::NotAFile, &path);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, bytes: u64) {
        let name = self.name(&path);
        if !self.choice.takes(&name) {
            self.skipped.add(self.choice.reason(), name);
            return;
        }
        let relative = path.strip_prefix(self.root).unwrap_or(&path).to_owned();
        self.found.push((relative, Found { path, name, bytes, named: false }));
    }

    /// Links to files are read wherever they lead, and links to folders unless that goes in a circle;
    /// nothing is read twice.
    fn follow(&mut self, canonical: &Path) {
        if self.links.is_empty() {
            return;
        }
        let known = self.found.iter().map(|(relative, _)| canonical.join(relative));
        let mut files: HashSet<PathBuf> = known.collect();
        while let Some(Link { path, within, rules }) = self.links.pop_front() {
            let target = path.canonicalize().and_then(|to| Ok((to.metadata()?, to)));
            let (metadata, target) = match target {
                Ok(target) => target,
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    self.unreadable(&path, &error);
                    continue;
                }
                Err(_) => {
                    self.skip(Reason::BrokenLink, &path);
                    continue;
                }
            };
            if metadata.is_dir() && within.starts_with(&target) {
                self.skip(Reason::CircularLink, &path);
            } else if metadata.is_dir() {
                let before = self.found.len();
                // Only the root's own refusal is an error.
                let _ = self.folder(&path, &target, rules);
                for (_, found) in &self.found[before..] {
                    let inside = found.path.strip_prefix(&path).unwrap_or(&found.path);
                    files.insert(target.join(inside));
                }
            } else if !metadata.is_file() {
                self.skip(Reason::NotAFile, &path);
            } else if files.insert(target) {
                self.file(path, metadata.len());
            } else {
                self.skip(Reason::Again, &path);
            }
        }
    }
}

/// The rules that the ignore files of a folder and of those above it say.
struct Rules {
    /// `.ignore`, then `.gitignore`: the first outranks the second.
    files: [Gitignore; 2],
    /// A repository begins here: what Git's files above say is not for it.
    repository: bool,
    above: Option<Rc<Rules>>,
}

impl Rules {
    fn new(folder: &Path, above: Option<Rc<Self>>) -> Self {
        let files = [".ignore", ".gitignore"].map(|name| {
            let file = folder.join(name);
            // A line that can't be read, or is no pattern, ignores nothing.
            if file.is_file() { Gitignore::new(file).0 } else { Gitignore::empty() }
        });
        Self { files, repository: folder.join(".git").exists(), above }
    }

    /// Tells whether the nearest rule that matches leaves the path out or takes it in; `None` if
    /// none does.
    fn ignored(&self, path: &Path, is_dir: bool) -> Option<bool> {
        for (number, git) in [(0, false), (1, true)] {
            let mut level = Some(self);
            while let Some(rules) = level {
                match rules.files[number].matched(path, is_dir) {
                    ignore::Match::Ignore(_) => return Some(true),
                    ignore::Match::Whitelist(_) => return Some(false),
                    ignore::Match::None => {}
                }
                level = rules.above.as_deref().filter(|_| !(git && rules.repository));
            }
        }
        None
    }
}
