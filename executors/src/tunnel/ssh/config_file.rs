//! Entries of the user's SSH config file, for the built-in client. OpenSSH reads the file itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::patterns::{any_pattern_fits, fits};

/// What the file sets for a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostEntry {
    pub(super) host_name: Option<String>,
    pub(super) user: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) identity_files: Vec<PathBuf>,
    pub(super) identity_agent: Option<String>,
    pub(super) identities_only: bool,
    pub(super) jump: Option<Vec<String>>,
    pub(super) known_hosts: Vec<PathBuf>,
    pub(super) host_key_alias: Option<String>,
    /// Settings that the client cannot follow, with their lines.
    pub(super) unsupported: Vec<String>,
}

/// Maximum depth of `Include`.
const MAX_DEPTH: usize = 16;

/// Reads the entry of `host` from a config file; an empty one if there is no file.
///
/// # Errors
/// The file cannot be read; the message names it.
pub(super) fn read(file: &Path, host: &str, home: &Path) -> Result<HostEntry, String> {
    let mut reader = Reader {
        host,
        home,
        values: Vec::new(),
        unsupported: Vec::new(),
    };
    if file.exists() {
        reader.file(file, true, 0)?;
    }
    Ok(reader.entry())
}

struct Reader<'a> {
    host: &'a str,
    home: &'a Path,
    /// Keywords in lower case with their arguments, of all blocks that apply, in order.
    values: Vec<(String, Vec<String>)>,
    unsupported: Vec<String>,
}

impl Reader<'_> {
    /// Reads a file, whose first lines apply if `applies`.
    fn file(&mut self, file: &Path, mut applies: bool, depth: usize) -> Result<(), String> {
        let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        for (index, line) in text.lines().enumerate() {
            let mut words = words(line).into_iter();
            let Some(keyword) = words.next().map(|word| word.to_lowercase()) else {
                continue;
            };
            let arguments: Vec<_> = words.collect();
            let at = || format!("{}:{}", file.display(), index + 1);
            match keyword.as_str() {
                "host" => applies = any_pattern_fits(arguments.iter().map(String::as_str), self.host),
                "match" => {
                    applies = arguments.first().is_some_and(|word| word.eq_ignore_ascii_case("all")) && arguments.len() == 1;
                    if !applies {
                        self.unsupported.push(format!("`Match {}` ({})", arguments.join(" "), at()));
                    }
                }
                "include" if applies && depth < MAX_DEPTH => {
                    let files: Vec<_> = arguments.iter().flat_map(|pattern| self.included(pattern)).collect();
                    for included in files {
                        self.file(&included, true, depth + 1)?;
                    }
                }
                "proxycommand" if applies && arguments.first().is_some_and(|word| !word.eq_ignore_ascii_case("none")) => {
                    self.unsupported.push(format!("`ProxyCommand` ({})", at()));
                }
                _ if applies => self.values.push((keyword, arguments)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the files of an `Include`, whose last component may be a pattern.
    fn included(&self, pattern: &str) -> Vec<PathBuf> {
        let path = self.home.join(".ssh").join(self.path(pattern));
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Vec::new();
        };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(|file| fits(name, file)))
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        files
    }

    /// Expands a leading `~` and the tokens of paths.
    fn path(&self, text: &str) -> PathBuf {
        let text = text
            .replace("%d", &self.home.to_string_lossy())
            .replace("%h", self.host)
            .replace("%%", "%");
        match text.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => text.into(),
        }
    }

    /// The first value of a keyword counts; all `IdentityFile` do.
    fn entry(&self) -> HostEntry {
        let first = |keyword: &str| {
            let found = self.values.iter().find(|(known, _)| known == keyword);
            found
                .map(|(_, arguments)| arguments.as_slice())
                .filter(|arguments| !arguments.is_empty())
        };
        let text = |keyword: &str| first(keyword).map(|arguments| arguments[0].clone());
        let files = self.values.iter().filter(|(keyword, _)| keyword == "identityfile");
        let jump = text("proxyjump").map(|hosts| match hosts.as_str() {
            "none" => Vec::new(),
            hosts => hosts.split(',').map(|host| host.trim_start_matches("ssh://").to_owned()).collect(),
        });
        HostEntry {
            host_name: text("hostname").map(|name| name.replace("%h", self.host)),
            user: text("user"),
            port: text("port").and_then(|port| port.parse().ok()),
            identity_files: files
                .flat_map(|(_, arguments)| arguments.iter().map(|file| self.path(file)))
                .collect(),
            identity_agent: text("identityagent"),
            identities_only: text("identitiesonly").is_some_and(|value| value.eq_ignore_ascii_case("yes")),
            jump,
            known_hosts: first("userknownhostsfile")
                .into_iter()
                .flatten()
                .map(|file| self.path(file))
                .collect(),
            host_key_alias: text("hostkeyalias"),
            unsupported: self.unsupported.clone(),
        }
    }
}

