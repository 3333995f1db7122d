//! Decides where a converted checkpoint goes, and what may stand there already.

use lacuna_checkpoint::Format;
use std::path::{Path, PathBuf};

use crate::advice::{Advice, Knob};
use crate::error::{Error, Result};

/// Refuses what would be lost or could not be read back.
pub(crate) fn check(from: &Path, to: &Path, format: Format, force: bool) -> Result<()> {
    let refuse = |reason: Advice| Err(Error::Place { path: to.to_owned(), reason });
    if to.file_name().is_none() {
        return refuse("is no name for a new file or directory".into());
    }
    let ends = |end: &str| to.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    if format == Format::Safetensors && (ends("safetensors") || ends("gguf")) {
        return refuse("safetensors go into a directory; give a name without an ending".into());
    }
    let real = |path: &Path| path.canonicalize().ok();
    if real(to).is_some() && real(to) == real(from) {
        return refuse("is the checkpoint that is read; give another name".into());
    }
    if !to.exists() {
        return Ok(());
    }
    match (to.is_dir(), format) {
        (true, Format::Gguf) => refuse("is a directory; a GGUF file needs a name".into()),
        (false, Format::Safetensors) => refuse("is a file; safetensors go into a directory".into()),
        (false, Format::Gguf) if !to.is_file() => refuse("is no regular file".into()),
        (true, Format::Safetensors) if is_empty(to) => Ok(()),
        (_, _) if !force => refuse(format!("exists already; {} replaces it", Knob::Force).into()),
        (true, Format::Safetensors) if !holds_only_a_checkpoint(to) => {
            let reason = format!(
                "holds more than a checkpoint's files; not even {} deletes those",
                Knob::Force
            );
            refuse(reason.into())
        }
        _ => Ok(()),
    }
}

fn is_empty(dir: &Path) -> bool {
    lacuna_files::list(dir).is_ok_and(|entries| entries.is_empty())
}

/// A configuration, and nothing but files of the kinds that a checkpoint has.
fn holds_only_a_checkpoint(dir: &Path) -> bool {
    let Ok(entries) = lacuna_files::list(dir) else { return false };
    let known = |path: &PathBuf| {
        let ends = ["safetensors", "json", "jinja", "txt", "py", "md", "model"];
        let kind = path.extension().is_some_and(|e| ends.iter().any(|end| e == *end));
        !path.is_dir() && (kind || path.ends_with("LICENSE"))
    };
    dir.join("config.json").exists() && entries.iter().all(known)
}

/// The files that `--force` replaces in a folder: a checkpoint's files. Others' stay where they
/// are.
pub(crate) fn is_of_a_checkpoint(name: &str) -> bool {
    let weights = name.starts_with("model") && name.ends_with(".safetensors");
    weights
        || ["config.json", "model.safetensors.index.json", "tokenizer.json"].contains(&name)
        || lacuna_checkpoint::MODEL_FILES.contains(&name)
}

/// The name that a GGUF file gives its model: a run's model is its run's, every other one is called
/// as its file.
pub(super) fn name(from: &Path, to: &Path) -> String {
    let text = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let folder = from.canonicalize().unwrap_or_else(|_| from.to_owned());
    let within = folder.ancestors().skip(1).take(2).find(|dir| dir.join("recipe.toml").exists());
    let of_run = text(&folder).is_some_and(|name| name == "final" || name.starts_with("step-"));
    let run = within.filter(|_| of_run).and_then(text);
    run.unwrap_or_else(|| to.file_stem().unwrap_or_default().to_string_lossy().into_owned())
}
