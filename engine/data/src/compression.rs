//! Recognizes compressed files by their first bytes.

/// Returns the program that unpacks a compressed file with these first bytes.
pub(crate) fn unpacking_program(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x1f, 0x8b, ..] => Some("gunzip"),
        [b'B', b'Z', b'h', ..] => Some("bunzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("unxz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("unzstd"),
        _ => None,
    }
}
