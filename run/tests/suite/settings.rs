//! Settings of training, saving and resuming as ranks read them.

use neva_run::{
    config::{self, Origin, Source},
    load, resolve,
};
use neva_schemas::{Data, LossNormalization, Period, Run};
use serde_json::{Value, json};

use crate::recipe_file;

fn resolved(text: &str, sets: &[&str]) -> Run {
    let node = config::parse(&Source::new("run.yaml", text)).expect("YAML");
    resolve(node, sets)
        .unwrap_or_else(|error| panic!("{}", config::render(&error, false)))
        .run
}

fn tiny(set: &str) -> Run {
    resolved("_factory_: neva_tiny", &[set])
}

/// Checks values at JSON pointers of the graph, as ranks read it.
#[track_caller]
fn check(set: &str, expect: &[(&str, Value)]) {
    let graph = serde_json::to_value(tiny(set).finetune).unwrap();
    for (pointer, value) in expect {
        assert_eq!(graph.pointer(pointer), Some(value), "{set} {pointer}");
    }
}

#[test]
fn settings_reach_the_ranks() {
    check(
        "finetune.optim={_target_: optim.Lion, lr: 1e-5}",
        &[
            ("/optim/optim.Lion/lr", json!(1e-5)),
            ("/optim/optim.Lion/betas", json!([0.9, 0.99])),
            ("/optim/optim.Lion/weight_decay", json!(1.0)),
        ],
    );
    check(
        "finetune.optim={_target_: optim.SGD, nesterov: true}",
        &[
            ("/optim/optim.SGD/momentum", json!(0.9)),
            ("/optim/optim.SGD/nesterov", json!(true)),
            ("/optim/optim.SGD/lr_scheduler/CosineAnnealing/warmup_steps", json!(150)),
        ],
    );
    check(
        "finetune.optim.mm_projector_lr=2e-5",
        &[("/optim/optim.AdamW/mm_projector_lr", json!(2e-5))],
    );
    check(
        "finetune.optim.param_groups=[{params: [\"*lora_B*\"], lr: 1e-3}, {params: [\"*.bias\"], weight_decay: 0}]",
        &[(
            "/optim/optim.AdamW/param_groups",
            json!([
                {"params": ["*lora_B*"], "lr": 1e-3, "weight_decay": null},
                {"params": ["*.bias"], "lr": null, "weight_decay": 0.0},
            ]),
        )],
    );
    for (scheduler, expect) in [
        (
            "{_target_: CosineAnnealing, min_lr: 1e-6, constant_steps: 3}",
            json!({"CosineAnnealing": {"warmup_steps": 0, "warmup_ratio": null, "constant_steps": 3, "min_lr": 1e-6}}),
        ),
        (
            "{_target_: CosineWithWarmup, warmup_ratio: 0.03}",
            json!({"CosineWithWarmup": {"warmup_steps": 0, "warmup_ratio": 0.03}}),
        ),
        (
            "{_target_: LinearWithWarmup, warmup_steps: 5}",
            json!({"LinearWithWarmup": {"warmup_steps": 5, "warmup_ratio": null}}),
        ),
        (
            "{_target_: WSD, decay_steps: 9, decay_type: 1-sqrt}",
            json!({"WSD": {"warmup_steps": 0, "warmup_ratio": null, "decay_steps": 9, "warmup_type": "linear", "decay_type": "1-sqrt", "min_lr_ratio": 0.0}}),
        ),
        ("Constant", json!({"Constant": {"warmup_steps": 0, "warmup_ratio": null}})),
    ] {
        check(
            &format!("finetune.optim.lr_scheduler={scheduler}"),
            &[("/optim/optim.AdamW/lr_scheduler", expect)],
        );
    }
    check(
        "finetune.trainer|={max_steps: null, max_epochs: 2}",
        &[("/trainer/max_steps", Value::Null), ("/trainer/max_epochs", json!(2))],
    );
    check(
        "finetune.resume|={resume_if_exists: true, resume_from_directory: runs/a}",
        &[("/resume/resume_from_directory", json!("runs/a"))],
    );
    check(
        "finetune.log|={tensorboard: false, mlflow: {tracking_uri: \"http://host:5000\", tags: {a: 1.10}}}",
        &[
            ("/log/tensorboard", json!(false)),
            (
                "/log/mlflow",
                json!({"tracking_uri": "http://host:5000", "experiment_name": "neva-run", "run_name": null, "tags": {"a": "1.10"}}),
            ),
        ],
    );
}

