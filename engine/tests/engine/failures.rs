//! Runs that cannot be done: a verdict, a reason, a record, and no panic.

use crate::setting::{ONE, Samples, files, loaded, microbatches, on_mesh, plan, reseal, run, small, trainer, weights, within_limit};
use neva_engine::checkpoint::write_tensors;
use neva_engine::comm::{CommError, Mesh};
use neva_engine::trainer::Trainer;
use neva_engine::{EngineError, engine};
use neva_schemas::{
    Data, Engine, FAILURES_FILE, Finetune, ImageDataConfig, LaunchPlan, LoRA, NevaPreloadedDataModule, ParallelSizes, Peft, RankEnv,
    RankFailure, exit_class,
};
use std::path::Path;

fn poison(trainer: &Trainer, name: &str) {
    let tensor = trainer.parameters().get(name).unwrap().tensor.detach();
    let _ = tensor.flatten(0, -1).narrow(0, 0, 1).fill_(f64::NAN);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_before_any_update() {
    within_limit(|| {
        let finetune = small();
        let samples = Samples::of(&finetune);
        let norm = "model.language_model.norm.weight";
        // A cut matrix is damaged on one of its ranks only: all of them must stop.
        let cut = "model.language_model.layers.0.mlp.up_proj.weight";
        for (sizes, name) in [
            (ONE, norm),
            (ParallelSizes { tp: 2, ..ONE }, cut),
            (ParallelSizes { dp: 2, ..ONE }, norm),
        ] {
            on_mesh(sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                if mesh.world().rank() == 0 {
                    poison(&trainer, name);
                }
                let before = weights(&trainer);
                let error = trainer.step(&microbatches(&finetune, &samples, &mesh, 4), |_| 1e-2, 4).unwrap_err();
                assert!(matches!(error, EngineError::NotFinite { step: 4, .. }), "{error}");
                assert_eq!(error.class(), exit_class::JOB);
                assert_eq!(error.to_string(), "step 4: the loss is NaN");
                for (name, after) in weights(&trainer) {
                    assert!(
                        after.nan_to_num(7.0, None, None).equal(&before[&name].nan_to_num(7.0, None, None)),
                        "{name} changed"
                    );
                }
                assert!(trainer.optimizer().pieces().all(|piece| piece.step.double_value(&[0]) == 0.0));
            });
        }
    });
}

/// The only line of the failure record, which is what was returned.
fn recorded(run_dir: &Path) -> RankFailure {
    let lines = std::fs::read_to_string(run_dir.join(FAILURES_FILE)).unwrap();
    assert!(lines.ends_with('\n') && lines.lines().count() == 1, "{lines}");
    serde_json::from_str(&lines).unwrap()
}

#[test]
fn a_failing_step_is_recorded() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.log.ckpt.every_n_train_steps = Some(1);
        finetune.trainer.max_steps = Some(2);
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let checkpoint = run(&finetune, &first).unwrap().checkpoint.unwrap();
        // The checkpoint's model with one value spoilt.
        let trainer = Trainer::new(&finetune, loaded(&finetune, &Mesh::single()), Mesh::single()).unwrap();
        poison(&trainer, "lm_head.weight");
        let tensors = trainer
            .parameters()
            .trainable()
            .map(|parameter| (parameter.spec.name.clone(), parameter.tensor.detach()))
            .collect();
        write_tensors(&checkpoint.join("model.safetensors"), tensors).unwrap();
        reseal(&checkpoint);
        let before = files(&checkpoint);
        finetune.trainer.max_steps = Some(4);
        finetune.resume.resume_from_path = Some(checkpoint.clone());
        let failure = run(&finetune, &second).unwrap_err();
        assert_eq!((failure.class, failure.rank, failure.step), (exit_class::JOB, 0, Some(2)));
        assert_eq!(failure.chain, ["step 2: the loss is NaN"]);
        assert!(failure.unix_ms > 1_700_000_000_000);
        assert_eq!(recorded(&second), failure);
        assert!(files(&checkpoint) == before);
        assert_eq!(std::fs::read_dir(second.join("checkpoints")).unwrap().count(), 0);
    });
}

