//! Zig-zag partition of sequences.

use neva_layout::{Block, Mask, ZigZag};
use std::collections::BTreeMap;
use std::ops::Range;

fn positions(rank: usize, ranks: usize, s: usize) -> Vec<usize> {
    ZigZag { rank, ranks }.positions(s).collect()
}

#[test]
fn each_rank_holds_chunks_from_both_ends() {
    let cases: [(usize, usize, usize, &[usize]); 6] = [
        (0, 1, 5, &[0, 1, 2, 3, 4]),
        (0, 2, 8, &[0, 1, 6, 7]),
        (1, 2, 8, &[2, 3, 4, 5]),
        (0, 4, 8, &[0, 7]),
        (3, 4, 8, &[3, 4]),
        (1, 2, 0, &[]),
    ];
    for (rank, ranks, s, expected) in cases {
        assert_eq!(positions(rank, ranks, s), expected, "rank {rank} of {ranks}, {s} positions");
    }
}

#[test]
fn every_position_is_on_one_rank() {
    for ranks in 1..=5 {
        let zigzag = |rank| ZigZag { rank, ranks };
        let s = 3 * zigzag(0).multiple();
        let mut all: Vec<_> = (0..ranks).flat_map(|rank| positions(rank, ranks, s)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..s).collect::<Vec<_>>());
        for rank in 0..ranks {
            let held = positions(rank, ranks, s);
            assert_eq!(held.len(), s / ranks);
            for position in 0..s {
                assert_eq!(zigzag(rank).local(s, position), held.iter().position(|own| *own == position));
            }
        }
    }
}

/// Counts how often each query attends to each key, in positions of the whole row.
fn attended_pairs(ranks: usize, s: usize, segment: &Range<usize>, window: Option<usize>) -> BTreeMap<(usize, usize), usize> {
    let mut pairs = BTreeMap::new();
    for rank in 0..ranks {
        for of in 0..ranks {
            let zigzag = ZigZag { rank, ranks };
            let blocks = match window {
                None => zigzag.block(of, s, segment).into_iter().collect(),
                Some(window) => zigzag.windowed_blocks(of, s, segment, window),
            };
            let (own, other) = (positions(rank, ranks, s), positions(of, ranks, s));
            for Block { queries, keys, mask } in blocks {
                assert!(mask != Mask::Causal || queries.len() == keys.len(), "a causal block is a square");
                for (i, query) in queries.clone().enumerate() {
                    let attends = |j: usize| match mask {
                        Mask::All => true,
                        Mask::Causal => j <= i,
                        Mask::Window { lead, window } => {
                            let distance = i as i64 + lead - j as i64;
                            distance >= 0 && distance < window as i64
                        }
                    };
                    let attended: Vec<_> = keys.clone().enumerate().filter(|(j, _)| attends(*j)).collect();
                    assert!(!attended.is_empty(), "a query of a block attends to a key");
                    for (_, key) in attended {
                        *pairs.entry((own[query], other[key])).or_default() += 1;
                    }
                }
            }
        }
    }
    pairs
}

#[test]
fn every_query_attends_once_to_each_earlier_key_of_its_segment() {
    for ranks in 1..=4 {
        let s = 3 * ZigZag { rank: 0, ranks }.multiple();
        for start in 0..s {
            for end in start + 1..=s {
                let expected = (start..end).flat_map(|query| (start..=query).map(move |key| ((query, key), 1)));
                assert_eq!(
                    attended_pairs(ranks, s, &(start..end), None),
                    expected.collect(),
                    "{start}..{end} of {s} over {ranks}"
                );
            }
        }
    }
}

#[test]
fn every_query_meets_each_key_in_its_window_once() {
    for (ranks, window) in [(1, 1), (1, 3), (2, 1), (2, 2), (2, 5), (3, 4), (3, 7), (4, 3), (4, 100)] {
        let s = 3 * ZigZag { rank: 0, ranks }.multiple();
        for start in 0..s {
            for end in start + 1..=s {
                let first = |query: usize| start.max((query + 1).saturating_sub(window));
                let expected = (start..end).flat_map(|query| (first(query)..=query).map(move |key| ((query, key), 1)));
                assert_eq!(
                    attended_pairs(ranks, s, &(start..end), Some(window)),
                    expected.collect(),
                    "{start}..{end} of {s} over {ranks} in a window of {window}"
                );
            }
        }
    }
}

#[test]
fn ranks_have_equal_work() {
    let (ranks, s) = (4, 64);
    let work = |rank| -> usize {
        let block = |of| (ZigZag { rank, ranks }).block(of, s, &(0..s)).unwrap();
        (0..ranks)
            .map(block)
            .map(|block| {
                let (queries, keys) = (block.queries.len(), block.keys.len());
                if block.mask == Mask::Causal {
                    queries * (queries + 1) / 2
                } else {
                    queries * keys
                }
            })
            .sum()
    };
    let all: Vec<_> = (0..ranks).map(work).collect();
    assert_eq!(all, [all[0]; 4]);
    assert_eq!(all.iter().sum::<usize>(), s * (s + 1) / 2);
}
