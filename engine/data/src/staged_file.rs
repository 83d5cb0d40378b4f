//! Writes a file under a temporary name and renames it, so that no reader sees half of it.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufWriter, Write},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Creates or replaces the file `path` with what `write` writes. Several processes may do so at once: the last rename wins.
///
/// # Errors
/// Returns the error of the operating system; the temporary file is then removed.
pub(crate) fn replace_file(path: &Path, write: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Two machines that share the folder may have processes of the same number: `create_new` refuses the second.
    let temporary = path.with_file_name(format!(".{name}.{}.{number}.tmp", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let written = (|| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}
