//! Adapters of layers that never run, which PEFT makes for bare target names.

use crate::setting::{adapters, run, small, within_limit};
use neva_engine::checkpoint::TensorFile;

#[test]
fn they_are_saved_and_keep_their_values() {
    within_limit(|| {
        let mut finetune = small();
        adapters(&mut finetune, &["q_proj", "v_proj"]);
        finetune.trainer.max_steps = Some(2);
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = run(&finetune, folder.path()).unwrap().checkpoint.unwrap();
        let file = TensorFile::open(&checkpoint.join("model.safetensors")).unwrap();
        let layers = finetune.model.as_llava().unwrap().vision_config.num_hidden_layers;
        let name = |layer: usize| format!("model.vision_tower.encoder.layers.{layer}.self_attn.q_proj.lora_B.weight");
        let largest = |layer: usize| file.read(&name(layer), None).unwrap().abs().max().double_value(&[]);
        assert!(largest(0) > 0.0);
        assert_eq!(largest(layers - 1), 0.0);
    });
}
