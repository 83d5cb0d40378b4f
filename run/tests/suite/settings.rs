//! What is written of training, saving and resuming: how it is understood, and what is said of mistakes.

use neva_run::{
    config::{self, Origin, Problem, Source},
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

/// Values at JSON pointers of the graph, as ranks read it.
#[track_caller]
fn check(set: &str, expect: &[(&str, Value)]) {
    let graph = serde_json::to_value(tiny(set).finetune).unwrap();
    for (pointer, value) in expect {
        assert_eq!(graph.pointer(pointer), Some(value), "{set} {pointer}");
    }
}

#[test]
fn what_is_set_reaches_the_ranks() {
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

/// YAML 1.1 would read `00:10:00` as the number 600 and `1_0m` as it stands.
#[test]
fn lengths_of_time_are_read_as_they_are_typed() {
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
        // In quotes where it could be taken for something else.
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

const CALLBACKS: &str = "\
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
fn own_callbacks_are_handed_on_as_they_are_written() {
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
fn a_misspelt_callback_is_underlined_and_the_right_one_offered() {
    let text = CALLBACKS.replace("nl.EarlyStopping", "nl.EarlyStoping");
    let node = config::parse(&Source::new("run.yaml", text)).unwrap();
    let error = resolve(node, &[""; 0]).unwrap_err();
    insta::assert_snapshot!(config::render(&error, false), @r#"
     × `finetune.trainer.callbacks[2]._target_`: unknown name `nl.EarlyStoping`
       ╭─[run.yaml:9:19]
     8 │       - {_target_: my_crate::Silent}
     9 │       - _target_: nl.EarlyStoping
       ·                   ───────┬───────
       ·                          ╰── unknown name
    10 │         patience: 2
       ╰────
     help: did you mean `nl.EarlyStopping`? The names here are `nl.EarlyStopping`, `my_crate::MyType`
    "#);
}

#[test]
fn a_wrong_length_of_time_is_underlined() {
    let text = "_factory_: neva_tiny\nfinetune:\n  trainer: {max_time: 1.5h}\n";
    let node = config::parse(&Source::new("run.yaml", text)).unwrap();
    let error = resolve(node, &[""; 0]).unwrap_err();
    insta::assert_snapshot!(config::render(&error, false), @r#"
     × `finetune.trainer.max_time`: `1.5h` is not a length of time
      ╭─[run.yaml:3:23]
    2 │ finetune:
    3 │   trainer: {max_time: 1.5h}
      ·                       ──┬─
      ·                         ╰── here
      ╰────
     help: write 90s, 15m, 12h, 1h30m, HH:MM:SS or DD:HH:MM:SS
    "#);
}

/// All that is wrong with `neva_tiny` after one edit: path, message and help.
fn mistakes(set: &str) -> Vec<String> {
    let node = load("neva_tiny").unwrap();
    let problems = resolve(node, &[set]).expect_err(set);
    let told = problems.errors().iter().map(|error| match error.problem.help() {
        Some(help) => format!("{error} / {help}"),
        None => error.to_string(),
    });
    told.collect()
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let preloaded = |rest: &str| format!("finetune.data={{_target_: vlm.NevaPreloadedDataModule, paths: a.json, {rest}}}");
    let data = [
        preloaded("val_split: 1"),
        preloaded("val_split: -0.1"),
        preloaded("val_split: 0.1, val_paths: b.json"),
        preloaded("val_split: .nan"),
    ];
    let mut sets = vec![
        "finetune.optim={_target_: optim.Adam}",
        "finetune.optim={_target_: optim.SGD, betas: [0.9, 0.9]}",
        "finetune.optim={_target_: optim.SGD, momentum: 0, nesterov: true}",
        "finetune.optim={_target_: optim.SGD, momentum: 1}",
        "finetune.optim={_target_: optim.Lion, betas: [0.9, 1.0]}",
        "finetune.optim.mm_projector_lr=-1",
        "finetune.optim.param_groups=[{lr: 1}]",
        "finetune.optim.param_groups=[{params: []}, {params: [a], lr: -1, weight_decay: -1}]",
        "finetune.optim.lr_scheduler|={warmup_steps: 5, warmup_ratio: 0.1}",
        "finetune.optim.lr_scheduler={_target_: LinearWithWarmup, warmup_ratio: 1.5}",
        "finetune.optim.lr_scheduler={_target_: CosineWithWarmup, min_lr: 0}",
        "finetune.optim.lr_scheduler={_target_: WSD}",
        "finetune.optim.lr_scheduler={_target_: WSD, decay_steps: 5, min_lr_ratio: 2}",
        "finetune.optim.lr_scheduler={_target_: WSD, decay_steps: 5, decay_type: sqrt}",
        "finetune.optim.lr_scheduler.min_lr=-1",
        "finetune.optim.lr_scheduler.min_lr=1",
        "finetune.trainer.max_steps=null",
        "finetune.trainer.max_epochs=0",
        "finetune.trainer.val_check_interval=0",
        "finetune.trainer.max_time=0s",
        "finetune.trainer.max_time=15",
        "finetune.trainer.loss_spike_threshold=0",
        "finetune.trainer.nan_policy=ignore",
        "finetune.trainer.callbacks=[{_target_: nl.EarlyStopping, monitor: val_los, patience: 0, min_delta: -1}]",
        "finetune.trainer.callbacks=[{_target_: Custom}]",
        "finetune.trainer.callbacks=[{every: 5}]",
        "finetune.trainer.callbacks=[\"my_crate::Silent\"]",
        "finetune.log.ckpt.save_top_k=-2",
        "finetune.log.ckpt.monitor=val_los",
        "finetune.log.ckpt.mode=best",
        "finetune.log.ckpt.train_time_interval=0s",
        "finetune.log.ckpt|={save_last: false, save_top_k: 0}",
        "finetune.log.mlflow={tracking_uri: \"ftp://host\"}",
        "finetune.log.mlflow={tracking_uri: \"http:///path\"}",
        "finetune.log.mlflow={tracking_uri: \"https://host\", experiment_name: \"\"}",
        "finetune.log.mlflow={}",
        "finetune.resume.resume_from_directory=runs/a",
        "finetune.resume.restore_config={path: a, load_model_state: false, load_optim_state: true}",
        "nemo_compat=yes",
    ];
    sets.extend(data.iter().map(String::as_str));
    let told: Vec<_> = sets
        .iter()
        .map(|set| format!("{set}\n    {}\n", mistakes(set).join("\n    ")))
        .collect();
    insta::assert_snapshot!(told.concat(), @r#"
    finetune.optim={_target_: optim.Adam}
        `finetune.optim._target_`: unknown name `optim.Adam` / did you mean `optim.AdamW`? The names here are `optim.AdamW`, `optim.SGD`, `optim.Lion`
    finetune.optim={_target_: optim.SGD, betas: [0.9, 0.9]}
        `finetune.optim.betas`: unknown field `betas` / the fields here are `lr`, `weight_decay`, `momentum`, `nesterov`, `clip_grad`, `mm_projector_lr`, `param_groups`, `lr_scheduler`
    finetune.optim={_target_: optim.SGD, momentum: 0, nesterov: true}
        `finetune.optim.nesterov`: Nesterov's momentum needs a momentum above 0 / set `momentum`, for example to 0.9
    finetune.optim={_target_: optim.SGD, momentum: 1}
        `finetune.optim.momentum`: `momentum` is 1.0, it must be at least 0 and below 1
    finetune.optim={_target_: optim.Lion, betas: [0.9, 1.0]}
        `finetune.optim.betas[1]`: `betas[1]` is 1.0, it must be at least 0 and below 1
    finetune.optim.mm_projector_lr=-1
        `finetune.optim.mm_projector_lr`: `mm_projector_lr` is -1.0, it must be at least 0 and finite
    finetune.optim.param_groups=[{lr: 1}]
        `finetune.optim.param_groups[0].params`: required, but not given
    finetune.optim.param_groups=[{params: []}, {params: [a], lr: -1, weight_decay: -1}]
        `finetune.optim.param_groups[0].params`: `params` is empty: the group names nothing
        `finetune.optim.param_groups[1].weight_decay`: `weight_decay` is -1.0, it must be at least 0 and finite
        `finetune.optim.param_groups[1].lr`: `lr` is -1.0, it must be at least 0 and finite
    finetune.optim.lr_scheduler|={warmup_steps: 5, warmup_ratio: 0.1}
        `finetune.optim.lr_scheduler.warmup_ratio`: both `warmup_steps` 5 and `warmup_ratio` 0.1 are set / set `warmup_steps` to 0, or `warmup_ratio` to null
    finetune.optim.lr_scheduler={_target_: LinearWithWarmup, warmup_ratio: 1.5}
        `finetune.optim.lr_scheduler.warmup_ratio`: `warmup_ratio` is 1.5, it must be between 0 and 1
    finetune.optim.lr_scheduler={_target_: CosineWithWarmup, min_lr: 0}
        `finetune.optim.lr_scheduler.min_lr`: unknown field `min_lr` / the fields here are `warmup_steps`, `warmup_ratio`
    finetune.optim.lr_scheduler={_target_: WSD}
        `finetune.optim.lr_scheduler.decay_steps`: required, but not given
    finetune.optim.lr_scheduler={_target_: WSD, decay_steps: 5, min_lr_ratio: 2}
        `finetune.optim.lr_scheduler.min_lr_ratio`: `min_lr_ratio` is 2.0, it must be between 0 and 1
    finetune.optim.lr_scheduler={_target_: WSD, decay_steps: 5, decay_type: sqrt}
        `finetune.optim.lr_scheduler.decay_type`: unknown name `sqrt` / did you mean `1-sqrt`? The names here are `linear`, `cosine`, `1-sqrt`
    finetune.optim.lr_scheduler.min_lr=-1
        `finetune.optim.lr_scheduler.min_lr`: `min_lr` is -1.0, it must be at least 0 and finite
    finetune.optim.lr_scheduler.min_lr=1
        `finetune.optim.lr`: the learning rate 0.002 is lower than the schedule's minimum 1.0 (set by recipe neva_tiny) / raise it, or lower `lr_scheduler.min_lr`
    finetune.trainer.max_steps=null
        `finetune.trainer.max_steps`: neither `max_steps` nor `max_epochs` says when the run ends / set one of them; the learning rate's schedule needs it
    finetune.trainer.max_epochs=0
        `finetune.trainer.max_epochs`: `max_epochs` is 0, it must be at least 1
    finetune.trainer.val_check_interval=0
        `finetune.trainer.val_check_interval`: `val_check_interval` is 0, it must be at least 1
    finetune.trainer.max_time=0s
        `finetune.trainer.max_time`: `max_time` is 0s, it must be at least 1s / null switches it off
    finetune.trainer.max_time=15
        `finetune.trainer.max_time`: `15` is not a length of time / write 90s, 15m, 12h, 1h30m, HH:MM:SS or DD:HH:MM:SS
    finetune.trainer.loss_spike_threshold=0
        `finetune.trainer.loss_spike_threshold`: `loss_spike_threshold` is 0.0, it must be above 0 and finite / use 6.0, or null to report no spikes
    finetune.trainer.nan_policy=ignore
        `finetune.trainer.nan_policy`: unknown name `ignore` / the names here are `stop`, `skip`
    finetune.trainer.callbacks=[{_target_: nl.EarlyStopping, monitor: val_los, patience: 0, min_delta: -1}]
        `finetune.trainer.callbacks[0].monitor`: there is no metric "val_los" / metrics are val_loss, reduced_train_loss, grad_norm
        `finetune.trainer.callbacks[0].patience`: `patience` is 0, it must be at least 1
        `finetune.trainer.callbacks[0].min_delta`: `min_delta` is -1.0, it must be at least 0 and finite
    finetune.trainer.callbacks=[{_target_: Custom}]
        `finetune.trainer.callbacks[0]._target_`: unknown name `Custom` / the names here are `nl.EarlyStopping`, `my_crate::MyType`
    finetune.trainer.callbacks=[{every: 5}]
        `finetune.trainer.callbacks[0]`: `_target_` is missing / add `_target_:` with one of `nl.EarlyStopping`, `my_crate::MyType`
    finetune.trainer.callbacks=["my_crate::Silent"]
        `finetune.trainer.callbacks[0]`: expected a map, found the text "my_crate::Silent" / write `{_target_: "my_crate::Silent"}`
    finetune.log.ckpt.save_top_k=-2
        `finetune.log.ckpt.save_top_k`: `save_top_k` is -2, it must be at least -1 / -1 keeps all checkpoints, 0 only the last
    finetune.log.ckpt.monitor=val_los
        `finetune.log.ckpt.monitor`: there is no metric "val_los" / metrics are val_loss, reduced_train_loss, grad_norm
    finetune.log.ckpt.mode=best
        `finetune.log.ckpt.mode`: unknown name `best` / the names here are `min`, `max`
    finetune.log.ckpt.train_time_interval=0s
        `finetune.log.ckpt.train_time_interval`: `train_time_interval` is 0s, it must be at least 1s / null switches it off
    finetune.log.ckpt|={save_last: false, save_top_k: 0}
        `finetune.log.ckpt.save_last`: `save_last` is false and `save_top_k` is 0: no checkpoint would be kept / set one of them
    finetune.log.mlflow={tracking_uri: "ftp://host"}
        `finetune.log.mlflow.tracking_uri`: "ftp://host" is not the address of a server / write http://HOST:PORT or https://HOST
    finetune.log.mlflow={tracking_uri: "http:///path"}
        `finetune.log.mlflow.tracking_uri`: "http:///path" is not the address of a server / write http://HOST:PORT or https://HOST
    finetune.log.mlflow={tracking_uri: "https://host", experiment_name: ""}
        `finetune.log.mlflow.experiment_name`: `experiment_name` is empty
    finetune.log.mlflow={}
        `finetune.log.mlflow.tracking_uri`: required, but not given
    finetune.resume.resume_from_directory=runs/a
        `finetune.resume.resume_from_directory`: `resume_from_directory` is looked at only where `resume_if_exists` is true / --set finetune.resume.resume_if_exists=true
    finetune.resume.restore_config={path: a, load_model_state: false, load_optim_state: true}
        `finetune.resume.restore_config.load_optim_state`: moments belong to the weights that they were measured on: `load_optim_state` needs `load_model_state`
    nemo_compat=yes
        `nemo_compat`: expected `true` or `false`, found `yes` / write `true`, without quotes
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: 1}
        `finetune.data.val_split`: `val_split` is 1.0, it must be at least 0 and below 1 / 0.05 sets 5 % of the samples aside
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: -0.1}
        `finetune.data.val_split`: `val_split` is -0.1, it must be at least 0 and below 1 / 0.05 sets 5 % of the samples aside
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: 0.1, val_paths: b.json}
        `finetune.data.val_split`: `val_split` is 0.1, but `val_paths` names the validation data already / set `val_split` to 0, or `val_paths` to []
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: .nan}
        `finetune.data.val_split`: `val_split` is NaN, it must be at least 0 and below 1 / 0.05 sets 5 % of the samples aside
    "#);
}

/// Neither in the message nor in the lines that would show where it was written.
#[test]
fn a_secret_is_not_repeated() {
    let text = |uri: &str| format!("_factory_: neva_tiny\nname: a/b\nfinetune:\n  log:\n    mlflow:\n      tracking_uri: {uri}\n");
    for uri in [
        "http://me:hunter2@host",
        "https://hunter2@host:5000/path",
        "postgresql://me:hunter2@host/db",
        "me:hunter2@host",
        "HTTP://me:hunter/2@host",
    ] {
        let set = format!("finetune.log.mlflow.tracking_uri={uri}");
        for (text, sets) in [(text(uri), vec![]), (text("http://host"), vec![set.as_str()])] {
            let node = config::parse(&Source::new("run.yaml", text)).unwrap();
            let error = resolve(node, &sets).unwrap_err();
            let [only] = error.errors() else { panic!("{error:?}") };
            assert!(only.origin.is_none() && matches!(*only.problem, Problem::Invalid { .. }), "{uri}");
            let shown = config::render(&error, false);
            assert!(!shown.contains("hunter"), "{shown}");
            assert!(
                shown.contains("finetune.log.mlflow.tracking_uri") && shown.contains("MLFLOW_TRACKING_PASSWORD"),
                "{shown}"
            );
        }
    }
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
        Data::Mock(_) => None,
    };
    for (rest, sets, expect) in [
        ("", vec![], true),
        ("", vec!["nemo_compat=true"], false),
        ("add_bos: null", vec!["nemo_compat=true"], false),
        ("add_bos: true", vec!["nemo_compat=true"], true),
        ("add_bos: false", vec![], false),
        ("", vec!["nemo_compat=true", "finetune.data.add_bos=true"], true),
    ] {
        assert_eq!(add_bos(&resolved(&with_data(rest), &sets)), Some(expect), "{rest} {sets:?}");
    }
    let run = resolved(
        "_factory_: llava15_7b",
        &["finetune.model.freeze_vision_model=false", "nemo_compat=true"],
    );
    let model = run.finetune.model.llava();
    assert_eq!(
        (run.nemo_compat, model.freeze_vision_model, run.finetune.trainer.loss_normalization),
        (true, false, LossNormalization::Microbatch)
    );
    let file = resolve(load(&recipe_file("llava15_7b.yaml")).unwrap(), &["nemo_compat=true"])
        .unwrap()
        .run;
    assert!(
        file.finetune.model.llava().freeze_vision_model,
        "the file's own line is an argument like any other"
    );
}
