//! `run.PatternPackager`: files by pattern.

use std::path::Path;

use neva_schemas::PatternPackagerConfig;

use super::{archive::Archive, include};
use crate::packager_error::PackagerError;

pub(super) fn collect(config: &PatternPackagerConfig, folder: &Path, prefix: &Path, archive: &mut Archive) -> Result<(), PackagerError> {
    if config.debug {
        tracing::info!("packs {:?} of {}", config.include_pattern.0, folder.display());
    }
    include::add(archive, prefix, folder, &config.include_pattern, &config.relative_path)
}
