//! Configs of packagers: which files are copied to the cluster.

use crate::validate::{Problem, Validate};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf};

/// Config of a packager, chosen by `_target_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Packager")]
pub enum PackagerConfig {
    /// No files.
    #[serde(rename = "run.Packager")]
    None(NoPackagerConfig),
    /// The files of a Git repository.
    #[serde(rename = "run.GitArchivePackager")]
    GitArchive(GitArchivePackagerConfig),
    /// Files by pattern.
    #[serde(rename = "run.PatternPackager")]
    Pattern(PatternPackagerConfig),
    /// Several packagers.
    #[serde(rename = "run.HybridPackager")]
    Hybrid(HybridPackagerConfig),
}

impl Default for PackagerConfig {
    /// Copies nothing: the ranks of a recipe need no code. NeMo-Run's default is `run.GitArchivePackager`.
    fn default() -> Self {
        Self::None(NoPackagerConfig::default())
    }
}

/// Copies no files: NeMo-Run's `Packager`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "NoPackager", deny_unknown_fields, default)]
pub struct NoPackagerConfig {
    /// Prints the commands of the packager.
    pub debug: bool,
    /// Folder on the cluster to use instead of a copy.
    pub symlink_from_remote_dir: Option<PathBuf>,
}

/// Copies the files of a Git repository: NeMo-Run's `GitArchivePackager`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "GitArchivePackager", deny_unknown_fields, default)]
pub struct GitArchivePackagerConfig {
    /// Folder of the repository; empty: that of the working directory.
    pub basepath: String,
    /// Folder within the repository whose files are copied; empty: the whole repository.
    pub subpath: String,
    /// Commit, branch or tag.
    pub r#ref: String,
    /// Copies the files of submodules.
    pub include_submodules: bool,
    /// Patterns of further files that the repository does not track.
    pub include_pattern: TextOrList,
    /// Folders that the paths of `include_pattern` are relative to.
    pub include_pattern_relative_path: TextOrList,
    /// Refuses uncommitted changes; the same as `uncommitted: refuse`.
    pub check_uncommitted_changes: bool,
    /// Refuses untracked files; the same as `untracked: refuse`.
    pub check_untracked_files: bool,
    /// Uncommitted changes.
    pub uncommitted: OutsideCommit,
    /// Untracked files that Git does not ignore.
    pub untracked: OutsideCommit,
    /// Prints the commands of the packager.
    pub debug: bool,
    /// Folder on the cluster to use instead of a copy.
    pub symlink_from_remote_dir: Option<PathBuf>,
}

/// What a packager does with work that is not committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutsideCommit {
    /// Leaves it out, with a warning that names it.
    #[default]
    Warn,
    /// Copies it as well, and records it in `code.diff`.
    Include,
    /// Refuses to submit the job.
    Refuse,
    /// Leaves it out.
    Ignore,
}

/// Copies files by pattern: NeMo-Run's `PatternPackager`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "PatternPackager", deny_unknown_fields, default)]
pub struct PatternPackagerConfig {
    /// Patterns of files and folders, as `src/**/*.py`.
    pub include_pattern: TextOrList,
    /// Folder of each pattern that its paths are relative to.
    pub relative_path: TextOrList,
    /// Prints the commands of the packager.
    pub debug: bool,
    /// Folder on the cluster to use instead of a copy.
    pub symlink_from_remote_dir: Option<PathBuf>,
}

/// Copies the files of several packagers: NeMo-Run's `HybridPackager`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "HybridPackager", deny_unknown_fields, default)]
pub struct HybridPackagerConfig {
    /// Packagers by name. The files of each are in a folder of its name.
    pub sub_packagers: BTreeMap<String, PackagerConfig>,
    /// Puts the files of all packagers into one folder.
    pub extract_at_root: bool,
    /// Prints the commands of the packagers.
    pub debug: bool,
    /// Folder on the cluster to use instead of a copy.
    pub symlink_from_remote_dir: Option<PathBuf>,
}

