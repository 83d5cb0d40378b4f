//! Initial state of a run that does not resume: another run's weights, moments, tokenizer or adapters.

use crate::setting::{bits, copy, export_hf, files, lora, mock, preload, preloaded, run, small, within_limit};
use neva_engine::checkpoint::{CheckpointFolder, TensorFile};
use neva_engine::model::Models;
use neva_layout::from_hf_config;
use neva_schemas::{Finetune, RestoreConfig, exit_class};
use serde_json::json;
use std::path::Path;

/// Returns a run on one sample: every step has the same batch, so losses depend only on weights and moments.
fn constant() -> Finetune {
    let mut finetune = small();
    mock(&mut finetune).num_train_samples = 1;
    (finetune.log.ckpt.every_n_train_steps, finetune.log.ckpt.save_top_k) = (Some(3), -1);
    finetune
}

const AFTER_3: &str = "checkpoints/default--step=2-consumed_samples=24";

fn restore<'a>(finetune: &'a mut Finetune, path: &Path) -> &'a mut RestoreConfig {
    finetune
        .resume
        .restore_config
        .insert(RestoreConfig::weights(path.display().to_string()))
}

#[track_caller]
fn refused(finetune: &Finetune, run_dir: &Path, expect: &[&str]) {
    let failure = run(finetune, run_dir).unwrap_err();
    assert_eq!(failure.class, exit_class::INPUT, "{failure}");
    for part in expect {
        assert!(failure.to_string().contains(part), "{failure}\nlacks: {part}");
    }
}

#[test]
fn moments_are_restored_on_request() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = constant();
        let whole = run(&finetune, &folder.path().join("whole")).unwrap();
        let step_counts = |path: &Path| {
            let file = TensorFile::open(&path.join("optimizer.safetensors")).unwrap();
            let names = file.tensors().into_keys().filter(|name| name.ends_with(".step"));
            names
                .map(|name| file.read(&name, None).unwrap().double_value(&[0]))
                .collect::<Vec<_>>()
        };
        finetune.trainer.max_steps = Some(3);
        restore(&mut finetune, &whole.run_dir.join(AFTER_3)).load_optim_state = true;
        let with = run(&finetune, &folder.path().join("with")).unwrap();
        assert_eq!((with.steps, bits(&with.losses)), (3, bits(&whole.losses)[3..].to_vec()));
        // The run counts its own steps. Adam's bias correction continues with the moments.
        let checkpoint = CheckpointFolder::open(&with.checkpoint.unwrap()).unwrap();
        assert_eq!((checkpoint.steps_done(), checkpoint.state.progress.consumed_samples), (3, 24));
        assert!(step_counts(&checkpoint.path).iter().all(|count| *count == 6.0));
        let state = |path: &Path| files(path)[Path::new("optimizer.safetensors")].clone();
        assert!(state(&checkpoint.path) == state(whole.checkpoint.as_ref().unwrap()));

        restore(&mut finetune, &whole.run_dir.join(AFTER_3));
        let without = run(&finetune, &folder.path().join("without")).unwrap();
        assert_eq!(without.losses[0].to_bits(), whole.losses[3].to_bits(), "the weights are the same");
        assert_ne!(without.losses[1].to_bits(), whole.losses[4].to_bits(), "the moments are fresh");
        assert!(step_counts(&without.checkpoint.unwrap()).iter().all(|count| *count == 3.0));
    });
}

#[test]
fn the_tokenizer_is_restored_without_the_weights() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos/photos.json");
        let mut finetune = small();
        preload(&mut finetune, &photos);
        finetune.trainer.max_steps = Some(2);
        let first = run(&finetune, &folder.path().join("first")).unwrap();
        preloaded(&mut finetune).tokenizer = None;
        refused(&finetune, &folder.path().join("none"), &["finetune.data.tokenizer"]);
        restore(&mut finetune, &first.checkpoint.unwrap()).load_model_state = false;
        let second = run(&finetune, &folder.path().join("second")).unwrap();
        assert_eq!(bits(&second.losses), bits(&first.losses), "fresh weights, the same text");
        finetune.resume.restore_config.as_mut().unwrap().load_artifacts = false;
        refused(&finetune, &folder.path().join("third"), &["finetune.data.tokenizer"]);
    });
}

