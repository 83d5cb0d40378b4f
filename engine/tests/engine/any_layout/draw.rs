//! Cases, drawn: what validation lets through.

use super::case::{Batches, Case, Shares, Text, Trains, Vision};
use crate::layout::Layout;
use crate::recompute::ways;
use neva_schemas::CpCommType::{AllGather, P2p};
use neva_schemas::ParallelSizes;
use neva_schemas::VisionPlacement::{Cut, Duplicated, Shared};
use proptest::option::weighted;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;

/// A model whose layers this layout can mostly share out: where it does not say how many its ends take.
fn text(layout: Layout) -> impl Strategy<Value = Text> {
    let sections = layout.sizes.pp as usize * layout.chunks.unwrap_or(1) as usize;
    let layers = prop_oneof![
        4 => (1..=6usize.div_ceil(sections)).prop_map(move |each| each * sections),
        1 => 1..=6usize,
    ];
    let heads = select(vec![2, 4, 8, 3, 6]).prop_flat_map(|heads: usize| {
        let divisors: Vec<_> = (1..=heads).rev().filter(|key_heads| heads.is_multiple_of(*key_heads)).collect();
        (Just(heads), select(divisors))
    });
    let shape = (layers, select(vec![48, 32usize]), heads, weighted(0.3, select(vec![8, 4, 10usize])));
    let rest = (select(vec![48, 24, 36, 40usize]), select(vec![320, 100, 67, 6usize]), any::<bool>());
    (shape, rest).prop_map(
        |((layers, hidden, (heads, key_heads), head_dim), (intermediate, vocabulary, tied))| Text {
            layers,
            hidden,
            heads,
            key_heads,
            head_dim,
            intermediate,
            vocabulary,
            tied,
        },
    )
}

fn vision() -> impl Strategy<Value = Vision> {
    (
        1..=3usize,
        select(vec![2, 4, 8, 3usize]),
        select(vec![48, 40usize]),
        -4..=3i64,
        any::<bool>(),
    )
        .prop_map(|(layers, heads, intermediate, feature_layer, class_token)| Vision {
            layers,
            heads,
            intermediate,
            feature_layer,
            class_token,
        })
}

/// Two to eight ranks, on several axes mostly.
fn layout() -> impl Strategy<Value = Layout> {
    let mut all = Vec::new();
    for (tp, cp) in (1..=8).flat_map(|tp| (1..=8).map(move |cp| (tp, cp))) {
        for (dp, pp) in (1..=8).flat_map(|dp| (1..=8).map(move |pp| (dp, pp))) {
            let sizes = ParallelSizes { tp, cp, dp, pp };
            if (2..=8).contains(&sizes.world()) {
                all.push(sizes);
            }
        }
    }
    all.sort_by_key(ParallelSizes::world);
    let axes = |sizes: &ParallelSizes| {
        [sizes.tp, sizes.cp, sizes.dp, sizes.pp]
            .into_iter()
            .filter(|size| *size > 1)
            .count()
    };
    let (one, pairs): (Vec<_>, Vec<_>) = all.into_iter().filter(|sizes| axes(sizes) < 3).partition(|sizes| axes(sizes) == 1);
    let three = [(1, 2, 2, 2), (2, 1, 2, 2), (2, 2, 1, 2), (2, 2, 2, 1)].map(|(tp, cp, dp, pp)| ParallelSizes { tp, cp, dp, pp });
    let sizes = prop_oneof![1 => select(one), 2 => select(pairs), 1 => select(three.to_vec())];
    let ends = (weighted(0.2, 0..=3u32), weighted(0.2, 1..=3u32));
    (sizes, weighted(0.6, 2..=3u32), any::<bool>(), ends, any::<bool>()).prop_map(
        |(sizes, chunks, sequence_parallel, (first, last), distributed)| Layout {
            sizes,
            // On one stage the ends are not looked at, and chunks are refused.
            chunks: chunks.filter(|_| sizes.pp > 1),
            sequence_parallel,
            ends: [first, last],
            distributed,
        },
    )
}

fn shares() -> impl Strategy<Value = Shares> {
    let axes = (select(vec![P2p, AllGather]), select(vec![Shared, Duplicated, Cut]));
    let rest = (select(vec![1 << 25, 1, 1000, 10_000]), weighted(0.5, 0..ways().len()));
    (axes, any::<[bool; 2]>(), rest).prop_map(|((exchange, placement), overlaps, (bucket_size, recompute))| Shares {
        exchange,
        placement,
        overlap_grad_reduce: overlaps[0],
        overlap_param_gather: overlaps[1],
        bucket_size,
        recompute,
    })
}

fn trains() -> impl Strategy<Value = Trains> {
    let targets = proptest::array::uniform12(proptest::bool::weighted(0.2));
    (any::<[bool; 3]>(), proptest::option::of(targets), any::<[bool; 2]>()).prop_map(|(frozen, targets, replaced)| Trains {
        frozen,
        targets: targets.unwrap_or_default(),
        replaced,
    })
}

fn batches() -> impl Strategy<Value = Batches> {
    let sizes = (14..=40usize, 1..=4u64, 1..=6u64);
    let kinds = (sparse(), sparse(), sparse(), sparse());
    (sizes, any::<[bool; 2]>(), kinds).prop_map(
        |((length, micro_batch_size, count), [mean_of_means, packed], (without_picture, two_pictures, without_labels, short))| Batches {
            length,
            micro_batch_size,
            count,
            mean_of_means,
            packed,
            without_picture,
            two_pictures,
            without_labels,
            short,
        },
    )
}

/// A quarter of all samples.
fn sparse() -> impl Strategy<Value = u64> {
    (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b)
}

/// What validation lets through, of a size that is trained in a second or two.
pub(super) fn cases() -> impl Strategy<Value = Case> {
    let text_and_layout = layout().prop_flat_map(|layout| (text(layout), Just(layout)));
    (text_and_layout, vision(), shares(), trains(), batches())
        .prop_map(|((text, layout), vision, shares, trains, batches)| {
            let mut case = Case {
                text,
                vision,
                layout,
                shares,
                trains,
                batches,
            };
            // Rows are cut evenly.
            let multiple = case.laid_out().trainer.strategy.sequence_multiple();
            case.batches.length = case.batches.length.next_multiple_of(multiple);
            case
        })
        .prop_filter("as much data as takes a second", |case| case.global_batch_size() <= 24)
        .prop_filter("refused", |case| case.errors().is_empty())
}
