//! Which files an input stands for, before any of them is opened.

use super::{CorpusOptions, Reason, Skipped};
use crate::error::{Error, Result, io_error};
use ignore::gitignore::Gitignore;
use std::collections::{HashSet, VecDeque};
use std::fs::{self, FileType, Metadata};
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
    /// Whether it was named itself: then it is taken whatever its size and ending, and what is wrong
    /// with it is an error.
    pub(super) named: bool,
}

/// The files of an input, sorted by their paths; what is passed over goes to `skipped`.
pub(super) fn list(
    input: &Path,
    options: &CorpusOptions,
    skipped: &mut Skipped,
) -> Result<Vec<Found>> {
    let metadata = fs::metadata(input).map_err(io_error(input, "read"))?;
    if !metadata.is_dir() {
        // A pipe that is named is meant: `<(zcat …)`. A device would never end.
        if is_device(metadata.file_type()) {
            let reason = "a device; name a file or a folder".to_owned();
            return Err(Error::Corpus { path: input.to_owned(), reason });
        }
        let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (path, bytes) = (input.to_owned(), metadata.len());
        return Ok(vec![Found { path, name, bytes, named: true }]);
    }
    let canonical = fs::canonicalize(input).map_err(io_error(input, "read"))?;
    let mut walk = Walk {
        root: input,
        options,
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

#[cfg(unix)]
fn is_device(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt;
    kind.is_char_device() || kind.is_block_device() || kind.is_socket()
}

#[cfg(not(unix))]
fn is_device(_kind: FileType) -> bool {
    false
}

struct Walk<'a> {
    root: &'a Path,
    options: &'a CorpusOptions,
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
        let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) if path == self.root => return Err(io_error(path, "read")(error)),
            Err(error) => {
                self.unreadable(path, &error);
                return Ok(());
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        let rules =
            if self.options.take_ignored { None } else { Some(Rc::new(Rules::new(path, above))) };
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) => {
                    self.unreadable(&path, &error);
                    continue;
                }
            };
            let verdict = rules.as_ref().and_then(|rules| rules.ignored(&path, kind.is_dir()));
            let hidden = name.to_string_lossy().starts_with('.');
            if verdict == Some(true) {
                self.skip(Reason::Ignored, &path);
            } else if hidden && !self.options.take_hidden && verdict.is_none() {
                self.skip(Reason::Hidden, &path);
            } else if kind.is_dir() {
                self.folder(&path, &canonical.join(name), rules.clone())?;
            } else if kind.is_symlink() {
                let (within, rules) = (canonical.to_owned(), rules.clone());
                self.links.push_back(Link { path, within, rules });
            } else if kind.is_file() {
                match entry.metadata() {
                    Ok(metadata) => self.file(path, &metadata),
                    Err(error) => self.unreadable(&path, &error),
                }
            } else {
                self.skip(Reason::NotAFile, &path);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        let name = self.name(&path);
        if !self.options.wants(&name) {
            self.skipped.add(Reason::OtherEnding, name);
            return;
        }
        let relative = path.strip_prefix(self.root).unwrap_or(&path).to_owned();
        self.found.push((relative, Found { path, name, bytes: metadata.len(), named: false }));
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
            let target = fs::canonicalize(&path).and_then(|to| Ok((fs::metadata(&to)?, to)));
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
                self.file(path, &metadata);
            } else {
                self.skip(Reason::Again, &path);
            }
        }
    }
}

/// What the ignore files of a folder and of those above it say.
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
            // What can't be read, or is no pattern, ignores nothing.
            if file.is_file() { Gitignore::new(file).0 } else { Gitignore::empty() }
        });
        Self { files, repository: folder.join(".git").exists(), above }
    }

    /// Whether the nearest rule that matches leaves the path out or takes it in; `None` where none does.
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