#[test]
fn adapters_are_added_to_their_base() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = run(&constant(), &folder.path().join("base")).unwrap();
        let mut finetune = constant();
        lora(&mut finetune);
        restore(&mut finetune, &base.run_dir.join(AFTER_3));
        let whole = run(&finetune, &folder.path().join("whole")).unwrap();
        assert_eq!(whole.losses[0].to_bits(), base.losses[3].to_bits(), "fresh adapters change nothing");
        finetune.resume.adapter_path = Some(whole.run_dir.join(AFTER_3));
        // With and without its base in the recipe: the adapter knows its base.
        for named in [true, false] {
            if !named {
                finetune.resume.restore_config = None;
            }
            let second = run(&finetune, &folder.path().join(format!("named {named}"))).unwrap();
            assert_eq!((second.steps, second.losses.len()), (6, 6));
            assert_eq!(
                second.losses[0].to_bits(),
                whole.losses[3].to_bits(),
                "the adapters are those of the checkpoint"
            );
            assert_ne!(second.losses[1].to_bits(), whole.losses[4].to_bits(), "the moments are fresh");
        }
        restore(&mut finetune, &base.checkpoint.unwrap());
        refused(
            &finetune,
            &folder.path().join("later base"),
            &["finetune.resume.adapter_path", "was trained on the checkpoint "],
        );
        // A base that is a whole model would lose the adapters.
        let mut on_adapters = constant();
        restore(&mut on_adapters, &whole.run_dir.join(AFTER_3));
        refused(
            &on_adapters,
            &folder.path().join("adapters as a base"),
            &["finetune.resume.restore_config.path", "use `adapter_path`"],
        );
        finetune.resume.restore_config = None;
        finetune.resume.adapter_path = Some(folder.path().join("nowhere"));
        refused(&finetune, &folder.path().join("no adapter"), &["nowhere"]);
    });
}

#[test]
fn a_base_is_identified_by_its_bytes() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/hf/llava_clip_llama");
        let (base, moved) = (folder.path().join("base"), folder.path().join("moved"));
        std::fs::create_dir(&base).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture.join(name), base.join(name)).unwrap();
        }
        copy(&base, &moved);
        let config = serde_json::from_slice(&std::fs::read(base.join("config.json")).unwrap()).unwrap();
        let mut finetune = constant();
        *finetune.model.as_llava_mut().unwrap() = from_hf_config(&config).unwrap();
        mock(&mut finetune).seq_length = finetune.model.as_llava().unwrap().image_seq_length() + 16;
        finetune.trainer.max_steps = Some(2);
        lora(&mut finetune);
        restore(&mut finetune, &base);
        let adapters = run(&finetune, &folder.path().join("adapters")).unwrap().checkpoint.unwrap();
        let mut resumed = finetune.clone();
        resumed.resume.resume_from_path = Some(adapters.clone());
        resumed.trainer.max_steps = Some(3);
        finetune.resume.adapter_path = Some(adapters);
        for finetune in [&mut finetune, &mut resumed] {
            restore(finetune, &moved);
        }
        run(&finetune, &folder.path().join("moved, started")).unwrap();
        run(&resumed, &folder.path().join("moved, resumed")).unwrap();

        let mut bytes = std::fs::read(moved.join("model.safetensors")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(moved.join("model.safetensors"), bytes).unwrap();
        let expect = |setting: &'static str| {
            [
                setting,
                "was trained on the weights ",
                "this run starts from the weights ",
                "finetune.resume.restore_config.path=DIR",
            ]
        };
        refused(
            &finetune,
            &folder.path().join("other, started"),
            &expect("finetune.resume.adapter_path"),
        );
        refused(&resumed, &folder.path().join("other, resumed"), &expect("finetune.resume"));
        // Hugging Face's folder has no moments.
        finetune.resume.adapter_path = None;
        restore(&mut finetune, &base).load_optim_state = true;
        refused(
            &finetune,
            &folder.path().join("moments"),
            &["finetune.resume.restore_config.load_optim_state", "holds no moments"],
        );
    });
}

