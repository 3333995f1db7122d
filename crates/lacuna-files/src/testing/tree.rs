//! Knows what a folder holds, what of it is safe on the disk, and what came since.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The part of what was not synced that is on the disk after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Nothing.
    Nothing,
    /// All names, and of the files' bytes none: a name came to the disk before what it stands for.
    Names,
    /// All names and all lengths; in the place of new bytes there are zeros.
    Lengths,
    /// Some names, and some files in full, in part or as zeros: another choice for each number.
    Some(u64),
}

/// A file, folder or link, by whatever name.
pub(super) type Id = usize;

#[derive(Debug)]
enum Node {
    File {
        /// The bytes that are safe.
        safe: Vec<u8>,
        /// True if others were written since.
        dirty: bool,
    },
    Folder(Names),
    Link(PathBuf),
}

#[derive(Debug, Default)]
struct Names {
    now: BTreeMap<OsString, Id>,
    safe: BTreeMap<OsString, Id>,
    /// The changes that made `now` of `safe`, in order; each comes to the disk as one, or not.
    since: Vec<Vec<(OsString, Option<Id>)>>,
}

/// The tree below a test disk's folder, node 0.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Takes everything that is there as safe.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let mut tree = Self { nodes: Vec::new() };
        tree.adopt(root, true)?;
        Ok(tree)
    }

    /// Takes in what stands at `path`.
    fn adopt(&mut self, path: &Path, safe: bool) -> io::Result<Id> {
        let kind = fs::symlink_metadata(path)?.file_type();
        let id = self.nodes.len();
        if kind.is_symlink() {
            self.nodes.push(Node::Link(fs::read_link(path)?));
        } else if kind.is_dir() {
            self.nodes.push(Node::Folder(Names::default()));
            for entry in fs::read_dir(path)? {
                let name = entry?.file_name();
                let child = self.adopt(&path.join(&name), safe)?;
                self.set(id, vec![(name, Some(child))]);
            }
            if let (true, Node::Folder(names)) = (safe, &mut self.nodes[id]) {
                names.sync();
            }
        } else {
            let bytes = if safe && kind.is_file() { fs::read(path)? } else { Vec::new() };
            self.nodes.push(Node::File { safe: bytes, dirty: !safe });
        }
        Ok(id)
    }

    /// The thing that has this name now. What somebody made past this crate is taken in, as not
    /// synced.
    pub(super) fn find(&mut self, root: &Path, path: &Path) -> Option<Id> {
        let mut id = 0;
        let mut at = root.to_owned();
        for part in path.strip_prefix(root).ok()? {
            at.push(part);
            let Node::Folder(names) = &self.nodes[id] else { return None };
            id = match names.now.get(part) {
                Some(&child) => child,
                None => {
                    let child = self.adopt(&at, false).ok()?;
                    self.set(id, vec![(part.to_owned(), Some(child))]);
                    child
                }
            };
        }
        Some(id)
    }

    fn folder_of<'p>(&mut self, root: &Path, path: &'p Path) -> Option<(Id, &'p OsStr)> {
        Some((self.find(root, path.parent()?)?, path.file_name()?))
    }

    fn set(&mut self, folder: Id, edit: Vec<(OsString, Option<Id>)>) {
        if let Node::Folder(names) = &mut self.nodes[folder] {
            apply(&mut names.now, &edit);
            names.since.push(edit);
        }
    }

    fn name_new(&mut self, root: &Path, path: &Path, node: Node) -> Id {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.rename(root, &[(path, Some(id))]);
        id
    }

    pub(super) fn create(&mut self, root: &Path, path: &Path) -> Id {
        self.name_new(root, path, Node::File { safe: Vec::new(), dirty: false })
    }

    pub(super) fn create_folder(&mut self, root: &Path, path: &Path) {
        self.name_new(root, path, Node::Folder(Names::default()));
    }

    pub(super) fn link(&mut self, root: &Path, path: &Path, to: &Path) {
        self.name_new(root, path, Node::Link(to.to_owned()));
    }

    /// Gives names in one step, and takes those with `None`. Of two folders each keeps its own part.
    pub(super) fn rename(&mut self, root: &Path, edit: &[(&Path, Option<Id>)]) {
        let mut edits: BTreeMap<Id, Vec<(OsString, Option<Id>)>> = BTreeMap::new();
        for (path, id) in edit {
            if let Some((folder, name)) = self.folder_of(root, path) {
                edits.entry(folder).or_default().push((name.to_owned(), *id));
            }
        }
        for (folder, edit) in edits {
            self.set(folder, edit);
        }
    }

    pub(super) fn write(&mut self, file: Id) {
        if let Node::File { dirty, .. } = &mut self.nodes[file] {
            *dirty = true;
        }
    }

    pub(super) fn sync(&mut self, root: &Path, file: Id) -> io::Result<()> {
        let bytes = self.path(file).map(|path| fs::read(root.join(path))).transpose()?;
        if let (Node::File { safe, dirty }, Some(bytes)) = (&mut self.nodes[file], bytes) {
            (*safe, *dirty) = (bytes, false);
        }
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let Some(id) = self.find(root, path) else { return Ok(()) };
        for entry in fs::read_dir(path)? {
            self.find(root, &path.join(entry?.file_name()));
        }
        if let Node::Folder(names) = &mut self.nodes[id] {
            names.sync();
        }
        Ok(())
    }

    /// The name that a file has now, for people.
    pub(super) fn name(&self, id: Id) -> String {
        self.path(id).map_or("a file without a name".into(), |path| path.display().to_string())
    }

    fn path(&self, wanted: Id) -> Option<PathBuf> {
        let mut open = vec![(0, PathBuf::new())];
        while let Some((id, path)) = open.pop() {
            if id == wanted {
                return Some(path);
            }
            if let Node::Folder(names) = &self.nodes[id] {
                open.extend(names.now.iter().map(|(name, id)| (*id, path.join(name))));
            }
        }
        None
    }

    /// Leaves at `root` what survives.
    pub(super) fn cut_power(&self, root: &Path, survives: Survives) -> io::Result<()> {
        let mut choice = Choice(survives, 0);
        let contents: Vec<Vec<u8>> = (0..self.nodes.len())
            .map(|id| match &self.nodes[id] {
                Node::File { safe, dirty: false } => safe.clone(),
                Node::File { safe, .. } => {
                    let now = self.path(id).and_then(|path| fs::read(root.join(path)).ok());
                    choice.bytes(safe, &now.unwrap_or_default())
                }
                _ => Vec::new(),
            })
            .collect();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        self.put(0, root, &contents, &mut choice)
    }

    fn put(&self, id: Id, at: &Path, contents: &[Vec<u8>], choice: &mut Choice) -> io::Result<()> {
        match &self.nodes[id] {
            Node::File { .. } => fs::write(at, &contents[id]),
            #[cfg(unix)]
            Node::Link(to) => std::os::unix::fs::symlink(to, at),
            #[cfg(not(unix))]
            Node::Link(_) => Ok(()),
            Node::Folder(names) => {
                if !at.is_dir() {
                    fs::create_dir(at)?;
                }
                let mut there = names.safe.clone();
                for edit in names.since.iter().filter(|_| choice.name()) {
                    apply(&mut there, edit);
                }
                there
                    .iter()
                    .try_for_each(|(name, id)| self.put(*id, &at.join(name), contents, choice))
            }
        }
    }
}

