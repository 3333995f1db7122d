//! Keeps packed corpora in a folder, so that a corpus is packed once and not at the start of every run.

use crate::corpus::{CorpusOptions, Reading};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::packs::{PackOptions, Packing, pack_corpus};
use lacuna_files::{FileLock, WholeFolder};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Changes when the same inputs and options no longer give the same shards.
const VERSION: u32 = 1;
/// Between two looks at a lock that another process has.
const WAIT: Duration = Duration::from_millis(200);

/// A report on the way to a packed corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The inputs are hashed, to find out whether they are packed already.
    Hashing(Reading),
    /// Another process packs the same corpus, and is waited for.
    Waiting,
    /// The corpus is packed.
    Packing(Packing),
    /// Shards are compared with their hashes: bytes read, and those in all.
    Verifying(u64, u64),
    /// The packing that was kept is damaged, for this reason; the corpus is packed again.
    Damaged(String),
}

/// The two parts of a packed corpus.
#[derive(Debug)]
pub struct PackedCorpus {
    /// Windows to train on.
    pub train: Dataset,
    /// Windows of held-out documents, if there are any.
    pub held_out: Option<Dataset>,
    /// True if it was packed before and only opened.
    pub is_reused: bool,
}

impl PackedCorpus {
    /// The parts of the corpus that were passed over, a line for each reason.
    pub fn passed_over(&self) -> &[String] {
        self.train.manifest().map_or(&[], |manifest| &manifest.passed_over)
    }
}

/// A folder of packed corpora.
#[derive(Debug, Clone, Copy)]
pub struct PackCache<'a> {
    /// The folder, which is made when something is packed. It may be removed when no run reads it.
    pub folder: &'a Path,
    /// True if shards that are there already are compared with their hashes before they are used.
    pub verify: bool,
}

impl PackCache<'_> {
    /// Opens the shards of a corpus, and packs them first unless they are there.
    ///
    /// They are found by a hash of everything that they depend on: the names and contents of the corpus' files, what of
    /// them is read, the tokenizer and the options. Where a shard is damaged, the corpus is packed again. Of several
    /// processes that want the same corpus one packs and the others wait.
    ///
    /// # Errors
    /// As [`pack_corpus`], and when an input is a pipe.
    pub fn open(
        &self,
        inputs: &[impl AsRef<Path>],
        corpus: &CorpusOptions,
        options: &PackOptions<'_>,
        tell: &mut dyn FnMut(Step),
    ) -> Result<PackedCorpus> {
        let mut hashing = |reading| tell(Step::Hashing(reading));
        let contents = crate::corpus::fingerprint(inputs, corpus, &mut hashing)?;
        let name = key(contents, options);
        let folder = self.folder.join(&name);
        if let Ok(Some(found)) = self.find(&folder, tell) {
            return Ok(found);
        }
        lacuna_files::create_folder(self.folder)?;
        let _lock = wait(&self.folder.join(format!("{name}.lock")), tell)?;
        // Whoever had the lock before may have packed it.
        match self.find(&folder, tell) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => tell(Step::Damaged(error.to_string())),
        }
        lacuna_files::remove_leftovers(self.folder);
        let whole = WholeFolder::beside(&folder)?;
        let mut packing = |at| tell(Step::Packing(at));
        pack_corpus(inputs, corpus, options, whole.path(), &mut packing)?;
        whole.replace(|_| true)?;
        Ok(PackedCorpus { is_reused: false, ..open_parts(&folder)? })
    }

    /// The packing in a folder; none if there is none.
    fn find(&self, folder: &Path, tell: &mut dyn FnMut(Step)) -> Result<Option<PackedCorpus>> {
        if !folder.exists() {
            return Ok(None);
        }
        let parts = open_parts(folder)?;
        if self.verify {
            for part in [Some(&parts.train), parts.held_out.as_ref()].into_iter().flatten() {
                part.verify_with(&mut |done, all| tell(Step::Verifying(done, all)))?;
            }
        }
        Ok(Some(parts))
    }
}

/// The name of a packing, from everything that its shards depend on.
fn key(contents: blake3::Hash, options: &PackOptions<'_>) -> String {
    let PackOptions { document_end, pad, window_len, held_out, shard_tokens, .. } = options;
    let holes = options.holes.as_ref().map(|holes| holes.description());
    let said = format!(
        "{VERSION} {contents} {} {document_end} {pad} {window_len} {held_out:?} {shard_tokens} {holes:?}",
        options.tokenizer.fingerprint()
    );
    blake3::hash(said.as_bytes()).to_hex()[..32].to_owned()
}

fn open_parts(folder: &Path) -> Result<PackedCorpus> {
    let train = Dataset::open(folder.join("train"))?;
    let held_out = folder.join("held-out");
    let held_out = if held_out.exists() { Some(Dataset::open(held_out)?) } else { None };
    Ok(PackedCorpus { train, held_out, is_reused: true })
}

/// Takes a lock, however long another has it.
fn wait(path: &Path, tell: &mut dyn FnMut(Step)) -> Result<FileLock> {
    loop {
        let taken = FileLock::try_acquire(path);
        let taken =
            taken.map_err(|source| Error::Io { path: path.to_owned(), verb: "lock", source });
        if let Some(lock) = taken? {
            return Ok(lock);
        }
        tell(Step::Waiting);
        sleep(WAIT);
    }
}