/// A run that is refused as the user's mistake, with all of `expect` in the reason.
fn check_plan(change: impl FnOnce(&mut LaunchPlan), rank: &RankEnv, class: u8, expect: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(&small(), folder.path());
    change(&mut plan);
    let failure = engine().train(&plan, rank).unwrap_err();
    let text = failure.to_string();
    assert_eq!((failure.class, failure.rank, failure.step), (class, rank.rank, None), "{text}");
    for part in expect {
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    assert_eq!(recorded(folder.path()), failure);
}

fn check(change: impl FnOnce(&mut Finetune), expect: &[&str]) {
    check_plan(|plan| change(&mut plan.run.finetune), &RankEnv::single(), exit_class::INPUT, expect);
}

#[test]
fn plans_that_cannot_be_done_are_refused() {
    within_limit(|| {
        let single = RankEnv::single();
        check_plan(
            |plan| plan.format = 7,
            &single,
            exit_class::INPUT,
            &["plan.json", "format 7, this program reads format 1"],
        );
        check_plan(
            |plan| plan.run.finetune.trainer.devices = 2,
            &single,
            exit_class::INPUT,
            &["the run needs 2 ranks, but 1 were started", "num_gpus_per_node"],
        );
        let second = RankEnv {
            rank: 1,
            world_size: 3,
            ..RankEnv::single()
        };
        check_plan(|_| {}, &second, exit_class::INPUT, &["the run needs 1 ranks, but 3 were started"]);
        check(
            |finetune| {
                finetune.model.llava_mut().text_config.hidden_size = 63;
                finetune.trainer.max_steps = Some(0);
                *finetune.optim.lr_mut() = -1.0;
            },
            &[
                "finetune.model.text_config.hidden_size",
                "finetune.trainer.max_steps",
                "finetune.optim.lr",
            ],
        );
        check(
            |finetune| finetune.trainer.strategy.pipeline_model_parallel_size = 2,
            &[
                "context x pipeline = 1 x 1 x 2",
                "use a multiple of 2 ranks, the nearest: 2 devices",
            ],
        );
        check(
            |finetune| {
                finetune.model.llava_mut().freeze_vision_model = true;
                finetune.model.llava_mut().freeze_vision_projection = true;
                finetune.model.llava_mut().freeze_language_model = true;
            },
            &["all frozen"],
        );
        check(
            |finetune| {
                finetune.peft = Some(Peft::LoRA(LoRA {
                    target_modules: vec!["linear_kqv".into()],
                    ..LoRA::default()
                }))
            },
            &[
                "finetune.peft.target_modules",
                "linear_kqv",
                "module.language_model.decoder.layers.0.self_attention.linear_qkv",
            ],
        );
        check(
            |finetune| crate::setting::mock(finetune).seq_length = 5,
            &["`seq_length` 5 leaves no room for text", "nearest that fits: 7"],
        );
    });
}

const RECORDS: &str = r#"[{"id": "a", "image": "IMAGE", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A thing."}]}]"#;

/// Trains on records in a folder of their own.
fn check_data(records: Option<&str>, change: impl FnOnce(&mut NevaPreloadedDataModule, &Path), expect: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.json");
    if let Some(records) = records {
        std::fs::write(&path, records).unwrap();
    }
    let mut data = NevaPreloadedDataModule {
        paths: vec![path],
        data_config: ImageDataConfig::default(),
        seq_length: 64,
        global_batch_size: 2,
        micro_batch_size: 1,
        tokenizer: Some("builtin:mistral_2k".into()),
        num_workers: 1,
        ..NevaPreloadedDataModule::default()
    };
    change(&mut data, folder.path());
    check(
        |finetune| {
            finetune.model.llava_mut().text_config.vocab_size = 2048;
            finetune.data = Data::Preloaded(data);
        },
        expect,
    );
}

#[test]
fn data_that_is_not_there_is_named() {
    within_limit(|| {
        let records = RECORDS.replace("IMAGE", "no.jpg");
        check_data(None, |_, _| {}, &["records.json"]);
        check_data(Some("[{"), |_, _| {}, &["records.json"]);
        check_data(Some(&records), |_, _| {}, &["records.json", "no.jpg"]);
        let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/photos/chelsea.jpg");
        let unmarked = RECORDS.replace("IMAGE", picture).replace("<image>\\n", "");
        check_data(Some(&unmarked), |_, _| {}, &["records.json", "`<image>`"]);
        check_data(Some("[]"), |_, _| {}, &["records.json"]);
        check_data(
            Some(&records),
            |data, _| data.tokenizer = None,
            &["finetune.data.tokenizer", "builtin:mistral_2k"],
        );
        check_data(Some(&records), |data, _| data.tokenizer = Some("builtin:gpt9".into()), &["gpt9"]);
        check_data(
            Some(&records),
            |data, folder| data.tokenizer = Some(folder.display().to_string()),
            &["tokenizer.json"],
        );
        check_data(
            Some(&records),
            |data, _| data.data_config.conv_template = "v7".into(),
            &["v7", "v1"],
        );
        check_data(
            Some(&records),
            |data, folder| data.image_processor = Some(folder.join("none.json")),
            &["none.json"],
        );
    });
}

#[test]
fn a_tokenizer_that_is_larger_than_the_embedding_is_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.data = Data::Preloaded(NevaPreloadedDataModule {
            paths: vec![folder.path().join("records.json")],
            tokenizer: Some("builtin:mistral_2k".into()),
            ..NevaPreloadedDataModule::default()
        });
        let failure = run(&finetune, folder.path()).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT);
        assert!(
            failure.to_string().contains("2048 tokens, the embedding only 320 rows"),
            "{failure}"
        );
    });
}

