//! Any model in any layout that the run's own validation lets through trains as one rank does.
//!
//! `NEVA_SOAK_LAYOUTS=1000` in the environment tries so many cases, other ones each time. A failure prints the smallest
//! case that fails, as Rust: it belongs into [`PINNED`].

use crate::layout::Layout;
use crate::recompute::{again, ways};
use crate::setting::{
    ONE, Samples, Trained, adapters, close, close_tensors, mock, small, train, within_limit, without_labels, without_picture,
};
use neva_data::{IGNORE, IMAGE, Pixels};
use neva_layout::{llava_parameters, lora_adapters};
use neva_schemas::CpCommType::{self, AllGather, P2p};
use neva_schemas::VisionPlacement::{self, Cut, Duplicated, Shared};
use neva_schemas::{AdamW, FeatureSelect, Finetune, LossNormalization, LrScheduler, Optim, ParallelSizes, Peft, Run, Severity, Validate};
use proptest::option::weighted;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Cases that every run of the tests tries.
const CASES: u32 = 32;

const STEPS: u64 = 3;

/// Cases that are tried whatever is drawn: eight ranks of everything, and those that once failed.
const PINNED: &[Case] = &[Case {
    text: Text {
        layers: 4,
        hidden: 48,
        heads: 6,
        key_heads: 2,
        head_dim: Some(4),
        intermediate: 36,
        vocabulary: 67,
        tied: true,
    },
    vision: Vision {
        layers: 3,
        heads: 2,
        intermediate: 40,
        feature_layer: -2,
        class_token: true,
    },
    layout: Layout {
        sizes: ParallelSizes {
            tp: 2,
            cp: 2,
            dp: 1,
            pp: 2,
        },
        chunks: Some(2),
        sequence_parallel: true,
        ends: [None, None],
        distributed: true,
    },
    shares: Shares {
        exchange: P2p,
        placement: Cut,
        overlap_grad_reduce: true,
        overlap_param_gather: true,
        bucket_size: 1000,
        recompute: Some(0),
    },
    trains: Trains {
        frozen: [false, false, false],
        targets: [true, true, false, false, false, false, false, true, true, false, true, true],
        replaced: [false, true],
    },
    batches: Batches {
        length: 32,
        micro_batch_size: 4,
        count: 3,
        mean_of_means: false,
        packed: true,
        without_picture: 0b1111_0010,
        two_pictures: 0b1001,
        without_labels: 0b0110_0100,
        short: 0b1010_1001,
    },
}];

/// A run and a layout.
#[derive(Clone, Copy, Debug)]
struct Case {
    text: Text,
    vision: Vision,
    layout: Layout,
    shares: Shares,
    trains: Trains,
    batches: Batches,
}

/// The language model.
#[derive(Clone, Copy, Debug)]
struct Text {
    layers: usize,
    hidden: usize,
    heads: usize,
    key_heads: usize,
    head_dim: Option<usize>,
    intermediate: usize,
    vocabulary: usize,
    tied: bool,
}

/// The vision encoder, and what the projector sees of it.
#[derive(Clone, Copy, Debug)]
struct Vision {
    layers: usize,
    heads: usize,
    intermediate: usize,
    feature_layer: i64,
    class_token: bool,
}

/// What a layout says beside its sizes.
#[derive(Clone, Copy, Debug)]
struct Shares {
    exchange: CpCommType,
    placement: VisionPlacement,
    overlap_grad_reduce: bool,
    overlap_param_gather: bool,
    bucket_size: u64,
    /// Number of the way to compute again.
    recompute: Option<usize>,
}

/// What is trained.
#[derive(Clone, Copy, Debug)]
struct Trains {
    /// Language model, vision encoder, projector.
    frozen: [bool; 3],
    /// Which of [`TARGETS`] have adapters.
    targets: [bool; TARGETS.len()],
    /// Language model, vision encoder: what the adapters stand for.
    replaced: [bool; 2],
}

const TARGETS: [&str; 12] = [
    "linear_qkv",
    "linear_proj",
    "linear_fc1",
    "linear_fc2",
    "q_proj",
    "v_proj",
    "o_proj",
    "up_proj",
    "linear_1",
    "linear_2",
    "fc2",
    "*.layers.0.*.linear_fc2",
];

