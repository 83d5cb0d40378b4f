//! Missing and invalid data.

use super::plans::check;
use crate::setting::{run, small, within_limit};
use neva_schemas::{Data, ImageDataConfig, NevaPreloadedDataModule, RestoreConfig, exit_class};
use std::path::Path;

const RECORDS: &str = r#"[{"id": "a", "image": "IMAGE", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A thing."}]}]"#;

/// Trains on records in a new folder.
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
            finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 2048;
            finetune.data = Data::Preloaded(data);
        },
        expect,
    );
}

/// Loading the weights of a large model takes minutes.
#[test]
fn data_are_checked_before_weights_are_loaded() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let config = include_str!("../../../../tests/fixtures/hf/llava_clip_llama/config.json");
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), "damaged").unwrap();
        let weights = RestoreConfig::weights(folder.path().display().to_string());
        let data = NevaPreloadedDataModule {
            paths: vec![folder.path().join("no.json")],
            tokenizer: Some("builtin:mistral_2k".into()),
            ..NevaPreloadedDataModule::default()
        };
        check(
            |finetune| {
                finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 2048;
                finetune.resume.restore_config = Some(weights);
                finetune.data = Data::Preloaded(data);
            },
            &["no.json"],
        );
    });
}

#[test]
fn missing_data_is_reported() {
    within_limit(|| {
        let records = RECORDS.replace("IMAGE", "no.jpg");
        check_data(None, |_, _| {}, &["records.json"]);
        check_data(Some("[{"), |_, _| {}, &["records.json"]);
        check_data(Some(&records), |_, _| {}, &["records.json", "no.jpg"]);
        let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/photos/chelsea.jpg");
        let twice = RECORDS.replace("IMAGE", image).replace("<image>\\n", "<image>\\n<image>\\n");
        check_data(Some(&twice), |_, _| {}, &["records.json", "1 image(s)", "`<image>` 2 time(s)"]);
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
            |data, _| data.data_config.conv_template = Some("v7".into()),
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
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.data = Data::Preloaded(NevaPreloadedDataModule {
            paths: vec![folder.path().join("records.json")],
            tokenizer: Some("builtin:mistral_2k".into()),
            seq_length: 64,
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
fn a_damaged_image_fails_its_step() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("broken.jpg"), b"\xff\xd8\xff\xe0 not a picture").unwrap();
        std::fs::write(folder.path().join("records.json"), RECORDS.replace("IMAGE", "broken.jpg")).unwrap();
        let mut finetune = small();
        finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 2048;
        finetune.data = Data::Preloaded(NevaPreloadedDataModule {
            paths: vec![folder.path().join("records.json")],
            seq_length: 128,
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