/// Splits a line into keyword and arguments: at blanks and at the first `=`, but not within double quotes.
fn words(line: &str) -> Vec<String> {
    let line = line.trim();
    if line.starts_with('#') {
        return Vec::new();
    }
    let (mut words, mut word, mut is_quoted, mut is_word) = (Vec::new(), String::new(), false, false);
    for letter in line.chars() {
        let separates = letter.is_whitespace() || (letter == '=' && words.len() + usize::from(is_word) == 1);
        match letter {
            '"' => {
                is_quoted = !is_quoted;
                is_word = true;
            }
            _ if separates && !is_quoted => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut word));
                }
            }
            '#' if !is_quoted && !is_word => break,
            letter => {
                word.push(letter);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_applies_counts() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        fs::create_dir_all(home.join(".ssh/config.d")).unwrap();
        fs::write(home.join(".ssh/config.d/a.conf"), "Host in*\n  User included\n").unwrap();
        fs::write(home.join(".ssh/config.d/b.txt"), "User wrong\n").unwrap();
        let file = home.join(".ssh/config");
        let text = "Include config.d/*.conf\n# c\nHost=hpc login?\n  HostName = \"%h.example.org\"\n\tPort 2222\n  \
                    IdentityFile ~/.ssh/a\n  ProxyJump me@gate:2200,second\nHost * !login9\n  User everyone\n  Port 99\n  \
                    IdentityFile \"/with blank/%h\"\n  \
                    UserKnownHostsFile ~/kh1 /kh2\n  IdentitiesOnly yes\nMatch host x exec \"y\"\n  User matched\n\
                    Match all\n  HostKeyAlias alias\n";
        fs::write(&file, text).unwrap();
        let entry = |host: &str| read(&file, host, home).unwrap();
        let match_line = format!("`Match host x exec y` ({}:14)", file.display());
        let all = HostEntry {
            user: Some("everyone".into()),
            port: Some(99),
            identity_files: vec!["/with blank/other".into()],
            identities_only: true,
            known_hosts: vec![home.join("kh1"), "/kh2".into()],
            host_key_alias: Some("alias".into()),
            unsupported: vec![match_line.clone()],
            ..HostEntry::default()
        };
        assert_eq!(entry("other"), all);
        let hpc = HostEntry {
            host_name: Some("hpc.example.org".into()),
            port: Some(2222),
            identity_files: vec![home.join(".ssh/a"), "/with blank/hpc".into()],
            jump: Some(vec!["me@gate:2200".into(), "second".into()]),
            ..all.clone()
        };
        assert_eq!(entry("hpc"), hpc);
        assert_eq!(entry("inside").user.as_deref(), Some("included"));
        assert_eq!(entry("login9").user, None);
        assert_eq!(read(&home.join("none"), "x", home).unwrap(), HostEntry::default());
    }
}