impl Default for GitArchivePackagerConfig {
    fn default() -> Self {
        Self {
            basepath: String::new(),
            subpath: String::new(),
            r#ref: "HEAD".into(),
            include_submodules: true,
            include_pattern: TextOrList::default(),
            include_pattern_relative_path: TextOrList::default(),
            check_uncommitted_changes: false,
            check_untracked_files: false,
            uncommitted: OutsideCommit::default(),
            untracked: OutsideCommit::default(),
            debug: false,
            symlink_from_remote_dir: None,
        }
    }
}

/// A list of texts, which may be written as one text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct TextOrList(pub Vec<String>);

impl JsonSchema for TextOrList {
    fn schema_name() -> Cow<'static, str> {
        "TextOrList".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A list of texts, which may be written as one text.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
        })
    }
}

/// Deserializes both forms without buffering, so that errors keep their positions.
impl<'de> Deserialize<'de> for TextOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = TextOrList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_unit<E: de::Error>(self) -> Result<TextOrList, E> {
                Ok(TextOrList::default())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TextOrList, E> {
                Ok(TextOrList(match text {
                    "" => Vec::new(),
                    text => vec![text.to_owned()],
                }))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TextOrList, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(TextOrList(list))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl Validate for PackagerConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        match self {
            Self::None(_) => {}
            Self::GitArchive(git) => {
                if git.r#ref.is_empty() || git.r#ref.starts_with('-') {
                    problems.push(Problem::error(format!("{path}.ref"), format!("{:?} is not a commit", git.r#ref)).help("write `HEAD`"));
                }
                for (flag, field, is_set, own) in [
                    (
                        "check_uncommitted_changes",
                        "uncommitted",
                        git.check_uncommitted_changes,
                        git.uncommitted,
                    ),
                    ("check_untracked_files", "untracked", git.check_untracked_files, git.untracked),
                ] {
                    if is_set && !matches!(own, OutsideCommit::Warn | OutsideCommit::Refuse) {
                        let message = format!("`{flag}` refuses what `{field}` allows");
                        problems.push(Problem::error(format!("{path}.{field}"), message).help("remove one of them"));
                    }
                }
                pairs(
                    path,
                    &git.include_pattern,
                    ("include_pattern_relative_path", &git.include_pattern_relative_path),
                    problems,
                );
            }
            Self::Pattern(pattern) => {
                if pattern.include_pattern.0.is_empty() {
                    problems
                        .push(Problem::error(format!("{path}.include_pattern"), "there is no pattern").help("write one, as `src/**/*.py`"));
                }
                pairs(path, &pattern.include_pattern, ("relative_path", &pattern.relative_path), problems);
            }
            Self::Hybrid(hybrid) => {
                if hybrid.sub_packagers.is_empty() {
                    problems.push(Problem::error(format!("{path}.sub_packagers"), "there is no packager"));
                }
                for (name, packager) in &hybrid.sub_packagers {
                    let place = format!("{path}.sub_packagers.\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
                    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
                        problems.push(
                            Problem::error(&place, format!("{name:?} is the name of a folder")).help("use letters, digits, `-` and `_`"),
                        );
                    }
                    if matches!(packager, Self::Hybrid(_)) {
                        problems.push(Problem::error(&place, "a hybrid packager contains no other one").help("list its packagers here"));
                    }
                    packager.validate(&place, problems);
                }
            }
        }
    }
}

/// Appends a problem unless `folders` has none, one, or one for each pattern.
fn pairs(path: &str, patterns: &TextOrList, (name, folders): (&str, &TextOrList), problems: &mut Vec<Problem>) {
    let (patterns, folders) = (patterns.0.len(), folders.0.len());
    if folders > 1 && folders != patterns {
        let message = format!("there are {patterns} patterns, but {folders} folders");
        problems.push(Problem::error(format!("{path}.{name}"), message).help("give one folder, or one for each pattern"));
    }
}
