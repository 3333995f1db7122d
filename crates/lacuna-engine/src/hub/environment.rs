//! Reads what the environment says about the hub: the variables that Hugging Face's own tools read,
//! read as they read them.

use std::path::PathBuf;

use super::HubName;
use crate::error::Result;

/// The place of the cache, and the way to the hub.
pub(super) struct Environment {
    pub(super) cache: PathBuf,
    pub(super) offline: bool,
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only asked on the network"))]
    pub(super) token: Option<String>,
}

impl Environment {
    pub(super) fn read(name: &HubName) -> Result<Self> {
        Self::from(name, &|key| std::env::var(key).ok())
    }

    /// From a lookup, so that a test needs not change its process's environment.
    pub(super) fn from(name: &HubName, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |key: &str| lookup(key).filter(|value| !value.is_empty());
        let folder = |key: &str| set(key).map(|value| expanded(&value, lookup));
        let home = folder("HF_HOME").or_else(|| {
            let caches = folder("XDG_CACHE_HOME");
            let caches = caches.or_else(|| Some(home_folder(lookup)?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
            name.fault("no home directory to cache it in; set HF_HOME to a folder".into())
        })?;
        let yes = |key: &str| {
            let value = set(key).map(|value| value.to_lowercase());
            value.is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.as_str()))
        };
        let stored = || {
            let path = folder("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
            lacuna_files::read_text(&path, 1 << 16).ok()
        };
        let stored = || if yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { stored() };
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(stored);
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Ok(Self { cache, offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"), token })
    }
}

fn home_folder(lookup: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = lookup("HOME").filter(|home| !home.is_empty());
    set.map(PathBuf::from).or_else(std::env::home_dir)
}

/// `~`, `$NAME` and `${NAME}` filled in, as `os.path.expanduser` and `expandvars` do: files that set variables for
/// services and containers hand them on as they are written. A name that is not set stays as it is.
fn expanded(value: &str, lookup: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let home = || home_folder(lookup).map(|home| home.to_string_lossy().into_owned());
    PathBuf::from(shellexpand::full_with_context_no_errors(value, home, lookup).into_owned())
}
