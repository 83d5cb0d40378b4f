//! Hashes of records, to find repeated ones.

use crate::conversation::Conversation;

/// Returns a hash of a list of texts, which differs for other borders of the texts.
pub(super) fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    first_bytes(&hasher.finalize())
}

/// Returns a hash of the images and the messages of a record. Ids and other fields do not change it.
pub(super) fn record_hash<'a>(images: impl IntoIterator<Item = &'a [u8]>, conversation: &Conversation) -> u64 {
    let mut hasher = blake3::Hasher::new();
    let mut add = |tag: u8, part: &[u8]| {
        hasher.update(&[tag]);
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    for image in images {
        add(0, image);
    }
    if let Some(system) = &conversation.system {
        add(1, system.as_bytes());
    }
    for turn in &conversation.turns {
        add(2, turn.question.as_bytes());
        add(3, turn.answer.as_deref().unwrap_or_default().as_bytes());
    }
    first_bytes(&hasher.finalize())
}

fn first_bytes(hash: &blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
