//! Failures: exit code, reason, record, and no panic.

mod data;
mod plans;

use crate::setting::{ONE, Samples, files, loaded, microbatches, on_mesh, reseal, run, small, trainer, weights, within_limit};
use neva_data::DataError;
use neva_engine::EngineError;
use neva_engine::checkpoint::write_tensors;
use neva_engine::comm::{CommError, Mesh};
use neva_engine::trainer::Trainer;
use neva_schemas::{FAILURES_FILE, ParallelSizes, RankFailure, exit_class};
use std::path::Path;

fn poison(trainer: &Trainer, name: &str) {
    let tensor = trainer.parameters().get(name).unwrap().tensor.detach();
    let _ = tensor.flatten(0, -1).narrow(0, 0, 1).fill_(f64::NAN);
}

#[test]
fn a_non_finite_loss_stops_the_run_before_any_update() {
    within_limit(|| {
        let finetune = small();
        let samples = Samples::of(&finetune);
        let norm = "model.language_model.norm.weight";
        // A split matrix is damaged on one rank only: all ranks must stop.
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
                assert_eq!(error.exit_code(), exit_class::JOB);
                assert_eq!(error.to_string(), "step 4: the loss is NaN");
                for (name, after) in weights(&trainer) {
                    assert!(
                        after.nan_to_num(7.0, None, None).equal(&before[&name].nan_to_num(7.0, None, None)),
                        "{name} changed"
                    );
                }
                assert!(trainer.optimizer().shards().all(|piece| piece.step.double_value(&[0]) == 0.0));
            });
        }
    });
}

/// Returns the only line of the failure record.
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
        // The checkpoint's model with values that overflow.
        let trainer = Trainer::new(&finetune, loaded(&finetune, &Mesh::single()), Mesh::single()).unwrap();
        let norm = &trainer.parameters().get("model.language_model.norm.weight").unwrap().tensor;
        let _ = norm.detach().fill_(f64::from(f32::MAX));
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

/// A disk may recover, so such a run can be retried; a wrong record cannot.
#[test]
fn errors_of_data_are_told_from_those_of_disks() {
    let read = |kind: std::io::ErrorKind| DataError::Read {
        path: "a.jpg".into(),
        error: kind.into(),
    };
    let of_sample = |error: DataError| DataError::Sample {
        sample: "a.json#1".into(),
        error: error.into(),
    };
    for (error, class) in [
        (read(std::io::ErrorKind::NotFound), exit_class::INPUT),
        (read(std::io::ErrorKind::PermissionDenied), exit_class::INPUT),
        (read(std::io::ErrorKind::StaleNetworkFileHandle), exit_class::JOB),
        (of_sample(read(std::io::ErrorKind::TimedOut)), exit_class::JOB),
        (of_sample(read(std::io::ErrorKind::NotFound)), exit_class::INPUT),
        (DataError::WorkerPanicked { worker: 1 }, exit_class::BUG),
    ] {
        let text = error.to_string();
        assert_eq!(EngineError::Data(error).exit_code(), class, "{text}");
    }
}

#[test]
fn a_folder_that_cannot_be_created_is_a_job_failure() {
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

/// Peer failures are also recognized in the text of an error from a backward pass.
#[test]
fn peer_failures_are_recognized() {
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
        assert!(EngineError::Torch(format!("backward of Sum: {error}")).is_peer_failure(), "{error}");
        assert!(EngineError::from(error).is_peer_failure());
    }
    let met = |reason: &str| {
        EngineError::from(CommError::Rendezvous {
            address: "n1:29500".into(),
            reason: reason.into(),
        })
    };
    assert!(met("rank 3 did not come").is_peer_failure());
    assert!(!met("port 29500: EADDRINUSE, address already in use").is_peer_failure());
    assert!(!EngineError::Torch("out of range".into()).is_peer_failure());
    assert!(!EngineError::from(CommError::HandshakeMismatch("`optim.lr` differs".into())).is_peer_failure());
}
