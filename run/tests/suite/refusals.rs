//! Reports of mistakes in the settings of training, saving and resuming.

use neva_run::{
    config::{self, ProblemKind, Source},
    load, resolve,
};

use crate::settings::CALLBACKS;

#[test]
fn a_misspelt_callback_is_underlined_and_corrected() {
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
fn an_invalid_duration_is_underlined() {
    let text = "_factory_: neva_tiny\nfinetune:\n  trainer: {max_time: 1.5h}\n";
    let node = config::parse(&Source::new("run.yaml", text)).unwrap();
    let error = resolve(node, &[""; 0]).unwrap_err();
    insta::assert_snapshot!(config::render(&error, false), @r#"
     × `finetune.trainer.max_time`: `1.5h` is not a duration
      ╭─[run.yaml:3:23]
    2 │ finetune:
    3 │   trainer: {max_time: 1.5h}
      ·                       ──┬─
      ·                         ╰── here
      ╰────
     help: write 90s, 15m, 12h, 1h30m, HH:MM:SS or DD:HH:MM:SS
    "#);
}

/// Returns all problems of `neva_tiny` after one override: path, message and help.
fn mistakes(set: &str) -> Vec<String> {
    let node = load("neva_tiny").unwrap();
    let problems = resolve(node, &[set]).expect_err(set);
    let reported = problems.errors().iter().map(|error| match error.problem.help() {
        Some(help) => format!("{error} / {help}"),
        None => error.to_string(),
    });
    reported.collect()
}

#[test]
fn invalid_settings_are_refused() {
    let preloaded = |rest: &str| format!("finetune.data={{_target_: vlm.NevaPreloadedDataModule, paths: a.json, {rest}}}");
    let data = [
        preloaded("val_split: 1"),
        preloaded("val_split: -0.1"),
        preloaded("val_split: 0.1, val_paths: b.json"),
        preloaded("val_split: .nan"),
        preloaded("weights: [0.5, 0.5]"),
        preloaded("weights: [-1]"),
        preloaded("weights: [.inf]"),
        preloaded("weights: [0]"),
        preloaded("weights: 1"),
        preloaded("on_error: ignore"),
        preloaded("max_skipped: 5"),
        preloaded("on_error: skip, max_skipped: -5"),
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
        "finetune.model.text_config.max_position_embeddings=40",
        "finetune.trainer.max_steps=null",
        "finetune.trainer.max_epochs=0",
        "finetune.trainer.val_check_interval=0",
        "finetune.trainer.max_time=0s",
        "finetune.trainer.max_time=15",
        "finetune.trainer.loss_spike_threshold=0",
        "finetune.trainer.profile_steps=0",
        "finetune.trainer.profile_steps=1000000",
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
        "nemo_compat=y",
    ];
    sets.extend(data.iter().map(String::as_str));
    let reported: Vec<_> = sets
        .iter()
        .map(|set| format!("{set}\n    {}\n", mistakes(set).join("\n    ")))
        .collect();
    insta::assert_snapshot!(reported.concat(), @r#"
    finetune.optim={_target_: optim.Adam}
        `finetune.optim._target_`: unknown name `optim.Adam` / did you mean `optim.AdamW`? The names here are `optim.AdamW`, `optim.SGD`, `optim.Lion`, `distributed_fused_adam_with_cosine_annealing`
    finetune.optim={_target_: optim.SGD, betas: [0.9, 0.9]}
        `finetune.optim.betas`: unknown field `betas` / the fields here are `lr`, `weight_decay`, `momentum`, `nesterov`, `clip_grad`, `mm_projector_lr`, `param_groups`, `lr_scheduler`
    finetune.optim={_target_: optim.SGD, momentum: 0, nesterov: true}
        `finetune.optim.nesterov`: `nesterov` needs a momentum above 0 / set `momentum`, for example to 0.9
    finetune.optim={_target_: optim.SGD, momentum: 1}
        `finetune.optim.momentum`: `momentum` is 1.0, it must be at least 0 and below 1
    finetune.optim={_target_: optim.Lion, betas: [0.9, 1.0]}
        `finetune.optim.betas[1]`: `betas[1]` is 1.0, it must be at least 0 and below 1
    finetune.optim.mm_projector_lr=-1
        `finetune.optim.mm_projector_lr`: `mm_projector_lr` is -1.0, it must be at least 0 and finite
    finetune.optim.param_groups=[{lr: 1}]
        `finetune.optim.param_groups[0].params`: required, but not given
    finetune.optim.param_groups=[{params: []}, {params: [a], lr: -1, weight_decay: -1}]
        `finetune.optim.param_groups[0].params`: `params` is empty: the group matches no parameter
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
    finetune.model.text_config.max_position_embeddings=40
        `finetune.data.seq_length`: `seq_length` 128 exceeds the 40 positions of the language model (set by recipe neva_tiny) / nearest that fits: 40; or raise finetune.model.text_config.max_position_embeddings if the model can take it
    finetune.trainer.max_steps=null
        `finetune.trainer.max_steps`: neither `max_steps` nor `max_epochs` is set / set one of them; the learning-rate schedule needs it
    finetune.trainer.max_epochs=0
        `finetune.trainer.max_epochs`: `max_epochs` is 0, it must be at least 1
    finetune.trainer.val_check_interval=0
        `finetune.trainer.val_check_interval`: `val_check_interval` is 0, it must be at least 1
    finetune.trainer.max_time=0s
        `finetune.trainer.max_time`: `max_time` is 0s, it must be at least 1s / null disables it
    finetune.trainer.max_time=15
        `finetune.trainer.max_time`: `15` is not a duration / write 90s, 15m, 12h, 1h30m, HH:MM:SS or DD:HH:MM:SS
    finetune.trainer.loss_spike_threshold=0
        `finetune.trainer.loss_spike_threshold`: `loss_spike_threshold` is 0.0, it must be above 0 and finite / use 6.0, or null to report no spikes
    finetune.trainer.profile_steps=0
        `finetune.trainer.profile_steps`: `profile_steps` is 0: a profile needs a step / use 10, as in `--profile 10`, or null to profile nothing
    finetune.trainer.profile_steps=1000000
        `finetune.trainer.profile_steps`: `profile_steps` is 1000000, but the run has 100 steps / use 10, as in `--profile 10`, or null to profile nothing
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
        `finetune.log.ckpt.train_time_interval`: `train_time_interval` is 0s, it must be at least 1s / null disables it
    finetune.log.ckpt|={save_last: false, save_top_k: 0}
        `finetune.log.ckpt.save_last`: `save_last` is false and `save_top_k` is 0: no checkpoint would be kept / set one of them
    finetune.log.mlflow={tracking_uri: "ftp://host"}
        `finetune.log.mlflow.tracking_uri`: "ftp://host" is not the URL of a server / write http://HOST:PORT or https://HOST
    finetune.log.mlflow={tracking_uri: "http:///path"}
        `finetune.log.mlflow.tracking_uri`: "http:///path" is not the URL of a server / write http://HOST:PORT or https://HOST
    finetune.log.mlflow={tracking_uri: "https://host", experiment_name: ""}
        `finetune.log.mlflow.experiment_name`: `experiment_name` is empty
    finetune.log.mlflow={}
        `finetune.log.mlflow.tracking_uri`: required, but not given
    finetune.resume.resume_from_directory=runs/a
        `finetune.resume.resume_from_directory`: `resume_from_directory` has no effect unless `resume_if_exists` is true / --set finetune.resume.resume_if_exists=true
    finetune.resume.restore_config={path: a, load_model_state: false, load_optim_state: true}
        `finetune.resume.restore_config.load_optim_state`: `load_optim_state` needs `load_model_state`: moments are only valid with their weights
    nemo_compat=y
        `nemo_compat`: expected `true` or `false`, found `y` / write `true`, without quotes
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: 1}
        `finetune.data.val_split`: `val_split` is 1.0, it must be at least 0 and below 1 / 0.05 uses 5 % of the samples for validation
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: -0.1}
        `finetune.data.val_split`: `val_split` is -0.1, it must be at least 0 and below 1 / 0.05 uses 5 % of the samples for validation
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: 0.1, val_paths: b.json}
        `finetune.data.val_split`: `val_split` is 0.1, but `val_paths` names the validation data already / set `val_split` to 0, or `val_paths` to []
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, val_split: .nan}
        `finetune.data.val_split`: `val_split` is NaN, it must be at least 0 and below 1 / 0.05 uses 5 % of the samples for validation
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, weights: [0.5, 0.5]}
        `finetune.data.weights`: 2 weight(s) for 1 path(s) / give each path one weight, in the same order
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, weights: [-1]}
        `finetune.data.weights[0]`: `-1.0` is not a weight: it must be 0 or more
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, weights: [.inf]}
        `finetune.data.weights[0]`: `inf` is not a weight: it must be 0 or more
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, weights: [0]}
        `finetune.data.weights`: all weights are 0 / give at least one path a weight above 0
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, weights: 1}
        `finetune.data.weights`: expected a list, found `1` / write a list of one item as `[1]`
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, on_error: ignore}
        `finetune.data.on_error`: unknown name `ignore` / the names here are `fail`, `skip`
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, max_skipped: 5}
        `finetune.data.max_skipped`: `max_skipped` has no effect with `on_error: fail` / set `on_error: skip`, or remove `max_skipped`
    finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: a.json, on_error: skip, max_skipped: -5}
        `finetune.data.max_skipped`: `-5` is out of range: expected 0 to 18446744073709551615
    "#);
}

