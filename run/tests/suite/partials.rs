//! `_partial_`: descriptions that a factory completes, for all uses in NeMo-Run.

use neva_run::{
    ResolveOptions, Resolved,
    config::{self, Bound, Factories, Partial, Problems, Source},
    resolve_with,
};
use neva_schemas::{CallbackConfig, Data, LrScheduler, Optim};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An optimizer whose schedule decays over a fraction of the run's steps.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decaying {
    optim: Partial<Bound<Optim>>,
    lr_scheduler: Partial<Bound<LrScheduler>>,
    max_steps: u64,
    part: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForRanks {
    data: Partial<Bound<Data>>,
    ranks: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patient {
    callback: Partial<Bound<CallbackConfig>>,
    patience: u64,
}

impl Decaying {
    fn optim(self) -> Result<Optim, Problems> {
        let decay_steps = (self.max_steps as f64 * self.part) as u64;
        let schedule = self.lr_scheduler.complete(&json!({ "decay_steps": decay_steps }))?;
        #[derive(Serialize)]
        struct Late {
            lr_scheduler: LrScheduler,
        }
        self.optim.complete(&Late { lr_scheduler: schedule })
    }
}

fn options() -> ResolveOptions {
    let factories = Factories::builtin()
        .try_with("Optim", "decaying", Decaying::optim)
        .try_with("Data", "for_ranks", |for_ranks: ForRanks| {
            let late = json!({ "global_batch_size": 4 * for_ranks.ranks, "micro_batch_size": 4 });
            for_ranks.data.complete(&late)
        })
        .try_with("Callback", "patient", |patient: Patient| {
            patient.callback.complete(&json!({ "patience": patient.patience }))
        });
    ResolveOptions {
        factories,
        ..ResolveOptions::default()
    }
}

fn run(file: &str, sets: &[&str]) -> Result<Resolved, Problems> {
    let node = config::parse(&Source::new("run.yaml", format!("_factory_: neva_tiny\n{file}"))).unwrap();
    resolve_with(node, sets, &options())
}

/// Returns the graph of a run, as ranks read it.
#[track_caller]
fn graph(file: &str, sets: &[&str]) -> Value {
    let resolved = run(file, sets).unwrap_or_else(|error| panic!("{}", config::render(&error, false)));
    serde_json::to_value(resolved.run.finetune).unwrap()
}

const FILE: &str = "\
finetune:
  optim:
    _factory_: decaying
    optim: {_target_: optim.AdamW, _partial_: true, lr: 3e-3}
    lr_scheduler:
      _target_: WSD
      _partial_: true
      warmup_steps: 3
    max_steps: ${finetune.trainer.max_steps}
    part: 0.2
  data:
    _factory_: for_ranks
    data: {_target_: vlm.MockDataModule, _partial_: true, seq_length: 96}
    ranks: ${num_gpus_per_node}
  trainer:
    max_steps: 50
    callbacks:
      - {_factory_: patient, callback: {_target_: nl.EarlyStopping, _partial_: true, min_delta: 0.5}, patience: 7}
";

#[test]
fn a_factory_completes_schedule_optimizer_data_and_callback() {
    for (sets, decay_steps, batch) in [
        (&[][..], 10, 4),
        (&["finetune.trainer.max_steps=100", "num_gpus_per_node=2"][..], 20, 8),
    ] {
        let graph = graph(FILE, sets);
        let values = [
            ("/optim/optim.AdamW/lr", json!(3e-3)),
            ("/optim/optim.AdamW/lr_scheduler/WSD/warmup_steps", json!(3)),
            ("/optim/optim.AdamW/lr_scheduler/WSD/decay_steps", json!(decay_steps)),
            ("/data/vlm.MockDataModule/seq_length", json!(96)),
            ("/data/vlm.MockDataModule/global_batch_size", json!(batch)),
            ("/trainer/callbacks/0/nl.EarlyStopping/min_delta", json!(0.5)),
            ("/trainer/callbacks/0/nl.EarlyStopping/patience", json!(7)),
        ];
        for (pointer, value) in values {
            assert_eq!(graph.pointer(pointer), Some(&value), "{sets:?} {pointer}");
        }
    }
}

#[test]
fn a_call_and_a_bare_name_are_partial_where_a_partial_is_expected() {
    for schedule in ["WSD(warmup_steps=3)", "WSD"] {
        let set = format!("finetune.optim=decaying(optim=optim.Lion(lr=1e-4), lr_scheduler={schedule}, max_steps=100, part=0.5)");
        let graph = graph("", &[&set]);
        let wsd = graph.pointer("/optim/optim.Lion/lr_scheduler/WSD").unwrap();
        assert_eq!(wsd["decay_steps"], json!(50));
        assert_eq!(wsd["warmup_steps"], json!(if schedule == "WSD" { 0 } else { 3 }));
    }
}

/// Returns the problems, each with its origin.
fn report(file: &str) -> String {
    let problems = run(file, &[]).expect_err(file);
    let line = |error: &config::ConfigError| match &error.origin {
        Some(origin) => format!("{origin}: {error}\n"),
        None => format!("{error}\n"),
    };
    problems.errors().iter().map(line).collect()
}

#[test]
fn given_arguments_are_checked_at_their_origin() {
    let with = |from: &str, to: &str| {
        assert!(FILE.contains(from));
        report(&FILE.replace(from, to))
    };
    for (from, to, place, message) in [
        (
            "      warmup_steps: 3",
            "      warmup_step: 3",
            "run.yaml:9:7",
            "unknown field `warmup_step`",
        ),
        (
            "      warmup_steps: 3",
            "      warmup_steps: many",
            "run.yaml:9:21",
            "expected an integer, found `many`",
        ),
        ("_target_: WSD", "_target_: WSDD", "run.yaml:7:17", "unknown name `WSDD`"),
        (
            "_partial_: true, lr: 3e-3",
            "_partial_: false, lr: 3e-3",
            "run.yaml:5:47",
            "called later, not built",
        ),
        (
            "      warmup_steps: 3",
            "      decay_steps: 3",
            "run.yaml",
            "`decay_steps` is given here",
        ),
        (
            "min_delta: 0.5",
            "min_delta: 0.5, patience: 3",
            "run.yaml",
            "`patience` is given here",
        ),
    ] {
        let reported = with(from, to);
        assert!(reported.contains(place) && reported.contains(message), "{to}: {reported}");
    }
    // The factory reports arguments that are still missing.
    let missing = report(&FILE.replace("_factory_: decaying", "_factory_: unfinished"));
    assert!(missing.contains("unknown name `unfinished`"), "{missing}");
}

#[test]
fn a_partial_from_rust_round_trips() {
    let partial = |known: Value| Partial::new(Bound::<LrScheduler>::new(&known).unwrap());
    let schedule = partial(json!({ "_target_": "WSD", "warmup_steps": 5 }));
    let yaml = schedule.to_yaml().unwrap();
    assert_eq!(yaml, "_target_: WSD\n_partial_: true\nwarmup_steps: 5\n");
    let read = Partial::read(config::parse(&Source::new("partial.yaml", yaml)).unwrap(), &Factories::builtin()).unwrap();
    assert_eq!(schedule, read);
    let expect = LrScheduler::Wsd {
        warmup_steps: 5,
        warmup_ratio: None,
        decay_steps: 9,
        warmup_type: neva_schemas::RampType::Linear,
        decay_type: neva_schemas::RampType::Cosine,
        min_lr_ratio: 0.0,
    };
    for schedule in [schedule, read] {
        assert_eq!(schedule.complete(&json!({ "decay_steps": 9 })).unwrap(), expect);
        let missing = schedule.complete(&json!({})).unwrap_err();
        assert!(missing.to_string().contains("decay_steps"), "{missing}");
        let twice = schedule.complete(&json!({ "warmup_steps": 1, "decay_steps": 9 })).unwrap_err();
        assert!(twice.to_string().contains("`warmup_steps` is given here"), "{twice}");
    }
    // Other serde formats read it too.
    let of_json: Bound<LrScheduler> = serde_json::from_value(json!({ "_target_": "WSD", "warmup_steps": 5 })).unwrap();
    assert_eq!(of_json.complete(&json!({ "decay_steps": 9 })).unwrap(), expect);
    for wrong in [
        json!({ "_target_": "WSD", "warmup": 5 }),
        json!({ "_target_": "WSD", "warmup_steps": "many" }),
        json!({ "warmup_steps": 5 }),
    ] {
        assert!(Bound::<LrScheduler>::new(&wrong).is_err(), "{wrong}");
    }
}
