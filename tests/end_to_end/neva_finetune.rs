//! `examples/neva_finetune.rs`: NeMo's fine-tuning script, flag by flag.

use neva_tests::{example, launcher, metrics, root, run, run_folder};
use std::path::Path;

/// Returns the losses of the toy model with these flags.
fn losses(dir: &Path, name: &str, flags: &str) -> Vec<f64> {
    let folder = dir.display().to_string();
    let always = ["--use_toy_model", "--max_steps", "4", "--gbs", "8", "--mbs", "4"];
    let mut arguments = [always.as_slice(), &["--log_dir", &folder, "--name", name]].concat();
    arguments.extend(flags.split_whitespace());
    let _ = run(launcher(&example("neva_finetune"), &arguments)).with_code(0);
    let losses = metrics(&run_folder(dir, name), "reduced_train_loss");
    assert_eq!(losses.len(), 4, "{name}");
    losses
}

#[track_caller]
fn same(what: &str, got: &[f64], expected: &[f64]) {
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-5 * expected, "{what}: {got}, not {expected}");
    }
}

/// Every layout flag, on photographs, for adapters and for the whole model.
#[test]
fn every_layout_trains_like_one_rank() {
    let dir = tempfile::tempdir().unwrap();
    let photos = root().join("examples/photos");
    let (records, folder) = (photos.join("photos.json"), photos.display());
    let llava = format!("--data_type llava --data_path {} --image_folder {folder}", records.display());
    for (peft, layouts) in [("none", 4), ("lora", 2)] {
        let flags = format!("{llava} --peft {peft}");
        let one = losses(dir.path(), &format!("{peft}-one"), &flags);
        for layout in [
            "--devices 4 --tp_size 2 --pp_size 2 --sp",
            "--devices 2 --pp_size 2 --vpp_size 2 --use_packed_sequence",
            "--devices 2 --pp_size 2 --encoder_pp_size 1",
            "--devices 4 --cp_size 2 --use_packed_sequence",
        ]
        .into_iter()
        .take(layouts)
        {
            let name = format!("{peft}{}", layout.replace(' ', ""));
            same(&name, &losses(dir.path(), &name, &format!("{flags} {layout}")), &one);
        }
    }
}

/// Trains from fresh weights, then from those of a checkpoint.
#[test]
fn weights_are_restored() {
    let dir = tempfile::tempdir().unwrap();
    let mock = losses(dir.path(), "mock", "--lr 1e-2");
    let checkpoints = run_folder(dir.path(), "mock").join("checkpoints");
    let checkpoint = std::fs::read_dir(&checkpoints).unwrap().next().unwrap().unwrap().path();
    let restored = losses(dir.path(), "restored", &format!("--restore_path {}", checkpoint.display()));
    assert!(restored[0] < mock[0] - 0.1, "{restored:?} after {mock:?}");
}
