//! Compares the bytes of records with those of TensorBoard 2.21's `RecordWriter` and messages.

use super::{event::Event, record};
use prost::Message as _;

#[track_caller]
fn check(event: &Event, expect: &str) {
    let hex: String = record::framed(&event.encode_to_vec())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, expect, "{event:?}");
}

#[test]
fn records_equal_tensorboards() {
    let [version, start] = Event::head(1.5, 7);
    check(
        &version,
        "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
    );
    check(&start, "0f000000000000006d532b0909000000000000f83f10073a020801774771c7");
    // 0 is a value, not a missing one.
    check(
        &Event::scalars(1.5, 300, &[("loss", 2.5), ("lr", 0.0)]),
        "2600000000000000734fe30009000000000000f83f10ac022a180a0b0a046c6f737315000020400a090a026c7215000000005ccae6bd",
    );
}

#[test]
fn a_record_frames_any_data() {
    // The checksum of 32 zeros is RFC 3720's (0x8a9136aa), masked here by hand.
    let record = record::framed(&[0; 32]);
    let masked = 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8);
    assert_eq!(record.len(), 8 + 4 + 32 + 4);
    assert_eq!(record[..8], 32_u64.to_le_bytes());
    assert_eq!(record[44..], masked.to_le_bytes());
    assert_eq!(record::framed(&[]).len(), 16);
}
