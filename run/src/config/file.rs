//! Configuration files: YAML, JSON or TOML.

use std::{fs, io, io::Read as _, path, sync::Arc};

use super::{
    error::{ConfigError, ProblemKind, nearest},
    json,
    node::Node,
    origin::Source,
    path::Path,
    size::{EXTENSIONS, MAX_BYTES},
    toml, yaml,
};

/// Maximum number of folder entries that are searched for a name like the missing one.
const MAX_ENTRIES: usize = 10_000;

/// Reads the file at `path`: JSON if its name ends in `.json`, TOML if in `.toml`, else YAML.
///
/// # Errors
/// A file that cannot be read, is larger than 4 MiB, is not UTF-8, or has invalid syntax.
pub fn read(path: &path::Path) -> Result<Node, ConfigError> {
    parse(&source(path)?)
}

/// Reads the text of the file at `path`.
///
/// # Errors
/// A file that cannot be read, is larger than 4 MiB, or is not UTF-8.
pub(super) fn source(path: &path::Path) -> Result<Arc<Source>, ConfigError> {
    let name = path.display().to_string();
    let fail = |reason: String| {
        let problem = ProblemKind::Read {
            file: name.clone(),
            reason,
        };
        ConfigError::new(Path::default(), None, problem)
    };
    // Opening a directory succeeds on Linux, and reading it then fails with an unclear message.
    if path.is_dir() {
        return Err(fail(
            "it is a directory, expected a file, the folder of a run or a checkpoint".to_owned(),
        ));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            fail(match error.kind() {
                io::ErrorKind::NotFound => missing(path),
                _ => error.to_string(),
            })
        })?;
    if bytes.len() > MAX_BYTES {
        return Err(fail(format!(
            "it is larger than {} MiB, the limit for configurations",
            MAX_BYTES >> 20
        )));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        fail(format!("it is not UTF-8 text (byte {valid}, on line {line})"))
    })?;
    Ok(Source::new(&name, text))
}

/// Returns the message for a missing file at `path`, with the most similar name.
fn missing(path: &path::Path) -> String {
    let none = "there is no such file";
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(path::Path::new("."));
    if !parent.is_dir() {
        return format!("{none}, and no folder `{}`", parent.display());
    }
    let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok).take(MAX_ENTRIES);
    let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = |name: &String| path::Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let stems: Vec<_> = names.iter().map(stem).collect();
    // `mine.yml` for `mine.yaml`, then a similar name.
    let wanted = stem(&name.into_owned());
    let twin = stems.iter().find(|stem| **stem == wanted).or_else(|| nearest(&wanted, &stems));
    let is_file = |name: &&String| EXTENSIONS.iter().any(|extension| name.ends_with(&format!(".{extension}")));
    let mut twins: Vec<_> = names.iter().filter(|name| Some(&stem(name)) == twin).collect();
    twins.sort_by_key(|name| (!is_file(name), *name));
    match twins.first() {
        Some(near) => format!("{none}; did you mean `{}`?", path.with_file_name(near).display()),
        None => none.to_owned(),
    }
}

/// Parses the whole of `source` in the language of its extension, as [`read`] does.
///
/// # Errors
/// Invalid syntax, duplicate keys, or a text beyond the limits of size and depth; in YAML also tags and several
/// documents.
pub fn parse(source: &Arc<Source>) -> Result<Node, ConfigError> {
    match source.name().rsplit_once('.') {
        Some((_, "json")) => json::parse(source),
        Some((_, "toml")) => toml::parse(source),
        _ => yaml::parse(source),
    }
}
