//! Plays every end that a writer can come to.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Survives, TestDisk};

/// A folder as a writer's end left it.
#[derive(Debug)]
pub struct End {
    /// The folder.
    pub folder: PathBuf,
    /// True if the writer had come to its end before: then what it wrote must be there.
    pub finished: bool,
    what: String,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The ends that are played at each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// A kill, each kind of power cut, and so many random ones.
    All(u64),
    /// One of them, another at each operation: for writers that take their time.
    Turns,
}

impl Ends {
    /// A kill is `None`.
    fn at(self, operation: usize) -> Vec<Option<Survives>> {
        let kinds = [Survives::Nothing, Survives::Names, Survives::Lengths];
        let mut all = vec![None];
        all.extend(kinds.map(Some));
        match self {
            Ends::All(seeds) => all.extend((0..seeds).map(|seed| Some(Survives::Some(seed)))),
            Ends::Turns => {
                all.push(Some(Survives::Some(operation as u64)));
                all = vec![all[operation % all.len()]];
            }
        }
        all
    }
}

/// Runs `write` on copies of the folder `template` again and again: ended at every operation by a kill and by power
/// cuts, then cut behind its last one. `check` looks at what is left. Returns the number of operations.
///
/// `write` takes the folder's path, which is the same every time. It may return errors as it likes, and no panic.
///
/// # Panics
/// Panics if a folder can't be copied.
pub fn every_end(
    template: &Path,
    ends: Ends,
    write: impl Fn(&Path),
    check: impl Fn(&End),
) -> usize {
    let folder = template.with_extension("played");
    let play = |stop_at: usize, cut: Option<Survives>| {
        let _ = fs::remove_dir_all(&folder);
        copy(template, &folder).expect("the template can be copied");
        let disk = TestDisk::stopping_at(&folder, stop_at);
        write(&folder);
        let done = disk.operations();
        let finished = done.len() < stop_at;
        let last = done.last().map_or("", String::as_str);
        let how = match cut {
            None => "killed".to_owned(),
            Some(survives) => format!("power cut, survives: {survives:?}"),
        };
        let what = match finished {
            true => format!("{how} at the end"),
            false => format!("{how} at operation {}, {last}", done.len()),
        };
        match cut {
            None => drop(disk),
            Some(survives) => disk.cut_power(survives).expect("the folder can be written"),
        }
        // Whatever comes next is not waited for by a disk either.
        let _next = TestDisk::counting(&folder);
        check(&End { folder: folder.clone(), finished, what });
        done.len()
    };
    let count = play(usize::MAX, None);
    for stop_at in 1..=count + 1 {
        // A writer that does other things each time may be done earlier.
        for cut in ends.at(stop_at) {
            play(stop_at, cut);
        }
    }
    let _ = fs::remove_dir_all(&folder);
    count
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (here, there) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&here, &there)?;
        } else if kind.is_symlink() {
            #[cfg(unix)]
            std::os::unix::fs::symlink(fs::read_link(&here)?, &there)?;
        } else {
            fs::copy(&here, &there)?;
        }
    }
    Ok(())
}
