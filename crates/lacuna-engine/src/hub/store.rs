//! Keeps files in the cache that Hugging Face's tools share: `blobs/ETAG` holds contents,
//! `snapshots/COMMIT/NAME` links to them, `refs/REVISION` says which commit a revision was.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lacuna_files::{File, FileLock};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::Download;
use super::client::{Client, Failure, Reply};

/// Tries for one file while it makes no progress.
const TRIES: u32 = 4;
/// The time for which another process may seem to do nothing for a file that it fetches.
const PATIENCE: Duration = Duration::from_secs(60);
/// Fewer bytes in half of that are a server that doesn't get on.
const LEAST_BYTES: u64 = 16 << 10;

/// Everything but what RFC 3986 leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One commit of a repository, on the hub and in the cache.
pub(super) struct Snapshot<'a> {
    pub(super) client: &'a Client,
    pub(super) repository: &'a str,
    pub(super) commit: &'a str,
    pub(super) cache: &'a Path,
    /// Hears of every piece that arrives.
    pub(super) progress: &'a dyn Fn(Download<'_>),
}

/// Tells whether a name from a server can be one in a folder, on every system, and nothing else.
pub(super) fn is_plain(name: &str) -> bool {
    let odd = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains(odd)
}

/// A part of an address.
pub(super) fn encoded(part: &str) -> String {
    utf8_percent_encode(part, ENCODED).to_string()
}

impl Snapshot<'_> {
    fn repository_folder(&self) -> PathBuf {
        self.cache.join(format!("models--{}", self.repository.replace('/', "--")))
    }

    /// The folder that the commit's files stand in.
    pub(super) fn folder(&self) -> PathBuf {
        self.repository_folder().join("snapshots").join(self.commit)
    }

    /// So that the revision is found again without the network.
    pub(super) fn note(&self, revision: &str) -> Result<(), Failure> {
        let path = self.repository_folder().join("refs").join(revision);
        make_parent(&path)?;
        lacuna_files::write_file(&path, self.commit.as_bytes()).map_err(disk)
    }

    /// A file of the commit: from the cache, or fetched into it, going on where an interrupted one ended.
    pub(super) fn fetch(&self, file: &str) -> Result<PathBuf, Failure> {
        let pointer = self.folder().join(file);
        if pointer.exists() {
            return Ok(pointer);
        }
        let parts: Vec<String> = file.split('/').map(encoded).collect();
        let address = format!("{}/resolve/{}/{}", self.repository, self.commit, parts.join("/"));
        // One byte, to know the content's name and length before anything is written.
        let head = self.patiently(|| self.client.get(&address, Some((0, Some(0)))))?;
        let etag = etag(&head)?;
        let total = head.file_bytes().ok_or_else(|| {
            Failure::Refused(format!("the server does not say how long {file} is"))
        })?;
        drop(head);
        let blob = self.repository_folder().join("blobs").join(&etag);
        make_parent(&blob)?;
        let lock = self.cache.join(".locks");
        let lock = lock.join(format!("models--{}", self.repository.replace('/', "--")));
        let lock = lock.join(format!("{etag}.lock"));
        make_parent(&lock)?;
        let partial = blob.with_file_name(format!("{etag}.incomplete"));
        let _lock = lock_patiently(&lock, &partial)?;
        if !blob.exists() {
            // Behind the part that an earlier process left may stand what a power cut made of it. Where the content is
            // checked, such a part costs another try; where it can't be, the part is not taken.
            if !is_hash(&etag) {
                lacuna_files::remove_if_there(&partial).map_err(Failure::Disk)?;
            }
            let begun = length(&partial) > 0;
            room_for(file, total, &partial)?;
            self.fill(&address, file, &partial, total)?;
            let mut checked = check(&partial, file, &etag);
            if begun && matches!(checked, Err(Failure::Refused(_))) {
                self.fill(&address, file, &partial, total)?;
                checked = check(&partial, file, &etag);
            }
            checked?;
            lacuna_files::rename(&partial, &blob).map_err(Failure::Disk)?;
        }
        point(&blob, &pointer, file.split('/').count() - 1)?;
        Ok(pointer)
    }

    /// Fetches what `partial` lacks of a file. A try that brought something makes the next one free.
    fn fill(&self, address: &str, file: &str, partial: &Path, total: u64) -> Result<(), Failure> {
        let mut tries = TRIES;
        let (mut since, mut mark) = (Instant::now(), length(partial));
        loop {
            let before = length(partial);
            let Err(failure) = self.append(address, file, partial, total) else {
                return Ok(());
            };
            let after = length(partial);
            tries = if after > before { TRIES } else { tries - 1 };
            if after.saturating_sub(mark) >= LEAST_BYTES {
                (since, mark) = (Instant::now(), after);
            }
            // Tries that each bring a byte, or nothing after a long silence, would go on for hours.
            let given_up = tries == 0 || since.elapsed() > PATIENCE / 2;
            if given_up || !failure.is_passing() {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_secs(1 << (TRIES - tries).min(3)));
        }
    }

    fn append(&self, address: &str, file: &str, partial: &Path, total: u64) -> Result<(), Failure> {
        let name = lacuna_files::printable(file);
        let hear = |done| (self.progress)(Download { file: &name, done, total });
        let mut out = File::to_write(partial).map_err(Failure::Disk)?;
        let mut held = out.metadata().map_err(Failure::Disk)?.len();
        if held > total {
            held = 0;
        }
        hear(held);
        if held == total {
            return out.set_len(total).and_then(|()| out.sync_all()).map_err(Failure::Disk);
        }
        let mut reply = self.client.get(address, Some((held, None)))?;
        let begins = match (reply.status, reply.content_range()) {
            (206, Some((Some(first), _))) => first,
            (206, _) => held,
            _ => 0,
        };
        if !reply.continues(held, total) {
            let reason = format!("the server sends another part, or something else, as {file}");
            return Err(Failure::Refused(reason));
        }
        held = begins;
        out.set_len(held).map_err(Failure::Disk)?;
        out.seek(std::io::SeekFrom::Start(held)).map_err(Failure::Disk)?;
        let mut body = reply.reader();
        let mut buffer = vec![0; 1 << 18];
        let (mut since, mut before) = (Instant::now(), held);
        while held < total {
            // A byte now and then is no download either.
            if since.elapsed() > PATIENCE / 2 {
                if held - before < LEAST_BYTES {
                    let seconds = since.elapsed().as_secs();
                    let reason = format!("{} bytes of {file} in {seconds} s", held - before);
                    return Err(Failure::Unreachable(reason));
                }
                (since, before) = (Instant::now(), held);
            }
            let wanted = buffer.len().min(usize::try_from(total - held).unwrap_or(usize::MAX));
            let read = body.read(&mut buffer[..wanted]);
            let read = read.map_err(|error| Failure::Unreachable(error.to_string()))?;
            if read == 0 {
                let reason =
                    format!("the connection ended after {held} of {total} bytes of {file}");
                return Err(Failure::Unreachable(reason));
            }
            out.write_all(&buffer[..read]).map_err(Failure::Disk)?;
            held += read as u64;
            hear(held);
        }
        out.sync_all().map_err(Failure::Disk)
    }

    /// Tries again where a server is overloaded; an unreachable one is said at once.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut tries = TRIES;
        loop {
            match ask() {
                Err(failure @ Failure::Status(_)) if failure.is_passing() && tries > 1 => {
                    std::thread::sleep(Duration::from_secs(1 << (TRIES - tries).min(3)));
                    tries -= 1;
                }
                answer => return answer,
            }
        }
    }
}