/// Neither the message nor the quoted lines show it.
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
            assert!(
                only.origin.is_none() && matches!(*only.problem, ProblemKind::Invalid { .. }),
                "{uri}"
            );
            let shown = config::render(&error, false);
            assert!(!shown.contains("hunter"), "{shown}");
            assert!(
                shown.contains("finetune.log.mlflow.tracking_uri") && shown.contains("MLFLOW_TRACKING_PASSWORD"),
                "{shown}"
            );
        }
    }
}

/// Returns the problems of a layout of `neva_tiny`, whose rows have 128 positions.
fn misfits(sets: &[&str]) -> String {
    let problems = resolve(load("neva_tiny").unwrap(), sets).expect_err(&sets.join(" "));
    let reported = problems.errors().iter().map(|error| match error.problem.help() {
        Some(help) => format!("{error} / {help}"),
        None => error.to_string(),
    });
    format!("{}\n    {}\n", sets.join(" "), reported.collect::<Vec<_>>().join("\n    "))
}

#[test]
fn sequences_that_cannot_be_split_are_refused_with_the_nearest_length() {
    let strategy = |rest: &str| format!("finetune.trainer.strategy|={{{rest}}}");
    let three = strategy("context_parallel_size: 3");
    let both = strategy("context_parallel_size: 2, tensor_model_parallel_size: 2, sequence_parallel: true");
    let tensor = strategy("tensor_model_parallel_size: 2, sequence_parallel: true");
    let none = strategy("context_parallel_size: 0");
    let two = strategy("context_parallel_size: 2");
    let reported = [
        misfits(&["num_gpus_per_node=3", &three]),
        misfits(&["num_gpus_per_node=4", &both, "finetune.data.seq_length=100"]),
        misfits(&["num_gpus_per_node=2", &tensor, "finetune.data.seq_length=127"]),
        misfits(&["num_gpus_per_node=2", &two, "finetune.data.seq_length=3"]),
        misfits(&["finetune.data.seq_length=18"]),
        misfits(&["finetune.data|={use_packed_sequence: true, micro_batch_size: 4, seq_length: 70}"]),
        misfits(&["num_gpus_per_node=3", &two]),
        misfits(&["num_gpus_per_node=2", &none]),
    ];
    insta::assert_snapshot!(reported.concat(), @"
    num_gpus_per_node=3 finetune.trainer.strategy|={context_parallel_size: 3}
        `finetune.data.seq_length`: `seq_length` 128 cannot be cut over the ranks: it is not a multiple of 2 x context-parallel ranks = 2 x 3 = 6 (set by recipe neva_tiny) / nearest that fits: 126
    num_gpus_per_node=4 finetune.trainer.strategy|={context_parallel_size: 2, tensor_model_parallel_size: 2, sequence_parallel: true} finetune.data.seq_length=100
        `finetune.data.seq_length`: `seq_length` 100 cannot be cut over the ranks: it is not a multiple of 2 x context-parallel ranks x tensor-parallel ranks = 2 x 2 x 2 = 8 / nearest that fits: 96
    num_gpus_per_node=2 finetune.trainer.strategy|={tensor_model_parallel_size: 2, sequence_parallel: true} finetune.data.seq_length=127
        `finetune.data.seq_length`: `seq_length` 127 cannot be cut over the ranks: it is not a multiple of tensor-parallel ranks = 2 / nearest that fits: 126
    num_gpus_per_node=2 finetune.trainer.strategy|={context_parallel_size: 2} finetune.data.seq_length=3
        `finetune.data.seq_length`: `seq_length` 3 cannot be cut over the ranks: it is not a multiple of 2 x context-parallel ranks = 2 x 2 = 4 / nearest that fits: 20
    finetune.data.seq_length=18
        `finetune.data.seq_length`: `seq_length` 18 leaves no room for text next to one image of 16 positions / nearest that fits: 19
    finetune.data|={use_packed_sequence: true, micro_batch_size: 4, seq_length: 70}
        `finetune.data.seq_length`: `seq_length` 70 leaves no room for text next to one image of 16 positions in each of 4 mock samples / nearest that fits: 76
    num_gpus_per_node=3 finetune.trainer.strategy|={context_parallel_size: 2}
        `finetune.trainer.strategy`: 3 ranks (1 nodes x 3 devices) are not a multiple of tensor x context x pipeline = 1 x 2 x 1 = 2 / use a multiple of 2 ranks, the nearest: 2 devices; or smaller parallel sizes
    num_gpus_per_node=2 finetune.trainer.strategy|={context_parallel_size: 0}
        `finetune.trainer.strategy.context_parallel_size`: `context_parallel_size` is 0, it must be at least 1
    ");
}

#[test]
fn a_vision_encoder_that_cannot_be_split_is_refused_with_the_nearest_layout() {
    let cut = |rest: &str| format!("finetune.trainer.strategy|={{vision_placement: cut, {rest}}}");
    let [two, three, four] = [2, 3, 4].map(|tp| cut(&format!("tensor_model_parallel_size: {tp}")));
    let heads = "finetune.model.vision_config.num_attention_heads=2";
    let context = cut("tensor_model_parallel_size: 4, context_parallel_size: 2");
    let reported = [
        misfits(&["num_gpus_per_node=4", &four, heads]),
        misfits(&[
            "num_gpus_per_node=8",
            &context,
            heads,
            "finetune.model.vision_config.intermediate_size=258",
        ]),
        misfits(&["num_gpus_per_node=2", &two, "finetune.model.vision_config.intermediate_size=257"]),
        misfits(&["num_gpus_per_node=3", &three]),
    ];
    insta::assert_snapshot!(reported.concat(), @"
    num_gpus_per_node=4 finetune.trainer.strategy|={vision_placement: cut, tensor_model_parallel_size: 4} finetune.model.vision_config.num_attention_heads=2
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 4 tensor-parallel ranks cannot cut `vision_config.num_attention_heads` 2 evenly / nearest that fits: tensor_model_parallel_size: 2, or vision_placement: shared
    num_gpus_per_node=8 finetune.trainer.strategy|={vision_placement: cut, tensor_model_parallel_size: 4, context_parallel_size: 2} finetune.model.vision_config.num_attention_heads=2 finetune.model.vision_config.intermediate_size=258
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 4 tensor-parallel ranks cannot cut `vision_config.num_attention_heads` 2 evenly / nearest that fits: tensor_model_parallel_size: 2, or vision_placement: shared
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 4 tensor-parallel ranks cannot cut `vision_config.intermediate_size` 258 evenly / nearest that fits: tensor_model_parallel_size: 2, or vision_placement: shared
    num_gpus_per_node=2 finetune.trainer.strategy|={vision_placement: cut, tensor_model_parallel_size: 2} finetune.model.vision_config.intermediate_size=257
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 2 tensor-parallel ranks cannot cut `vision_config.intermediate_size` 257 evenly / nearest that fits: tensor_model_parallel_size: 1, or vision_placement: shared
    num_gpus_per_node=3 finetune.trainer.strategy|={vision_placement: cut, tensor_model_parallel_size: 3}
        `finetune.trainer.strategy.tensor_model_parallel_size`: tensor parallelism over 3 ranks cannot cut `num_attention_heads` 4 evenly / nearest that fits 3 ranks: 1
        `finetune.trainer.strategy.tensor_model_parallel_size`: tensor parallelism over 3 ranks cannot cut `num_key_value_heads` 2 evenly / nearest that fits 3 ranks: 1
        `finetune.trainer.strategy.tensor_model_parallel_size`: tensor parallelism over 3 ranks cannot cut `intermediate_size` 448 evenly / nearest that fits 3 ranks: 1
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 3 tensor-parallel ranks cannot cut `vision_config.num_attention_heads` 4 evenly / nearest that fits: tensor_model_parallel_size: 1
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 3 tensor-parallel ranks cannot cut `vision_config.intermediate_size` 256 evenly / nearest that fits: tensor_model_parallel_size: 1
        `finetune.trainer.strategy.vision_placement`: `vision_placement: cut` over 3 tensor-parallel ranks cannot cut `text_config.hidden_size` 160 evenly / nearest that fits: tensor_model_parallel_size: 1
    ");
    let fits = |sets: &[&str]| resolve(load("neva_tiny").unwrap(), sets).is_ok();
    assert!(fits(&["num_gpus_per_node=4", &four]));
    assert!(fits(&[
        "num_gpus_per_node=4",
        "finetune.trainer.strategy.tensor_model_parallel_size=4",
        heads
    ]));
    assert!(fits(&["num_gpus_per_node=1", &cut("tensor_model_parallel_size: 1"), heads]));
}

/// A run's name follows the rule of an experiment's name, and is checked before any file is created.
#[test]
fn names_unsuitable_for_folders_are_refused() {
    let long = "n".repeat(91);
    let names = [
        "",
        "a/b",
        "..",
        ".hidden",
        "-rf",
        "two words",
        "line\\nend",
        "tab\\t",
        "nul\\0",
        "back\\\\slash",
        long.as_str(),
    ];
    let sets = |name: &str| [format!("name=\"{name}\""), format!("finetune.log.name=\"{name}\"")];
    for set in names.iter().flat_map(|name| sets(name)) {
        let reported = mistakes(&set).join("\n");
        assert!(reported.contains("name`: the name "), "{set}: {reported}");
    }
    for name in ["a", "llava-1.5_7b", "lr=1e-4,seed=1", "a+b@c", "\u{732b}", &"n".repeat(90)] {
        for set in sets(name) {
            resolve(load("neva_tiny").unwrap(), &[&set]).unwrap_or_else(|error| panic!("{set}: {error}"));
        }
    }
    let experiment = |name: &str| neva_schemas::ExperimentConfig {
        name: name.to_owned(),
        ..neva_schemas::ExperimentConfig::default()
    };
    // Both have the same message.
    let reported = neva_schemas::Validate::problems(&experiment(".hidden"), "");
    let of_run = mistakes("name=.hidden");
    assert!(
        reported.iter().any(|problem| of_run[0].ends_with(&problem.message)),
        "{reported:?} {of_run:?}"
    );
}
