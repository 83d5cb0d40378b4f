//! TFRecord: the framing of event files.
//!
//! ```text
//! u64 length | u32 masked crc32c of the length | data | u32 masked crc32c of the data      little-endian
//! ```

/// Frames `data` as one record. By the length, a reader distinguishes an incomplete record from a broken one.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc(data).to_le_bytes());
    record
}

/// Returns the checksum as TensorFlow stores it (`tensorflow/core/lib/hash/crc32c.h`): rotated and offset, since a checksum
/// over data that contains its own checksum is weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}
