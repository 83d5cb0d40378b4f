//! Generators of valid cases.

use super::case::{AdapterOptions, Batches, Case, Encoder, Family, Options, Text, Trains, Vision};
use crate::layout::Layout;
use crate::recompute::recompute_settings;
use neva_schemas::CpCommType::{AllGather, P2p};
use neva_schemas::VisionPlacement::{Cut, Duplicated, Shared};
use neva_schemas::{ParallelSizes, ProjectorType};
use proptest::option::weighted;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;

/// Generates a language model whose layers this layout can usually split.
fn text(layout: Layout) -> impl Strategy<Value = Text> {
    let chunks = layout.sizes.pp as usize * layout.chunks.unwrap_or(1) as usize;
    let layers = prop_oneof![
        4 => (1..=6usize.div_ceil(chunks)).prop_map(move |each| each * chunks),
        1 => 1..=6usize,
    ];
    let heads = select(vec![2, 4, 8, 3, 6]).prop_flat_map(|heads: usize| {
        let divisors: Vec<_> = (1..=heads).rev().filter(|key_heads| heads.is_multiple_of(*key_heads)).collect();
        (Just(heads), select(divisors))
    });
    let shape = (layers, select(vec![48, 32usize]), heads, weighted(0.3, select(vec![8, 4, 10usize])));
    let rest = (select(vec![48, 24, 36, 40usize]), select(vec![320, 100, 67, 6usize]), any::<bool>());
    (shape, rest, (family(), proptest::bool::weighted(0.25))).prop_map(
        |((layers, hidden, (heads, key_heads), head_dim), (intermediate, vocabulary, tied), (family, alone))| Text {
            family,
            alone,
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

fn family() -> impl Strategy<Value = Family> {
    let window = || weighted(0.7, 1..=20usize);
    prop_oneof![
        any::<[bool; 2]>().prop_map(|[bias, scaled]| Family::Llama { bias, scaled }),
        window().prop_map(|window| Family::Mistral { window }),
        any::<bool>().prop_map(|bias| Family::Nemotron { bias }),
        (window(), 0..=3usize).prop_map(|(window, first)| Family::Qwen2 { window, first }),
    ]
}

fn vision() -> impl Strategy<Value = Vision> {
    (
        1..=3usize,
        select(vec![2, 4, 8, 3usize]),
        select(vec![48, 40usize]),
        -4..=3i64,
        any::<bool>(),
        encoder(),
        weighted(0.2, -4..=3i64),
        projector(),
    )
        .prop_map(
            |(layers, heads, intermediate, feature_layer, class_token, encoder, second, projector)| Vision {
                layers,
                heads,
                intermediate,
                feature_layer,
                class_token,
                encoder,
                second,
                projector,
            },
        )
}

fn encoder() -> impl Strategy<Value = Encoder> {
    prop_oneof![
        Just(Encoder::Clip),
        Just(Encoder::Siglip),
        any::<bool>().prop_map(|rms| Encoder::InternVit { rms }),
    ]
}

fn projector() -> impl Strategy<Value = ProjectorType> {
    select(vec![
        ProjectorType::Mlp(2),
        ProjectorType::Mlp(2),
        ProjectorType::Mlp(3),
        ProjectorType::Linear,
        ProjectorType::InternVl,
    ])
}

/// Generates layouts of two to eight ranks, mostly on several axes.
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
            // With one stage, the layers of the ends are ignored and chunks are refused.
            chunks: chunks.filter(|_| sizes.pp > 1),
            sequence_parallel,
            ends: [first, last],
            distributed,
        },
    )
}

fn options() -> impl Strategy<Value = Options> {
    let axes = (select(vec![P2p, AllGather]), select(vec![Shared, Duplicated, Cut]));
    let rest = (select(vec![1 << 25, 1, 1000, 10_000]), weighted(0.5, 0..recompute_settings().len()));
    (axes, any::<[bool; 2]>(), rest).prop_map(|((exchange, placement), overlaps, (bucket_size, recompute))| Options {
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
    let parts = (any::<[bool; 3]>(), proptest::option::of(targets), any::<[bool; 2]>());
    (parts, adapters()).prop_map(|((frozen, targets, replaced), adapters)| Trains {
        frozen,
        targets: targets.unwrap_or_default(),
        replaced,
        adapters,
    })
}

fn adapters() -> impl Strategy<Value = AdapterOptions> {
    let dropout = prop_oneof![1 => Just(0), 2 => 1..=60u8];
    (dropout, any::<[bool; 4]>()).prop_map(|(dropout, [post, rslora, dora, quantized])| AdapterOptions {
        dropout,
        post,
        rslora,
        dora,
        quantized,
    })
}

fn batches() -> impl Strategy<Value = Batches> {
    let sizes = (14..=40usize, 1..=4u64, 1..=6u64);
    // Of the microbatches without an image, some are on some ranks alone: these must not wait for the others.
    let kinds = (prop_oneof![sparse(), dense()], sparse(), sparse(), sparse());
    (sizes, any::<[bool; 2]>(), kinds).prop_map(
        |((length, micro_batch_size, count), [mean_of_means, packed], (without_image, two_images, without_labels, short))| Batches {
            length,
            micro_batch_size,
            count,
            mean_of_means,
            packed,
            without_image,
            two_images,
            without_labels,
            short,
        },
    )
}

/// Generates a bit mask of a quarter of all samples.
fn sparse() -> impl Strategy<Value = u64> {
    (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b)
}

/// Generates cases that pass validation and train within a second or two.
pub(super) fn cases() -> impl Strategy<Value = Case> {
    let text_and_layout = layout().prop_flat_map(|layout| (text(layout), Just(layout)));
    (text_and_layout, vision(), options(), trains(), batches())
        .prop_map(|((text, layout), vision, options, trains, batches)| {
            let mut case = Case {
                text,
                vision,
                layout,
                options,
                trains,
                batches,
            };
            // Round the row length up to the required multiple.
            let multiple = case.laid_out().trainer.strategy.sequence_multiple();
            case.batches.length = case.batches.length.next_multiple_of(multiple);
            case
        })
        .prop_filter("as much data as takes a second", |case| case.global_batch_size() <= 24)
        .prop_filter("refused", |case| case.errors().is_empty())
}

/// Generates a bit mask of three quarters of all samples.
fn dense() -> impl Strategy<Value = u64> {
    sparse().prop_map(|mask| !mask)
}
