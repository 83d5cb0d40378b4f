//! Includes: files that name other files.
//!
//! | written | means |
//! |---|---|
//! | `_include_: [base.yaml, more.yaml:section]` in a map | these files, merged in order, under the other keys of the map |
//! | `model: "@models.yaml:large"` | the section `large` of the file |
//!
//! A path is relative to the folder of the file that names it; in a `--set`, to the working directory. A section is a
//! dotted path. A text that begins with `@` and ends in a file extension always includes a file; for the text itself
//! write `@@`.

use std::{
    collections::BTreeMap,
    path::{self, PathBuf},
};

use super::{
    error::{ConfigError, ProblemKind},
    file,
    file_reference::{escaped, split},
    merge::merge,
    node::{FACTORY, Map, Node, Value},
    origin::Origin,
    path::Path,
    recorded, size, yaml,
};

/// The key of a map that names the files to merge under it.
pub const INCLUDE: &str = "_include_";
/// Maximum number of files, and of values in them, that one configuration may include.
const MAX_FILES: usize = 200;
const MAX_NODES: usize = 100_000;

/// Reads the file at `path` and the files that it includes. A run's folder and a checkpoint mean the run that they
/// record.
///
/// # Errors
/// A file that cannot be read, an include cycle, and too many files.
pub fn load(path: &path::Path) -> Result<Node, ConfigError> {
    let mut reader = Reader::default();
    let name = Name {
        file: recorded::file_in(path).unwrap_or_else(|| path.to_owned()),
        section: None,
        origin: None,
    };
    reader.read(&name)
}

/// Replaces the file names in `node` by the content of the files; paths are relative to `folder`.
///
/// # Errors
/// As [`load`].
pub fn include(node: &mut Node, folder: &path::Path) -> Result<(), ConfigError> {
    Reader::default().fill(node, folder)
}

/// An included file, or a section of it.
struct Name {
    file: PathBuf,
    section: Option<String>,
    origin: Option<Origin>,
}

#[derive(Default)]
struct Reader {
    /// Parsed files, so that each file is read once.
    texts: BTreeMap<PathBuf, Node>,
    /// The files that are being included, outermost first.
    stack: Vec<(PathBuf, Option<String>, Option<Origin>)>,
    files: usize,
    nodes: usize,
}

impl Reader {
    fn read(&mut self, name: &Name) -> Result<Node, ConfigError> {
        let at = |error: ConfigError| match &name.origin {
            Some(origin) => error.or_at(origin),
            None => error,
        };
        let whole = name.file.canonicalize().unwrap_or_else(|_| name.file.clone());
        if let Some(start) = self
            .stack
            .iter()
            .position(|(file, section, _)| *file == whole && *section == name.section)
        {
            return Err(self.cycle(start, name));
        }
        let text = match self.texts.get(&whole) {
            Some(node) => node.clone(),
            None => {
                let source = file::source(&name.file).map_err(at)?;
                let node = file::parse(&source)?;
                let node = recorded::recipe(&source, &node)?.unwrap_or(node);
                self.texts.insert(whole.clone(), node.clone());
                node
            }
        };
        self.files += 1;
        self.nodes += count(&text);
        if self.files > MAX_FILES || self.nodes > MAX_NODES || self.stack.len() > yaml::MAX_DEPTH {
            let message = format!("too large: at most {MAX_FILES} files with {MAX_NODES} values may be included");
            return Err(at(ConfigError::new(
                Path::default(),
                None,
                ProblemKind::Invalid { message, help: None },
            )));
        }
        self.stack.push((whole, name.section.clone(), name.origin.clone()));
        let folder = name.file.parent().unwrap_or(path::Path::new("")).to_owned();
        let node = match &name.section {
            Some(section) => self.section(text, section, name, &folder)?,
            None => {
                let mut node = text;
                self.fill(&mut node, &folder)?;
                node
            }
        };
        self.stack.pop();
        Ok(node)
    }

    /// Reads a section of a file. The includes at the top of the file are read only if the file itself has no such section.
    fn section(&mut self, mut text: Node, section: &str, name: &Name, folder: &path::Path) -> Result<Node, ConfigError> {
        let fail = |problem| ConfigError::new(Path::default(), name.origin.clone(), problem);
        let path: Path = section.parse().map_err(|error| {
            let message = format!("`{section}` is not the path of a section: {error}");
            fail(ProblemKind::Invalid { message, help: None })
        })?;
        let find = |node: &Node| path.0.iter().try_fold(node.clone(), |node, segment| node.step(segment).cloned());
        let found = match find(&text) {
            Some(mut node) => {
                self.fill(&mut node, folder)?;
                Some(node)
            }
            None => {
                self.fill(&mut text, folder)?;
                find(&text)
            }
        };
        found.ok_or_else(|| {
            let allowed = text.as_map().map(|map| map.keys().cloned().collect()).unwrap_or_default();
            fail(ProblemKind::UnknownField {
                name: section.to_owned(),
                allowed,
            })
        })
    }

