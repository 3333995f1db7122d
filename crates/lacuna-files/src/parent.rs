//! Finds the folder of a name, also of a name alone.

use std::path::Path;

/// The folder that a path's name stands in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