/// YAML 1.1 would read `00:10:00` as the number 600.
#[test]
fn durations_are_read_as_typed() {
    for (text, seconds, printed) in [
        ("15m", 900, "15m"),
        ("90s", 90, "1m30s"),
        ("\"12h\"", 43_200, "12h"),
        ("00:10:00", 600, "10m"),
        ("00:12:00:00", 43_200, "12h"),
        ("\"1:00:00:00\"", 86_400, "1d"),
        ("190:20:30", 685_230, "7d22h20m30s"),
    ] {
        let text = format!(
            "_factory_: neva_tiny\nfinetune:\n  trainer:\n    max_time: {text}\n  log: {{ckpt: {{train_time_interval: {text}}}}}\n"
        );
        let run = resolved(&text, &[]);
        let expect = Some(Period::seconds(seconds));
        assert_eq!(
            (run.finetune.trainer.max_time, run.finetune.log.ckpt.train_time_interval),
            (expect, expect),
            "{text}"
        );
        let yaml = config::to_yaml_string(&config::to_node(&run, Origin::recipe("neva_tiny")).unwrap());
        // In quotes if it could have another meaning.
        assert!(yaml.replace('"', "").contains(&format!("max_time: {printed}\n")), "{yaml}");
        assert_eq!(resolved(&yaml, &[]), run, "{yaml}");
    }
    assert_eq!(
        tiny("finetune.log.ckpt.train_time_interval=null")
            .finetune
            .log
            .ckpt
            .train_time_interval,
        None
    );
}

pub(crate) const CALLBACKS: &str = "\
_factory_: neva_tiny
finetune:
  trainer:
    callbacks:
      - _target_: my_crate::Heartbeat
        every: 5
        to: {hosts: [a, b], port: 080}
      - {_target_: my_crate::Silent}
      - _target_: nl.EarlyStopping
        patience: 2
";

#[test]
fn custom_callbacks_are_forwarded_as_written() {
    let run = resolved(CALLBACKS, &[]);
    let callbacks = serde_json::to_value(&run.finetune.trainer.callbacks).unwrap();
    assert_eq!(
        callbacks,
        json!([
            {"Custom": {"_target_": "my_crate::Heartbeat", "every": 5, "to": {"hosts": ["a", "b"], "port": 80}}},
            {"Custom": {"_target_": "my_crate::Silent"}},
            {"nl.EarlyStopping": {"monitor": "val_loss", "mode": "min", "patience": 2, "min_delta": 0.0}},
        ])
    );
    assert_eq!(
        serde_json::from_value::<Vec<_>>(callbacks).ok().as_ref(),
        Some(&run.finetune.trainer.callbacks)
    );

    let node = config::to_node(&run, Origin::recipe("neva_tiny")).unwrap();
    let yaml = config::to_yaml_string(&node);
    let (_, shown) = yaml.split_once("callbacks:\n").unwrap();
    let (shown, _) = shown.split_once("    seed:").unwrap();
    insta::assert_snapshot!(shown, @r#"
    - _target_: "my_crate::Heartbeat"
      every: 5
      to:
        hosts: [a, b]
        port: 80
    - _target_: "my_crate::Silent"
    - _target_: nl.EarlyStopping
      monitor: val_loss
      mode: min
      patience: 2
      min_delta: 0.0
    "#);
    assert_eq!(resolved(&yaml, &[]), run, "{yaml}");
    assert_eq!(
        config::to_json(&node)["finetune"]["trainer"]["callbacks"][0],
        json!({"_target_": "my_crate::Heartbeat", "every": 5, "to": {"hosts": ["a", "b"], "port": 80}})
    );
    assert_eq!(
        resolved("_factory_: neva_tiny", &["finetune.trainer.callbacks+={_target_: \"a::B\"}"])
            .finetune
            .trainer
            .callbacks
            .len(),
        1
    );
}

#[test]
fn nemo_compat_reaches_the_data_and_an_override_still_wins() {
    let with_data = |rest: &str| {
        format!(
            "_factory_: llava15_7b\nfinetune: {{data: {{_target_: vlm.NevaPreloadedDataModule, paths: a.json, global_batch_size: 32, {rest}}}}}"
        )
    };
    let add_bos = |run: &Run| match &run.finetune.data {
        Data::Preloaded(data) => data.add_bos,
        Data::Mock(_) | Data::Energon(_) | Data::Custom(_) => None,
    };
    for (rest, sets, expect) in [
        ("", vec![], None),
        ("add_bos: null", vec![], None),
        ("", vec!["nemo_compat=true"], Some(false)),
        ("add_bos: null", vec!["nemo_compat=true"], Some(false)),
        ("add_bos: true", vec!["nemo_compat=true"], Some(true)),
        ("add_bos: false", vec![], Some(false)),
        ("", vec!["nemo_compat=true", "finetune.data.add_bos=true"], Some(true)),
    ] {
        assert_eq!(add_bos(&resolved(&with_data(rest), &sets)), expect, "{rest} {sets:?}");
    }
    let run = resolved(
        "_factory_: llava15_7b",
        &["finetune.model.freeze_vision_model=false", "nemo_compat=true"],
    );
    let model = run.finetune.model.as_llava().unwrap();
    assert_eq!(
        (run.nemo_compat, model.freeze_vision_model, run.finetune.trainer.loss_normalization),
        (true, false, LossNormalization::Microbatch)
    );
    let file = resolve(load(&recipe_file("llava15_7b.yaml")).unwrap(), &["nemo_compat=true"])
        .unwrap()
        .run;
    assert!(
        file.finetune.model.as_llava().unwrap().freeze_vision_model,
        "the file's own line is an argument like any other"
    );
}