    fn fill(&mut self, node: &mut Node, folder: &path::Path) -> Result<(), ConfigError> {
        match &mut node.value {
            Value::Seq(items) => items.iter_mut().try_for_each(|item| self.fill(item, folder)),
            Value::Map(map) => {
                let named = map.shift_remove(INCLUDE);
                for entry in map.values_mut() {
                    self.fill(&mut entry.node, folder)?;
                }
                match named {
                    Some(entry) => self.merge_under(node, &entry.node, folder),
                    None => Ok(()),
                }
            }
            Value::Plain(_) | Value::Str(_) => self.fill_text(node, folder),
            _ => Ok(()),
        }
    }

    /// Replaces `@file` by the file's content, and `@@file` by the text `@file`.
    fn fill_text(&mut self, node: &mut Node, folder: &path::Path) -> Result<(), ConfigError> {
        // On a command line, quotes make it text; in a file, YAML requires quotes.
        let quoted = matches!((&node.origin, &node.value), (Origin::Set { .. }, Value::Str(_)));
        let Some(text) = node.as_text().and_then(|text| text.strip_prefix('@')).filter(|_| !quoted) else {
            return Ok(());
        };
        if escaped(text).is_some() {
            node.value = Value::Str(text.to_owned());
            return Ok(());
        }
        let Some((file, section)) = split(text) else {
            // In YAML, a plain scalar cannot begin with `@`.
            return match &node.value {
                Value::Plain(_) => Err(not_a_file(&format!("`@{text}`"), &node.origin)),
                _ => Ok(()),
            };
        };
        let name = Name {
            file: folder.join(file),
            section: section.map(str::to_owned),
            origin: Some(node.origin.clone()),
        };
        *node = self.read(&name)?;
        Ok(())
    }

    /// Merges the files that `names` lists under the map `over`.
    fn merge_under(&mut self, over: &mut Node, names: &Node, folder: &path::Path) -> Result<(), ConfigError> {
        let one = std::slice::from_ref(names);
        let names = match &names.value {
            Value::Seq(items) => items.as_slice(),
            _ => one,
        };
        let mut base = Node::new(over.origin.clone(), Value::Map(Map::new()));
        for name in names {
            let text = name.as_text().unwrap_or_default();
            let (file, section) = match (split(text), recorded::file_in(&folder.join(text))) {
                (Some((file, section)), _) => (folder.join(file), section),
                (None, Some(file)) if !text.is_empty() => (file, None),
                _ => return Err(not_a_file(&name.describe(), &name.origin)),
            };
            let included = self.read(&Name {
                file,
                section: section.map(str::to_owned),
                origin: Some(name.origin.clone()),
            })?;
            if included.as_map().is_none() && !matches!(included.value, Value::Null) {
                let problem = ProblemKind::WrongType {
                    expected: "a file that holds a map".to_owned(),
                    found: included.describe(),
                    help: Some(format!("write `\"@{text}\"` to include a value of another kind")),
                };
                return Err(ConfigError::new(Path::default(), Some(name.origin.clone()), problem));
            }
            merge_over(&mut base, included);
        }
        let map = std::mem::replace(over, base);
        merge_over(over, map);
        Ok(())
    }

    /// Returns the error of an include cycle: `a.yaml` names `b.yaml`, which names `a.yaml`.
    fn cycle(&self, start: usize, name: &Name) -> ConfigError {
        let places = self.stack[start + 1..].iter().map(|(.., origin)| origin).chain([&name.origin]);
        let places: Vec<_> = places.flatten().map(ToString::to_string).collect();
        let message = format!("these files include each other in a cycle: {}", places.join(" -> "));
        ConfigError::new(Path::default(), name.origin.clone(), ProblemKind::Invalid { message, help: None })
    }
}

/// As [`merge`], but another recipe or factory replaces only the name in `base` and keeps its arguments.
fn merge_over(base: &mut Node, mut over: Node) {
    if matches!(over.value, Value::Null) {
        return;
    }
    let named = match &mut over.value {
        Value::Map(map) => map.get_index_of(FACTORY).zip(map.shift_remove(FACTORY)),
        _ => None,
    };
    merge(base, over);
    if let (Some((_, entry)), Value::Map(map)) = (named, &mut base.value) {
        map.shift_insert(0, FACTORY.to_owned(), entry);
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Seq(items) => items.iter().map(count).sum(),
        Value::Map(map) => map.values().map(|entry| count(&entry.node)).sum(),
        _ => 0,
    }
}

fn not_a_file(text: &str, origin: &Origin) -> ConfigError {
    let problem = ProblemKind::Invalid {
        message: format!("{text} is not the name of a file"),
        help: Some(format!(
            "a file is written `name.yaml` or `name.yaml:section`; its name ends in {}",
            super::error::list(size::EXTENSIONS)
        )),
    };
    ConfigError::new(Path::default(), Some(origin.clone()), problem)
}
