//! Files that hold configuration, in one of three languages.

use std::{fs, io, io::Read as _, path, sync::Arc};

use super::{
    error::{ConfigError, Problem},
    json,
    node::Node,
    origin::Source,
    path::Path,
    toml, yaml,
};

/// What names of configuration files end in.
pub(super) const EXTENSIONS: &[&str] = &["yaml", "yml", "json", "toml"];
/// Largest file that is read, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Reads the file at `path`: JSON if its name ends in `.json`, TOML if in `.toml`, else YAML.
///
/// # Errors
/// A file that cannot be read, is larger than 4 MiB, is not UTF-8, or is not of its language.
pub fn read(path: &path::Path) -> Result<Node, ConfigError> {
    let name = path.display().to_string();
    let fail = |reason: String| {
        let problem = Problem::Read {
            file: name.clone(),
            reason,
        };
        ConfigError::new(Path::default(), None, problem)
    };
    // Opening a directory succeeds on Linux and reading then fails with words that explain little.
    if path.is_dir() {
        return Err(fail("it is a directory, expected a file".to_owned()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            fail(match error.kind() {
                io::ErrorKind::NotFound => "there is no such file".to_owned(),
                _ => error.to_string(),
            })
        })?;
    if bytes.len() > MAX_BYTES {
        return Err(fail(format!(
            "it is larger than {} MiB, which no configuration is",
            MAX_BYTES >> 20
        )));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        fail(format!("it is not UTF-8 text (byte {valid}, on line {line})"))
    })?;
    parse(&Source::new(&name, text))
}

/// Parses the whole of `source`, in the language that its name says, as [`read`] does.
///
/// # Errors
/// Text that is not of its language, has duplicate keys, or is beyond the limits on size and depth; in YAML
/// also tags and several documents.
pub fn parse(source: &Arc<Source>) -> Result<Node, ConfigError> {
    match source.name().rsplit_once('.') {
        Some((_, "json")) => json::parse(source),
        Some((_, "toml")) => toml::parse(source),
        _ => yaml::parse(source),
    }
}
