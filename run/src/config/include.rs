//! Files inside files.
//!
//! | written | means |
//! |---|---|
//! | `_include_: [base.yaml, more.yaml:section]` in a map | these, one laid over the other, under the other keys of the map |
//! | `model: "@models.yaml:large"` | the section `large` of the file |
//!
//! A file is looked for from the folder of the file that names it, in a `--set` from the working directory. A
//! section is a dotted path. A text that begins with `@` and names a file by its extension is always this; the
//! text itself is written with `@@`.

use std::{
    collections::BTreeMap,
    path::{self, PathBuf},
};

use super::{
    error::{ConfigError, Problem},
    file,
    merge::merge,
    node::{FACTORY, Map, Node, Value},
    origin::Origin,
    path::Path,
    yaml,
};

/// The key of a map that names the files to lay under it.
pub const INCLUDE: &str = "_include_";
/// Most files, and values in them, that one configuration may bring together.
const MAX_FILES: usize = 200;
const MAX_NODES: usize = 100_000;

/// Reads the file at `path`, and the files that it names.
///
/// # Errors
/// A file that cannot be read, files that include each other in a circle, and too many of them.
pub fn load(path: &path::Path) -> Result<Node, ConfigError> {
    let mut reader = Reader::default();
    let name = Name {
        file: path.to_owned(),
        section: None,
        origin: None,
    };
    reader.read(&name)
}

/// Puts the content of the files that `node` names in its place; they are looked for from `folder`.
///
/// # Errors
/// As [`load`].
pub fn include(node: &mut Node, folder: &path::Path) -> Result<(), ConfigError> {
    Reader::default().fill(node, folder)
}

/// `text` as a file has to have it to be read back as a text.
pub(super) fn escaped(text: &str) -> Option<String> {
    let name = text.trim_start_matches('@');
    (name.len() < text.len() && split(name).is_some()).then(|| format!("@{text}"))
}

/// A file that is asked for.
struct Name {
    file: PathBuf,
    section: Option<String>,
    origin: Option<Origin>,
}

/// The file, and its section, of `models.yaml:large`.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let is_file = |name: &str| {
        file::EXTENSIONS
            .iter()
            .any(|extension| name.strip_suffix(extension).is_some_and(|stem| stem.ends_with('.')))
    };
    if is_file(text) {
        return Some((text, None));
    }
    let (name, section) = text.rsplit_once(':')?;
    is_file(name).then_some((name, Some(section)))
}

#[derive(Default)]
struct Reader {
    /// Files that were read, so that a file that is named twice is read once.
    texts: BTreeMap<PathBuf, Node>,
    /// The files that led to where the reader is.
    way: Vec<(PathBuf, Option<String>, Option<Origin>)>,
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
            .way
            .iter()
            .position(|(file, section, _)| *file == whole && *section == name.section)
        {
            return Err(self.circle(start, name));
        }
        let text = match self.texts.get(&whole) {
            Some(node) => node.clone(),
            None => {
                let node = file::read(&name.file).map_err(at)?;
                self.texts.insert(whole.clone(), node.clone());
                node
            }
        };
        self.files += 1;
        self.nodes += count(&text);
        if self.files > MAX_FILES || self.nodes > MAX_NODES || self.way.len() > yaml::MAX_DEPTH {
            let message = format!("too large: at most {MAX_FILES} files with {MAX_NODES} values may be included");
            return Err(at(ConfigError::new(
                Path::default(),
                None,
                Problem::Invalid { message, help: None },
            )));
        }
        self.way.push((whole, name.section.clone(), name.origin.clone()));
        let folder = name.file.parent().unwrap_or(path::Path::new("")).to_owned();
        let node = match &name.section {
            Some(section) => self.section(text, section, name, &folder)?,
            None => {
                let mut node = text;
                self.fill(&mut node, &folder)?;
                node
            }
        };
        self.way.pop();
        Ok(node)
    }

    /// A part of a file. What the file itself includes is read only where the part may come from there.
    fn section(&mut self, mut text: Node, section: &str, name: &Name, folder: &path::Path) -> Result<Node, ConfigError> {
        let fail = |problem| ConfigError::new(Path::default(), name.origin.clone(), problem);
        let path: Path = section.parse().map_err(|error| {
            let message = format!("`{section}` is not the path of a section: {error}");
            fail(Problem::Invalid { message, help: None })
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
            fail(Problem::UnknownField {
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
                    Some(entry) => self.lay_under(node, &entry.node, folder),
                    None => Ok(()),
                }
            }
            Value::Plain(_) | Value::Str(_) => self.fill_text(node, folder),
            _ => Ok(()),
        }
    }

    /// `@file`, or the text that `@@file` is.
    fn fill_text(&mut self, node: &mut Node, folder: &path::Path) -> Result<(), ConfigError> {
        // Quotes make a text of what is typed on a command line; in a file, YAML asks for them.
        let quoted = matches!((&node.origin, &node.value), (Origin::Set { .. }, Value::Str(_)));
        let Some(text) = node.as_text().and_then(|text| text.strip_prefix('@')).filter(|_| !quoted) else {
            return Ok(());
        };
        if escaped(text).is_some() {
            node.value = Value::Str(text.to_owned());
            return Ok(());
        }
        let Some((file, section)) = split(text) else {
            // In YAML, a text without quotes does not begin with it.
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

    /// Lays the files that `names` lists under the map `over`.
    fn lay_under(&mut self, over: &mut Node, names: &Node, folder: &path::Path) -> Result<(), ConfigError> {
        let one = std::slice::from_ref(names);
        let names = match &names.value {
            Value::Seq(items) => items.as_slice(),
            _ => one,
        };
        let mut base = Node::new(over.origin.clone(), Value::Map(Map::new()));
        for name in names {
            let text = name.as_text().unwrap_or_default();
            let (file, section) = split(text).ok_or_else(|| not_a_file(&name.describe(), &name.origin))?;
            let included = self.read(&Name {
                file: folder.join(file),
                section: section.map(str::to_owned),
                origin: Some(name.origin.clone()),
            })?;
            if included.as_map().is_none() && !matches!(included.value, Value::Null) {
                let problem = Problem::WrongType {
                    expected: "a file that holds a map".to_owned(),
                    found: included.describe(),
                    help: Some(format!("a value of another kind is written `\"@{text}\"`")),
                };
                return Err(ConfigError::new(Path::default(), Some(name.origin.clone()), problem));
            }
            lay_over(&mut base, included);
        }
        let map = std::mem::replace(over, base);
        lay_over(over, map);
        Ok(())
    }

    /// `a.yaml` names `b.yaml`, which names `a.yaml`.
    fn circle(&self, start: usize, name: &Name) -> ConfigError {
        let places = self.way[start + 1..].iter().map(|(.., origin)| origin).chain([&name.origin]);
        let places: Vec<_> = places.flatten().map(ToString::to_string).collect();
        let message = format!("these files include each other in a circle: {}", places.join(" -> "));
        ConfigError::new(Path::default(), name.origin.clone(), Problem::Invalid { message, help: None })
    }
}

/// As [`merge`], but a recipe or factory that the file below names gives way alone, and its arguments stay.
fn lay_over(base: &mut Node, mut over: Node) {
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
    let problem = Problem::Invalid {
        message: format!("{text} is not the name of a file"),
        help: Some(format!(
            "a file is written `name.yaml` or `name.yaml:section`; its name ends in {}",
            super::error::list(file::EXTENSIONS)
        )),
    };
    ConfigError::new(Path::default(), Some(origin.clone()), problem)
}
