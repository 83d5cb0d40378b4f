//! Limits of processes in NeMo-Run's and Docker's forms.

/// A limit of the container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Name, as `memlock`.
    pub name: String,
    /// Soft limit; -1: none.
    pub soft: i64,
    /// Hard limit; -1: none.
    pub hard: i64,
}

impl Ulimit {
    /// Parses `NAME:SOFT:HARD` (NeMo-Run), `NAME=SOFT:HARD` or `NAME=LIMIT` (Docker); `None` for another form.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, limits) = text.split_once(['=', ':'])?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let limit = |text: &str| text.parse().ok().filter(|limit: &i64| *limit >= -1);
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
        is_name.then_some(())?;
        Some(Self {
            name: name.to_owned(),
            soft: limit(soft)?,
            hard: limit(hard)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        for (text, expected) in [
            ("memlock:-1:-1", Some(("memlock", -1, -1))),
            ("nofile=1024:65536", Some(("nofile", 1024, 65536))),
            ("stack=67108864", Some(("stack", 67_108_864, 67_108_864))),
            ("memlock", None),
            ("=1", None),
            ("nofile=x", None),
            ("nofile=-2", None),
            ("nofile=1:2:3", None),
        ] {
            let found = Ulimit::parse(text);
            let found = found.as_ref().map(|limit| (limit.name.as_str(), limit.soft, limit.hard));
            assert_eq!(found, expected, "{text}");
        }
    }
}
