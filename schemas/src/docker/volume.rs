//! Mounts in Docker's form.

/// Options of a bind mount in Docker and Podman.
const OPTIONS: &[&str] = &[
    "ro",
    "rw",
    "z",
    "Z",
    "nocopy",
    "rprivate",
    "private",
    "rshared",
    "shared",
    "rslave",
    "slave",
    "U",
    "O",
    "consistent",
    "cached",
    "delegated",
];

/// A mount of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Folder or file of this machine, or the name of a volume.
    pub source: String,
    /// Place in the container.
    pub target: String,
    /// Options, as `ro`.
    pub options: Option<String>,
}

impl Volume {
    /// Parses `/data`, `/data:/mnt`, `/data:/mnt:ro`, `/data:ro`, `NAME:/mnt`; says what is wrong with another form.
    ///
    /// # Errors
    /// The text has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        let is_options = |text: &str| text.split(',').all(|option| OPTIONS.contains(&option));
        let (source, target, options) = match parts.as_slice() {
            [source] => (*source, *source, None),
            [source, options] if is_options(options) => (*source, *source, Some(*options)),
            [source, target] => (*source, *target, None),
            [source, target, options] if is_options(options) => (*source, *target, Some(*options)),
            [_, _, options] => return Err(format!("{options:?} are not options of a mount, as `ro`")),
            _ => return Err("it has too many `:`".to_owned()),
        };
        if !target.starts_with('/') {
            return Err(format!("{target:?} is not an absolute path in the container"));
        }
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_name = source.starts_with(|c: char| c.is_ascii_alphanumeric()) && source.chars().all(is_in_name);
        if !source.starts_with('/') && !is_name {
            return Err(format!("{source:?} is neither an absolute path nor the name of a volume"));
        }
        Ok(Self {
            source: source.to_owned(),
            target: target.to_owned(),
            options: options.map(str::to_owned),
        })
    }

    /// Returns the text that Docker takes.
    pub fn bind(&self) -> String {
        let options = self.options.as_ref().map_or_else(String::new, |options| format!(":{options}"));
        format!("{}:{}{options}", self.source, self.target)
    }

    /// Returns true if a path means the same in the container and on this machine.
    pub fn keeps_path(&self) -> bool {
        self.source == self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mounts() {
        for (text, bind) in [
            ("/data", "/data:/data"),
            ("/data:ro", "/data:/data:ro"),
            ("/data:/mnt", "/data:/mnt"),
            ("/data:/mnt:ro,z", "/data:/mnt:ro,z"),
            ("cache:/mnt", "cache:/mnt"),
        ] {
            assert_eq!(Volume::parse(text).unwrap().bind(), bind);
        }
        for text in ["", "data", "./data:/mnt", "/a:b", "/a:/b:x", "/a:/b:ro:z", "-x:/b", "~/a:/b"] {
            assert!(Volume::parse(text).is_err(), "{text}");
        }
    }
}
