//! QLoRA learns the photographs as LoRA on whole weights does.

use neva_tests::{DEADLINE, finish_within, metrics, neva_run, run_folder, start};
use std::path::Path;

const STEPS: usize = 200;

/// Returns the losses of a run with adapters, and the settings in `more`.
fn losses(dir: &Path, name: &str, more: &[&str]) -> Vec<f64> {
    let settings = [
        format!("dir={}", dir.display()),
        format!("name={name}"),
        "peft_scheme=lora".into(),
        "num_gpus_per_node=1".into(),
        "finetune.trainer.plugins.precision=bf16-mixed".into(),
        format!("finetune.trainer.max_steps={STEPS}"),
        "finetune.data.global_batch_size=2".into(),
        "finetune.data.micro_batch_size=2".into(),
        // The base is fresh, so that its words have to be learnt.
        "finetune.peft.modules_to_save=[lm_head,embed_tokens]".into(),
        "finetune.log.ckpt.save_on_train_end=false".into(),
    ];
    let mut arguments = vec!["examples/photos/recipe.yaml"];
    for setting in settings.iter().map(String::as_str).chain(more.iter().copied()) {
        arguments.extend(["--set", setting]);
    }
    let _ = finish_within(start(neva_run(&arguments)), DEADLINE).with_code(0);
    metrics(&run_folder(dir, name), "reduced_train_loss")
}

#[test]
fn weights_in_four_bits_cost_two_percent_of_the_loss_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let plain = losses(dir.path(), "bf16", &[]);
    let quantized = losses(dir.path(), "nf4", &["finetune.peft.quantization=nf4"]);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert_eq!((plain.len(), quantized.len()), (STEPS, STEPS));
    let off = (mean(&quantized) - mean(&plain)).abs() / mean(&plain);
    assert!(
        off < 0.02,
        "the mean loss is {}, with whole weights {}",
        mean(&quantized),
        mean(&plain)
    );
    let (first, last) = (quantized[0], mean(&quantized[STEPS - 10..]));
    assert!(last < first / 2.0, "the loss went from {first} to {last} only");
    assert_ne!(plain, quantized);
}