impl Names {
    fn sync(&mut self) {
        self.safe = self.now.clone();
        self.since.clear();
    }
}

fn apply(names: &mut BTreeMap<OsString, Id>, edit: &[(OsString, Option<Id>)]) {
    for (name, id) in edit {
        match id {
            Some(id) => names.insert(name.clone(), *id),
            None => names.remove(name),
        };
    }
}

/// Chooses which of the unsynced changes came to the disk.
struct Choice(Survives, u64);

impl Choice {
    /// A number below `n`, the same in every run.
    fn below(&mut self, n: u64) -> u64 {
        let Survives::Some(seed) = self.0 else { return 0 };
        self.1 += 1;
        // SplitMix64.
        let mut z = seed.wrapping_add(self.1.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn name(&mut self) -> bool {
        match self.0 {
            Survives::Nothing => false,
            Survives::Names | Survives::Lengths => true,
            Survives::Some(_) => self.below(2) == 1,
        }
    }

    fn bytes(&mut self, safe: &[u8], now: &[u8]) -> Vec<u8> {
        let kept = if now.starts_with(safe) { safe.len() } else { 0 };
        let zeros = || [&now[..kept], &vec![0; now.len() - kept]].concat();
        match self.0 {
            Survives::Nothing | Survives::Names => safe.to_vec(),
            Survives::Lengths => zeros(),
            Survives::Some(_) => match self.below(4) {
                0 => safe.to_vec(),
                1 => now.to_vec(),
                2 => zeros(),
                _ => now[..kept + (now.len() - kept) / 2].to_vec(),
            },
        }
    }
}
