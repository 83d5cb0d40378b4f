//! Extensions and maximum size of configuration files.

/// Extensions of configuration files.
pub(super) const EXTENSIONS: &[&str] = &["yaml", "yml", "json", "toml"];

/// Maximum file size, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;
