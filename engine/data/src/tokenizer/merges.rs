//! Merges of a sentencepiece BPE vocabulary, which itself has scores only (transformers' `generate_merges`).

use std::collections::BTreeMap;

/// Type of a piece that merges make.
pub(super) const NORMAL: i32 = 1;

/// Returns the pairs of pieces that make another piece, the best score first. Pairs of one score are in the order of
/// decreasing lengths, then of increasing ids.
///
/// Pieces are text, score and type. Control pieces, bytes and symbols of users come from no merge.
pub(super) fn merges<'a>(pieces: &[(&'a str, f32, i32)]) -> Vec<(&'a str, &'a str)> {
    let normal = pieces.iter().enumerate().filter(|(_, piece)| piece.2 == NORMAL);
    let ids: BTreeMap<&str, usize> = normal.clone().map(|(id, piece)| (piece.0, id)).collect();
    let mut found = Vec::new();
    for (_, &(text, score, _)) in normal {
        let mut of_piece: Vec<_> = text
            .char_indices()
            .skip(1)
            .map(|(middle, _)| text.split_at(middle))
            .filter_map(|(left, right)| Some((ids.get(left)?, ids.get(right)?, left, right)))
            .collect();
        of_piece.sort_by_key(|&(left, right, ..)| (left, right));
        found.extend(of_piece.into_iter().map(|(.., left, right)| {
            let lengths = (left.chars().count(), right.chars().count());
            (score, lengths, left, right)
        }));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    found.into_iter().map(|(.., left, right)| (left, right)).collect()
}
