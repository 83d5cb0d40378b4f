//! The table of parameters that a run prints and stores.

use crate::setting::{adapters, run, small, within_limit};
use neva_schemas::PARAMETERS_FILE;
use serde_json::{Value, json};

#[test]
fn adapters_are_listed_by_the_part_that_they_adapt() {
    within_limit(|| {
        let mut finetune = small();
        adapters(&mut finetune, &["q_proj", "linear_2"]);
        let lora = finetune.peft.as_mut().unwrap().lora_mut();
        lora.modules_to_save = vec!["norm".into()];
        finetune.model.as_llava_mut().unwrap().freeze_vision_model = true;
        finetune.trainer.max_steps = Some(1);
        let folder = tempfile::tempdir().unwrap();
        run(&finetune, folder.path()).unwrap();
        let table: Value = serde_json::from_slice(&std::fs::read(folder.path().join(PARAMETERS_FILE)).unwrap()).unwrap();
        let lines = table.as_array().unwrap().iter().map(|line| {
            (
                line["part"].clone(),
                line["adapts"].clone(),
                line["trainable"].clone(),
                line["frozen_by"].clone(),
            )
        });
        let lines: Vec<_> = lines.collect();
        let (hidden, vision) = (64, 32);
        let language = (
            json!("Language"),
            Value::Null,
            json!(hidden),
            json!("finetune.peft.freeze_language_model"),
        );
        assert_eq!(lines[0], language, "the final norm is trained");
        assert_eq!(lines[2].3, "finetune.model.freeze_vision_model");
        let adapters = |part: &str, values: usize| (json!("Adapter"), json!(part), json!(values), Value::Null);
        let used_layers = finetune.model.as_llava().unwrap().vision_config.num_hidden_layers - 1;
        assert_eq!(
            lines[3..],
            [
                adapters("Language", 2 * 4 * (hidden + hidden)),
                adapters("Projection", 4 * (hidden + hidden)),
                adapters("Vision", used_layers * 4 * (vision + vision)),
            ]
        );
        let totals: Vec<_> = table.as_array().unwrap().iter().map(|line| &line["total"]).collect();
        // The adapter of the encoder's last layer, which never runs, is stored.
        assert_eq!(totals[5], (used_layers + 1) * 4 * (vision + vision));
    });
}
