//! Encoding of a record file, detected by its first bytes.

use std::path::Path;

/// Number of bytes that [`byte_order_mark`] looks at.
pub(super) const HEAD: usize = 6;

/// Returns the length of a UTF-8 byte order mark at the start of a file.
///
/// # Errors
/// Returns the reason for which the file is not UTF-8 text, with a command that converts it.
pub(super) fn byte_order_mark(head: &[u8], path: &Path) -> Result<usize, String> {
    let path = path.display();
    let encoded = |name: &str, iconv: &str| {
        Err(format!(
            "is {name}, but JSON must be UTF-8: convert it with `iconv -f {iconv} -t UTF-8 {path} > NEW.json`"
        ))
    };
    let packed = |name: &str, command: &str| Err(format!("is compressed with {name}: unpack it with `{command} {path}`"));
    match head {
        [0xef, 0xbb, 0xbf, ..] => Ok(3),
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => encoded("UTF-32", "UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => encoded("UTF-16", "UTF-16"),
        [text, 0, 0, 0, ..] if *text != 0 => encoded("UTF-32 (little endian)", "UTF-32LE"),
        [0, 0, 0, text, ..] if *text != 0 => encoded("UTF-32 (big endian)", "UTF-32BE"),
        [text, 0, ..] if *text != 0 => encoded("UTF-16 (little endian)", "UTF-16LE"),
        [0, text, ..] if *text != 0 => encoded("UTF-16 (big endian)", "UTF-16BE"),
        [0x1f, 0x8b, ..] => packed("gzip", "gunzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => packed("Zstandard", "unzstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => packed("xz", "unxz"),
        [b'P', b'K', 3, 4, ..] => packed("zip", "unzip"),
        [b'P', b'A', b'R', b'1', ..] => Err("is Parquet: write its records as JSON Lines".to_owned()),
        _ => Ok(0),
    }
}
