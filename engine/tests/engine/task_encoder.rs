//! Task encoders of a program's own, for Energon datasets.

use crate::setting::{ONE, json_lines, preload, run_on, small, within_limit};
use neva_data::{DataError, DocumentPiece, EnergonSample, TaskEncoder, TaskText};
use neva_engine::{EngineError, Registry};
use neva_schemas::{
    CustomTaskEncoder, Data, EnergonMultiModalDataModule, Finetune, METRICS_FILE, SampleLoader, TaskEncoder as TaskEncoderConfig,
    exit_class,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

const TARGET: &str = "tests::Shout";

/// Repeats a text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shout {
    times: usize,
}

impl TaskEncoder for Shout {
    fn encode(&self, sample: &EnergonSample) -> Result<TaskText, DataError> {
        let text = sample.text("text")?;
        if text == "quiet" {
            return Err(sample.invalid("text", "is not loud enough"));
        }
        Ok(TaskText::Document(vec![DocumentPiece::Text(format!("{text} ").repeat(self.times))]))
    }
}

fn finetune(folder: &Path, texts: &[&str], arguments: Value) -> Finetune {
    let path = folder.join("texts.jsonl");
    let lines: Vec<String> = texts.iter().map(|text| json!({ "text": text }).to_string()).collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let mut finetune = small();
    preload(&mut finetune, &path);
    let loader = SampleLoader {
        sample_type: Some("TextSample".into()),
        field_map: [("text".to_owned(), "json[text]".to_owned())].into(),
    };
    let mut encoder = json!({ "_target_": TARGET });
    encoder.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
    finetune.data = Data::Energon(EnergonMultiModalDataModule {
        path,
        sample_loaders: [("texts".to_owned(), loader)].into(),
        tokenizer: Some("builtin:mistral_2k".into()),
        seq_length: 192,
        global_batch_size: 4,
        micro_batch_size: 2,
        task_encoder: Some(TaskEncoderConfig::Custom(CustomTaskEncoder(encoder.as_object().unwrap().clone()))),
        ..EnergonMultiModalDataModule::default()
    });
    finetune.trainer.max_steps = Some(2);
    finetune
}

fn train(finetune: &Finetune, folder: &Path, registry: &Registry) -> Result<Vec<u64>, EngineError> {
    run_on(finetune, folder, ONE, registry).remove(0)?;
    let lines = json_lines(&folder.join(METRICS_FILE));
    Ok(lines.iter().map(|line| line["label_tokens"].as_u64().unwrap()).collect())
}

#[test]
fn a_custom_task_encoder_makes_the_text() {
    within_limit(|| {
        let registry = Registry::builtin().task_encoder::<Shout>(TARGET);
        let texts = ["hear, hear", "hear, hear", "hear, hear", "hear, hear"];
        let labels = |times: usize| {
            let folder = tempfile::tempdir().unwrap();
            train(
                &finetune(folder.path(), &texts, json!({ "times": times })),
                folder.path(),
                &registry,
            )
            .unwrap()
        };
        let (once, thrice) = (labels(1), labels(3));
        assert_eq!(once.len(), 2);
        assert!(thrice[0] >= 2 * once[0], "{once:?} {thrice:?}");

        let check = |texts: &[&str], arguments: Value, registry: &Registry, expect: &str| {
            let folder = tempfile::tempdir().unwrap();
            let error = train(&finetune(folder.path(), texts, arguments), folder.path(), registry).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
            error
        };
        let unknown = check(
            &texts,
            json!({ "times": 1 }),
            &Registry::builtin(),
            "finetune.data.task_encoder._target_: this rank program has no task encoder `tests::Shout`",
        );
        assert_eq!(unknown.exit_code(), exit_class::INPUT);
        check(
            &texts,
            json!({ "loud": 1 }),
            &registry,
            "finetune.data.task_encoder: tests::Shout: unknown field `loud`",
        );
        check(&["quiet"], json!({ "times": 1 }), &registry, "text: is not loud enough");
    });
}