#[test]
fn a_picture_that_is_broken_fails_its_step() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("broken.jpg"), b"\xff\xd8\xff\xe0 not a picture").unwrap();
        std::fs::write(folder.path().join("records.json"), RECORDS.replace("IMAGE", "broken.jpg")).unwrap();
        let mut finetune = small();
        finetune.model.llava_mut().text_config.vocab_size = 2048;
        finetune.data = Data::Preloaded(NevaPreloadedDataModule {
            paths: vec![folder.path().join("records.json")],
            seq_length: 64,
            global_batch_size: 1,
            micro_batch_size: 1,
            tokenizer: Some("builtin:mistral_2k".into()),
            num_workers: 1,
            ..NevaPreloadedDataModule::default()
        });
        let failure = run(&finetune, &folder.path().join("run")).unwrap_err();
        assert_eq!(failure.class, exit_class::INPUT, "{failure}");
        assert!(failure.to_string().contains("broken.jpg"), "{failure}");
    });
}

#[test]
fn a_folder_that_cannot_be_made_is_the_jobs_failure() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"in the way").unwrap();
        let failure = run(&small(), &file.join("run")).unwrap_err();
        assert_eq!(failure.class, exit_class::JOB, "{failure}");
        assert!(failure.to_string().contains("cannot create "), "{failure}");
        assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
    });
}

/// Also where the error came out of a backward pass, as text.
#[test]
fn what_is_of_a_peer_is_known_by_its_error() {
    let group = || "tensor.0".to_owned();
    let deadline = CommError::Deadline {
        group: group(),
        operation: "all_reduce(sum)",
        what: "Float [2]".into(),
        rank: 0,
        waited: std::time::Duration::from_secs(6),
        arrived: "rank 1 did not".into(),
    };
    let closed = CommError::Transport {
        group: group(),
        operation: "broadcast",
        reason: "Connection closed by peer".into(),
    };
    let gave_up = CommError::Peer {
        group: group(),
        operation: "recv",
        reason: "rank 1 panicked".into(),
    };
    for error in [deadline, closed, gave_up] {
        assert!(EngineError::Torch(format!("backward of Sum: {error}")).is_of_a_peer(), "{error}");
        assert!(EngineError::from(error).is_of_a_peer());
    }
    let met = |reason: &str| {
        EngineError::from(CommError::Rendezvous {
            address: "n1:29500".into(),
            reason: reason.into(),
        })
    };
    assert!(met("rank 3 did not come").is_of_a_peer());
    assert!(!met("port 29500: EADDRINUSE, address already in use").is_of_a_peer());
    assert!(!EngineError::Torch("out of range".into()).is_of_a_peer());
    assert!(!EngineError::from(CommError::Strangers("`optim.lr` differs".into())).is_of_a_peer());
}