/// On what.
#[derive(Clone, Copy, Debug)]
struct Batches {
    length: usize,
    micro_batch_size: u64,
    /// Micro-batches of each data-parallel rank in a step.
    count: u64,
    mean_of_means: bool,
    /// Samples share rows.
    packed: bool,
    /// Samples of each kind: bit `n` stands for sample `n`, and every 64th behind it.
    without_picture: u64,
    two_pictures: u64,
    without_labels: u64,
    short: u64,
}

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
fn cases() -> impl Strategy<Value = Case> {
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

impl Case {
    fn global_batch_size(&self) -> u64 {
        let Batches {
            micro_batch_size, count, ..
        } = self.batches;
        micro_batch_size * count * u64::from(self.layout.sizes.dp)
    }

    /// The run on one rank.
    fn alone(&self) -> Finetune {
        let mut finetune = small();
        let Self {
            text,
            vision,
            trains,
            batches,
            ..
        } = self;
        let model = finetune.model.llava_mut();
        let config = &mut model.text_config;
        config.num_hidden_layers = text.layers;
        config.hidden_size = text.hidden;
        (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (text.heads, text.key_heads, text.head_dim);
        (config.intermediate_size, config.vocab_size, config.tie_word_embeddings) = (text.intermediate, text.vocabulary, text.tied);
        // Hidden states and gradients of about one, so that rounding is far below what is compared.
        config.initializer_range = (text.hidden as f64).powf(-0.5);
        model.image_token_index = text.vocabulary as i64 - 1;
        let config = &mut model.vision_config;
        config.initializer_range = (8.0 * vision.heads as f64).powf(-0.5);
        (config.num_hidden_layers, config.num_attention_heads) = (vision.layers, vision.heads);
        (config.hidden_size, config.intermediate_size) = (8 * vision.heads, vision.intermediate);
        model.vision_feature_layer = vision.feature_layer;
        model.vision_feature_select_strategy = match vision.class_token {
            true => FeatureSelect::Full,
            false => FeatureSelect::Default,
        };
        [
            model.freeze_language_model,
            model.freeze_vision_model,
            model.freeze_vision_projection,
        ] = trains.frozen;
        let targets: Vec<_> = TARGETS
            .iter()
            .zip(trains.targets)
            .filter_map(|(target, on)| on.then_some(*target))
            .collect();
        if !targets.is_empty() {
            adapters(&mut finetune, &targets);
            if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
                [lora.freeze_language_model, lora.freeze_vision_model] = trains.replaced;
            }
        }
        let data = mock(&mut finetune);
        data.seq_length = batches.length;
        (data.micro_batch_size, data.global_batch_size) = (batches.micro_batch_size, self.global_batch_size());
        // Adam makes rounding of small gradients steps of the learning rate; not above its epsilon's size.
        finetune.optim = Optim::AdamW(AdamW {
            lr: 1e-2,
            eps: 1e-2,
            clip_grad: 1.0,
            lr_scheduler: LrScheduler::constant(),
            ..AdamW::default()
        });
        if batches.mean_of_means {
            finetune.trainer.loss_normalization = LossNormalization::Microbatch;
        }
        finetune
    }

    /// The same run in the layout.
    fn laid_out(&self) -> Finetune {
        let mut finetune = self.layout.of(&self.alone());
        finetune.trainer.devices = self.layout.sizes.world();
        let (strategy, shares) = (&mut finetune.trainer.strategy, self.shares);
        (strategy.cp_comm_type, strategy.vision_placement) = (shares.exchange, shares.placement);
        strategy.ddp.overlap_grad_reduce = shares.overlap_grad_reduce;
        strategy.ddp.overlap_param_gather = shares.overlap_param_gather;
        strategy.ddp.bucket_size = shares.bucket_size;
        mock(&mut finetune).use_packed_sequence = self.batches.packed;
        match shares.recompute {
            Some(way) => again(&finetune, &ways()[way]),
            None => finetune,
        }
    }

    /// Why the run is not started in the layout.
    fn errors(&self) -> Vec<String> {
        let finetune = self.laid_out();
        let config = finetune.model.llava();
        let problems = Run::of(finetune.clone()).problems("");
        let problems = problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        let mut errors: Vec<_> = problems.map(|problem| problem.to_string()).collect();
        if let (Some(peft), true) = (&finetune.peft, errors.is_empty()) {
            let parameters = llava_parameters(config, finetune.trainer.strategy.vision_placement);
            let adapters = lora_adapters(config, &parameters, peft.lora(), "finetune.peft");
            errors.extend(adapters.err().into_iter().flatten().map(|problem| problem.to_string()));
        }
        errors
    }

    fn samples(self, finetune: &Finetune) -> Samples {
        let batches = self.batches;
        Samples::edited(finetune, move |index, sample| {
            let is = |kind: u64| kind >> (index % 64) & 1 == 1;
            if is(batches.short) {
                let length = sample.ids.len() / 2;
                sample.ids.truncate(length.max(5));
                sample.labels.truncate(length.max(5));
            }
            if is(batches.without_picture) {
                without_picture(sample);
            } else if is(batches.two_pictures) {
                // Before the last three tokens: a sample that is not short is cut within it.
                let place = sample.ids.len() - 2;
                sample.ids.insert(place, IMAGE);
                sample.labels.insert(place, IGNORE);
                let chw = sample.pictures[0].chw.iter().rev().copied().collect();
                sample.pictures.push(Pixels {
                    chw,
                    ..sample.pictures[0].clone()
                });
            }
            if is(batches.without_labels) {
                without_labels(sample);
            }
        })
    }

    /// Trains alone and in the layout.
    fn check(self) {
        assert_eq!(self.errors(), [""; 0]);
        let (alone, laid_out) = (self.alone(), self.laid_out());
        let samples = self.samples(&alone);
        let expected = train(&alone, &samples, ONE, STEPS);
        let Trained { losses, norms, weights } = train(&laid_out, &samples, self.layout.sizes, STEPS);
        close("loss", &losses, &expected.losses, 1e-5);
        close("gradient norm", &norms, &expected.norms, 1e-4);
        close_tensors("weights", &weights, &expected.weights, 1e-4);
    }
}

#[test]
fn that_is_pinned_trains_as_one_rank_does() {
    for case in PINNED {
        within_limit(|| case.check());
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn that_is_let_through_trains_as_one_rank_does() {
    let soak = std::env::var("NEVA_SOAK_LAYOUTS").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: soak.unwrap_or(CASES),
        max_shrink_time: 300_000,
        max_local_rejects: u32::MAX,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = match soak {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let outcome = runner.run(&cases(), |case| {
        within_limit(move || case.check());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
