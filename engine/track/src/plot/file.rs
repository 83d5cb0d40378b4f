//! Reads the metrics of runs and writes their plot.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use neva_schemas::METRICS_FILE;

use super::{Curves, Metrics, names, svg};
use crate::TrackError;

/// File of the plot in the run's folder.
pub const CURVES_FILE: &str = "curves.svg";

/// Plots `runs`, each a run's folder or a metrics file, and returns the path of the plot: `out`, or else [`CURVES_FILE`]
/// in the folder of the first run.
///
/// # Errors
/// A run has no metrics, a line is invalid, or a file cannot be read or written.
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

/// Returns the path by which a metrics file is named: the run's folder, unless the file has its own name.
fn subject(file: &Path) -> PathBuf {
    // `.` and links are no useful names. The file was read, so this succeeds.
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

/// Writes a temporary file and renames it: a viewer never sees an incomplete plot, and a failure keeps the old one.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".curves-")
        // A temporary file is private, but the plot is not; the umask still applies.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
