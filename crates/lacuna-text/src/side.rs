//! Carries the files that stand beside a checkpoint's weights: tokenizer, chat template, settings,
//! licence and card.

use std::collections::BTreeMap;
use std::path::{Component, Path};

mod config;
mod describe;
mod settings;

pub use describe::Facts;
pub(crate) use settings::Addition;
pub use settings::{Generation, Settings};

pub(crate) use config::LONGEST_SIDE_FILE;
use config::read_if_there;

use crate::error::{Error, Result, io_error};

pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const GENERATION: &str = "generation_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
const TEMPLATES: &str = "additional_chat_templates";
/// A checkpoint has a handful of templates at most.
const MOST_TEMPLATES: usize = 64;

/// The files beside a checkpoint's weights and `config.json`, by name: what a checkpoint takes along whole.
///
/// ```
/// use lacuna_text::ModelFiles;
/// let mut files = ModelFiles::default();
/// files.insert("LICENSE", "Do as you like.\n");
/// let folder = tempfile::tempdir()?;
/// files.write(folder.path())?;
/// assert_eq!(std::fs::read_to_string(folder.path().join("LICENSE"))?, "Do as you like.\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFiles {
    files: BTreeMap<String, Vec<u8>>,
}

impl ModelFiles {
    /// Those files of a folder that say how text becomes tokens and how it is drawn; `tokenizer.json`, which is
    /// long, not among them.
    ///
    /// # Errors
    /// When one is there and can't be read.
    pub fn of_tokenizer(folder: &Path) -> Result<Self> {
        let mut files = Self::default();
        let mut names: Vec<String> = [
            TOKENIZER_CONFIG,
            SPECIAL_TOKENS_MAP,
            ADDED_TOKENS,
            GENERATION,
            TEMPLATE,
            TEMPLATE_JSON,
        ]
        .map(str::to_owned)
        .into();
        let listed = lacuna_files::list(&folder.join(TEMPLATES)).unwrap_or_default();
        let listed = listed.iter().filter_map(|path| path.file_name()?.to_str());
        let listed = listed.filter(|name| name.ends_with(".jinja")).take(MOST_TEMPLATES);
        names.extend(listed.map(|name| format!("{TEMPLATES}/{name}")));
        for name in names {
            if let Some(text) = read_if_there(&folder.join(&name))? {
                files.insert(name, text);
            }
        }
        Ok(files)
    }

    /// Adds a file, or replaces the one of that name. A name is relative to the checkpoint's folder.
    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.into(), bytes.into());
    }

    /// Takes a file out.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name)
    }

    /// A file's bytes.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// A file as text, if it is there and is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// All files, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Writes all files into a folder that nobody sees yet, each synced to the disk.
    ///
    /// # Errors
    /// When a name leads out of the folder or the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(Error::SideFile {
                    path,
                    reason: "its name leads out of the checkpoint's folder".into(),
                });
            }
            let parent = path.parent().filter(|parent| *parent != folder);
            let written = parent.map_or(Ok(()), lacuna_files::create_folder);
            let written = written.and_then(|()| lacuna_files::write_file(&path, bytes));
            written.map_err(|error| io_error(&path, "write")(error.into_source()))?;
        }
        Ok(())
    }
}
