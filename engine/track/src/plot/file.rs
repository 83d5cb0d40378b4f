//! Reads the metrics of runs and writes their picture.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use neva_schemas::METRICS_FILE;

use super::{Curves, Metrics, names, svg};
use crate::TrackError;

/// File in the run's folder that the picture is written to.
pub const CURVES_FILE: &str = "curves.svg";

/// Draws `runs`, each a run's folder or a file of metrics, and returns where the picture is: `out`, or else
/// [`CURVES_FILE`] in the folder of the first run.
///
/// # Errors
/// A run without metrics, a line that is not one of metrics, and files that cannot be read or written.
pub fn draw(runs: &[PathBuf], out: Option<&Path>) -> Result<PathBuf, TrackError> {
    let files: Vec<_> = runs.iter().map(|run| metrics_file(run)).collect();
    let metrics = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let subjects = files.iter().map(|file| subject(file)).collect::<Vec<_>>();
    let curves: Vec<_> = names(&subjects)
        .into_iter()
        .zip(metrics)
        .map(|(name, metrics)| Curves { name, metrics })
        .collect();
    let beside_first = || files.first().map(|file| file.with_file_name(CURVES_FILE));
    let out = out.map(Path::to_owned).or_else(beside_first).unwrap_or_else(|| CURVES_FILE.into());
    write(&out, &svg(&curves)).map_err(TrackError::io("write", &out))?;
    Ok(out)
}

fn metrics_file(run: &Path) -> PathBuf {
    if run.is_dir() { run.join(METRICS_FILE) } else { run.to_owned() }
}

/// What a file of metrics is named by: the run's folder, unless the file has a name of its own.
fn subject(file: &Path) -> PathBuf {
    // `.` and links say nothing; the file was read, so that this succeeds.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    match file.parent() {
        Some(folder) if file.ends_with(METRICS_FILE) => folder.to_owned(),
        _ => file,
    }
}

fn read(file: &Path) -> Result<Metrics, TrackError> {
    let text = fs::read(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => TrackError::NoMetrics {
            path: file.to_owned(),
            reason: "there is no such file",
        },
        _ => TrackError::io("read", file)(source),
    })?;
    Metrics::parse(&text, file)
}

/// Writes aside and renames: a viewer never sees half a picture, and a failure leaves the old one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".curves-")
        // A temporary file is its owner's alone, a picture is not; the umask still applies.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
