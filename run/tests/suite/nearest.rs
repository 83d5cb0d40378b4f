//! Refused layouts: following the help removes the error, and the check takes little time.

use std::time::{Duration, Instant};

use neva_run::{
    config::{ConfigError, Problems},
    load, resolve,
};
use proptest::{
    option,
    prelude::{Just, Strategy, prop_oneof},
    sample::select,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

const CASES: u32 = 2000;

/// Maximum time of the check of a layout.
const TIMEOUT: Duration = Duration::from_millis(100);

/// Settings that decide whether a layout is valid.
#[derive(Clone, Debug)]
struct Layout {
    nodes: u64,
    devices: u64,
    tensor: u64,
    context: u64,
    pipeline: u64,
    chunks: Option<u64>,
    first: Option<u64>,
    last: Option<u64>,
    sequence_parallel: bool,
    placement: &'static str,
    layers: u64,
    heads: u64,
    key_heads: u64,
    intermediate: u64,
    vision_heads: u64,
    seq_length: u64,
    global_batch_size: u64,
    micro_batch_size: u64,
}

impl Layout {
    fn sets(&self) -> Vec<String> {
        let or_null = |value: Option<u64>| value.map_or("null".to_owned(), |value| value.to_string());
        let strategy = "finetune.trainer.strategy";
        let text = "finetune.model.text_config";
        vec![
            format!("num_nodes={}", self.nodes),
            format!("num_gpus_per_node={}", self.devices),
            format!("{strategy}.tensor_model_parallel_size={}", self.tensor),
            format!("{strategy}.context_parallel_size={}", self.context),
            format!("{strategy}.pipeline_model_parallel_size={}", self.pipeline),
            format!("{strategy}.virtual_pipeline_model_parallel_size={}", or_null(self.chunks)),
            format!("{strategy}.num_layers_in_first_pipeline_stage={}", or_null(self.first)),
            format!("{strategy}.num_layers_in_last_pipeline_stage={}", or_null(self.last)),
            format!("{strategy}.sequence_parallel={}", self.sequence_parallel),
            format!("{strategy}.vision_placement={}", self.placement),
            format!("{text}.num_hidden_layers={}", self.layers),
            format!("{text}.num_attention_heads={}", self.heads),
            format!("{text}.num_key_value_heads={}", self.key_heads),
            format!("{text}.head_dim=8"),
            format!("{text}.intermediate_size={}", self.intermediate),
            format!("finetune.model.vision_config.num_attention_heads={}", self.vision_heads),
            format!("finetune.data.seq_length={}", self.seq_length),
            format!("finetune.data.global_batch_size={}", self.global_batch_size),
            format!("finetune.data.micro_batch_size={}", self.micro_batch_size),
        ]
    }

    /// Returns the errors of the layout, with their settings.
    fn errors(&self) -> Vec<(String, ConfigError)> {
        let error = resolve(load("neva_tiny").unwrap(), &self.sets()).err();
        let errors = error.as_ref().map_or(&[][..], Problems::errors);
        let setting = |error: &ConfigError| error.path.to_string().rsplit('.').next().unwrap_or_default().to_owned();
        errors.iter().map(|error| (setting(error), error.clone())).collect()
    }

    /// Returns the layouts that the help of an error suggests, and the settings that they must fix.
    fn offered(&self, setting: &str, help: &str) -> (Vec<Self>, Vec<&'static str>) {
        let with = |change: &dyn Fn(&mut Self)| {
            let mut other = self.clone();
            change(&mut other);
            other
        };
        let number = |mark: &str| {
            let rest = help.split_once(mark)?.1;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        };
        let fits = number("nearest that fits: ");
        let pipeline = vec![
            "pipeline_model_parallel_size",
            "virtual_pipeline_model_parallel_size",
            "num_layers_in_first_pipeline_stage",
            "num_layers_in_last_pipeline_stage",
        ];
        if let Some(stages) = number(" layers: ") {
            let chunks = number(" ranks of ").filter(|chunks| *chunks > 1);
            assert!(
                self.chunks.is_none_or(|chunks| chunks == 1) || help.contains("chunks each") || help.contains(" null"),
                "{help}"
            );
            return (vec![with(&|layout| (layout.pipeline, layout.chunks) = (stages, chunks))], pipeline);
        }
        match (setting, fits) {
            ("tensor_model_parallel_size", _) => {
                let tensor = fits.or_else(|| number(" ranks: ")).expect(help);
                (vec![with(&|layout| layout.tensor = tensor)], vec!["tensor_model_parallel_size"])
            }
            ("vision_placement", _) => {
                let tensor = number("tensor_model_parallel_size: ").expect(help);
                let mut offered = vec![with(&|layout| layout.tensor = tensor)];
                if help.contains("vision_placement: shared") {
                    offered.push(with(&|layout| layout.placement = "shared"));
                }
                (offered, vec!["vision_placement", "tensor_model_parallel_size"])
            }
            ("strategy", _) => {
                let devices = number("the nearest: ");
                assert!(devices.is_some() || help == "use smaller parallel sizes", "{help}");
                let offered = devices.map(|devices| with(&|layout| layout.devices = devices));
                (offered.into_iter().collect(), vec!["strategy", "devices"])
            }
            ("virtual_pipeline_model_parallel_size", _) => {
                let mut offered = vec![with(&|layout| layout.chunks = None)];
                let stages = number("set pipeline_model_parallel_size to ");
                offered.extend(stages.map(|stages| with(&|layout| layout.pipeline = stages)));
                (offered, pipeline)
            }
            ("num_layers_in_first_pipeline_stage", own) => {
                assert!(own.is_some() || help == "set it to null", "{help}");
                (vec![with(&|layout| layout.first = own)], pipeline)
            }
            ("num_layers_in_last_pipeline_stage", own) => {
                assert!(own.is_some() || help == "set it to null", "{help}");
                (vec![with(&|layout| layout.last = own)], pipeline)
            }
            ("seq_length", Some(length)) => (vec![with(&|layout| layout.seq_length = length)], vec!["seq_length"]),
            ("global_batch_size", Some(size)) => (vec![with(&|layout| layout.global_batch_size = size)], vec!["global_batch_size"]),
            ("micro_batch_size", _) => (vec![with(&|layout| layout.micro_batch_size = 1)], vec!["micro_batch_size"]),
            other => panic!("{other:?}: {help}"),
        }
    }
}

/// Draws layouts whose values come from `size`, which gets the usual maximum.
fn layouts<S: Strategy<Value = u64>>(size: impl Fn(u64) -> S) -> impl Strategy<Value = Layout> {
    let ranks = (size(2), size(12), size(6), size(4), size(9));
    let shares = (option::of(size(4)), option::weighted(0.3, size(9)), option::weighted(0.3, size(9)));
    let model = (size(12), size(12), size(6), size(60), size(8));
    let data = (size(200), size(60), size(6));
    let placement = select(vec!["shared", "duplicated", "cut"]);
    (ranks, shares, model, data, placement, proptest::bool::ANY).prop_map(|(ranks, shares, model, data, placement, sequence_parallel)| {
        let (nodes, devices, tensor, context, pipeline) = ranks;
        let (chunks, first, last) = shares;
        let (layers, heads, key_heads, intermediate, vision_heads) = model;
        let (seq_length, global_batch_size, micro_batch_size) = data;
        Layout {
            nodes,
            devices,
            tensor,
            context,
            pipeline,
            chunks,
            first,
            last,
            sequence_parallel,
            placement,
            layers,
            heads,
            key_heads,
            intermediate,
            vision_heads,
            seq_length,
            global_batch_size,
            micro_batch_size,
        }
    })
}

fn check(layouts: &impl Strategy<Value = Layout>, test: impl Fn(&Layout)) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(layouts, |layout| {
        test(&layout);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// Checks that every suggested layout removes the error.
fn helps(layout: &Layout) {
    let errors = layout.errors();
    let whole = errors.iter().all(|(setting, _)| setting != "strategy");
    for (setting, error) in errors {
        let Some(help) = error.problem.help() else { continue };
        let (offered, mut settings) = layout.offered(&setting, &help);
        // A number of ranks that fits whole model replicas still does.
        settings.extend(whole.then_some("strategy"));
        for other in offered {
            let again = other.errors().into_iter().find(|(setting, _)| settings.contains(&setting.as_str()));
            assert!(again.is_none(), "{error} / {help}: then {}", again.unwrap().1);
        }
    }
}

#[test]
fn suggested_layouts_are_accepted() {
    check(&layouts(|most| 1..=most), helps);
}

#[test]
fn huge_sizes_are_checked_quickly() {
    let odd = |most| prop_oneof![3 => 0..=most, 1 => select(vec![u64::from(u32::MAX), 1 << 31, 1_000_000_000, 999_999_937, 1 << 16])];
    let wide = |most| prop_oneof![6 => odd(most), 1 => Just(u64::MAX)];
    let in_time = |layout: &Layout| {
        // A busy machine may be slow once.
        let quick = (0..5).any(|_| {
            let started = Instant::now();
            layout.errors();
            started.elapsed() < TIMEOUT
        });
        assert!(quick, "not checked within {TIMEOUT:?}");
    };
    check(&layouts(odd), in_time);
    check(&layouts(wide), in_time);
}