/// The content's name, which becomes a file's.
fn etag(head: &Reply) -> Result<String, Failure> {
    let text = head.etag.as_deref().unwrap_or_default().trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    let name = text.trim_matches('"');
    if name.is_empty() {
        return Err(Failure::Refused("the server names no content (no ETag)".into()));
    }
    match is_plain(name) {
        true => Ok(name.to_owned()),
        false => Err(Failure::Refused(format!(
            "the server's ETag `{}` is no plain name, and a file would have it; nothing was written",
            lacuna_files::printable(name)
        ))),
    }
}

/// Tells whether a content's name is its SHA-256.
fn is_hash(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Bytes of a file; none where there is none.
fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |there| there.len())
}

/// Large files are named by their SHA-256: what came is compared with it.
fn check(partial: &Path, file: &str, etag: &str) -> Result<(), Failure> {
    if !is_hash(etag) {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    let mut from = lacuna_files::open_any(partial).map_err(Failure::Disk)?;
    std::io::copy(&mut from, &mut hasher).map_err(Failure::Disk)?;
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(etag) {
        return Ok(());
    }
    lacuna_files::remove_file(partial).map_err(Failure::Disk)?;
    Err(Failure::Refused(format!(
        "what came as {file} is not what the hub has (its SHA-256 differs) and was removed; fetch it again"
    )))
}

/// Before hours are spent on it: a file that has no room, whatever length a server claims, is not begun.
fn room_for(file: &str, total: u64, partial: &Path) -> Result<(), Failure> {
    let held = length(partial);
    let lacks = total.saturating_sub(held);
    let free = partial.parent().and_then(lacuna_files::free_bytes).unwrap_or(u64::MAX);
    if lacks <= free {
        return Ok(());
    }
    let reason = format!("{file} takes {lacks} bytes more, {free} are free there");
    Err(Failure::Disk(std::io::Error::other(reason)))
}

/// One process fetches a content; others wait as long as it gets on.
fn lock_patiently(lock: &Path, partial: &Path) -> Result<FileLock, Failure> {
    let (mut since, mut before) = (Instant::now(), length(partial));
    loop {
        // If the file system knows no locks, two may fetch the same.
        if let Some(held) = FileLock::try_acquire(lock).map_err(Failure::Disk)? {
            return Ok(held);
        }
        let now = length(partial);
        if now != before {
            (since, before) = (Instant::now(), now);
        }
        if since.elapsed() > PATIENCE {
            return Err(Failure::Refused(format!(
                "another process is fetching it and does not get on; end it, or remove {}",
                lock.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The file's name in the snapshot, `depth` folders deep: a link to the content, or a copy where links can't be made.
fn point(blob: &Path, pointer: &Path, depth: usize) -> Result<(), Failure> {
    make_parent(pointer)?;
    let name = blob.file_name().unwrap_or_default();
    let to = PathBuf::from("../".repeat(depth + 2)).join("blobs").join(name);
    lacuna_files::point_to(blob, &to, pointer).map_err(Failure::Disk)
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    path.parent().map_or(Ok(()), lacuna_files::create_folder).map_err(disk)
}

fn disk(error: lacuna_files::Error) -> Failure {
    Failure::Disk(std::io::Error::other(error.to_string()))
}