/// The image processor is the one beside the weights; a checkpoint keeps it, and a resumed run uses it.
#[test]
fn the_image_processor_is_the_models() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos/photos.json");
        let mut finetune = small();
        preload(&mut finetune, &photos);
        finetune.trainer.max_steps = Some(2);
        let first = run(&finetune, &folder.path().join("first")).unwrap();
        let of_family = std::fs::read_to_string(first.checkpoint.as_ref().unwrap().join("preprocessor_config.json")).unwrap();
        assert!(of_family.contains("0.48145466"), "{of_family}");

        // A model's folder with the processor that transformers 5 nests.
        let model = folder.path().join("model");
        let checkpoint = CheckpointFolder::open(first.checkpoint.as_ref().unwrap()).unwrap();
        export_hf(&checkpoint.path, &model, &Models::builtin()).unwrap();
        let nested = |mean: f64| {
            let size = json!({ "height": 28, "width": 28 });
            json!({ "image_processor_type": "SiglipImageProcessor", "size": size, "image_mean": vec![mean; 3], "image_std": vec![0.5; 3] })
        };
        let write = |mean: f64| {
            let content = json!({ "processor_class": "LlavaProcessor", "image_processor": nested(mean) });
            std::fs::write(model.join("processor_config.json"), content.to_string()).unwrap();
        };
        write(0.5);
        restore(&mut finetune, &model);
        finetune.trainer.max_steps = Some(4);
        let whole = run(&finetune, &folder.path().join("whole")).unwrap();
        let kept = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(path.join("preprocessor_config.json")).unwrap()).unwrap()
        };
        assert_eq!(kept(whole.checkpoint.as_ref().unwrap()), nested(0.5));
        let named = folder.path().join("named.json");
        std::fs::write(&named, nested(0.5).to_string()).unwrap();
        preloaded(&mut finetune).image_processor = Some(named);
        let same = run(&finetune, &folder.path().join("same")).unwrap();
        assert_eq!(bits(&same.losses), bits(&whole.losses));

        // An export has the one of the run, also in the file that transformers reads first.
        let exported = folder.path().join("exported");
        let checkpoint = CheckpointFolder::open(whole.checkpoint.as_ref().unwrap()).unwrap();
        write(0.1);
        export_hf(&checkpoint.path, &exported, &Models::builtin()).unwrap();
        let processor: serde_json::Value = serde_json::from_slice(&std::fs::read(exported.join("processor_config.json")).unwrap()).unwrap();
        assert_eq!(kept(&exported), processor["image_processor"]);
        // The run pads images to a square, which a SigLIP processor does not.
        let [found, own] = [kept(&exported), nested(0.5)];
        for name in ["size", "image_mean", "image_std"] {
            assert_eq!(found[name], own[name], "{name}");
        }
        assert_eq!(
            (&found["image_processor_type"], &found["do_pad"]),
            (&json!("LlavaImageProcessor"), &json!(true))
        );

        // The file beside the weights has changed since the run started.
        preloaded(&mut finetune).image_processor = None;
        finetune.resume.resume_from_path = whole.checkpoint.clone();
        finetune.trainer.max_steps = Some(5);
        let resumed = run(&finetune, &folder.path().join("resumed")).unwrap();
        assert_eq!(kept(resumed.checkpoint.as_ref().unwrap()), nested(0.5));

        // A file that describes no processor is refused.
        finetune.resume.resume_from_path = None;
        std::fs::write(model.join("processor_config.json"), json!({ "image_processor": {} }).to_string()).unwrap();
        refused(&finetune, &folder.path().join("none"), &["not an image processor"]);
    });
}
