//! Zig-zag cutting of sequences.

use neva_layout::{Block, ZigZag};
use std::collections::BTreeMap;
use std::ops::Range;

fn places(rank: usize, ranks: usize, s: usize) -> Vec<usize> {
    ZigZag { rank, ranks }.places(s).collect()
}

#[test]
fn chunks_are_dealt_out_from_both_ends() {
    let cases: [(usize, usize, usize, &[usize]); 6] = [
        (0, 1, 5, &[0, 1, 2, 3, 4]),
        (0, 2, 8, &[0, 1, 6, 7]),
        (1, 2, 8, &[2, 3, 4, 5]),
        (0, 4, 8, &[0, 7]),
        (3, 4, 8, &[3, 4]),
        (1, 2, 0, &[]),
    ];
    for (rank, ranks, s, expected) in cases {
        assert_eq!(places(rank, ranks, s), expected, "rank {rank} of {ranks}, {s} places");
    }
}

#[test]
fn every_place_has_one_holder() {
    for ranks in 1..=5 {
        let zigzag = |rank| ZigZag { rank, ranks };
        let s = 3 * zigzag(0).multiple();
        let mut all: Vec<_> = (0..ranks).flat_map(|rank| places(rank, ranks, s)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..s).collect::<Vec<_>>());
        for rank in 0..ranks {
            let held = places(rank, ranks, s);
            assert_eq!(held.len(), s / ranks);
            for place in 0..s {
                assert_eq!(zigzag(rank).local(s, place), held.iter().position(|own| *own == place));
            }
        }
    }
}

/// How often a query of the whole row meets a key of it.
fn meetings(ranks: usize, s: usize, segment: &Range<usize>) -> BTreeMap<(usize, usize), usize> {
    let mut met = BTreeMap::new();
    for rank in 0..ranks {
        for of in 0..ranks {
            let Some(block) = (ZigZag { rank, ranks }).block(of, s, segment) else {
                continue;
            };
            let Block { queries, keys, causal } = block;
            assert!(!causal || queries == keys, "a causal block is a square");
            let (own, other) = (places(rank, ranks, s), places(of, ranks, s));
            for query in queries {
                for key in keys.clone().filter(|key| !causal || *key <= query) {
                    *met.entry((own[query], other[key])).or_default() += 1;
                }
            }
        }
    }
    met
}

#[test]
fn every_query_meets_each_key_before_it_in_its_segment_once() {
    for ranks in 1..=4 {
        let s = 3 * ZigZag { rank: 0, ranks }.multiple();
        for start in 0..s {
            for end in start + 1..=s {
                let expected = (start..end).flat_map(|query| (start..=query).map(move |key| ((query, key), 1)));
                assert_eq!(
                    meetings(ranks, s, &(start..end)),
                    expected.collect(),
                    "{start}..{end} of {s} over {ranks}"
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
                if block.causal {
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
