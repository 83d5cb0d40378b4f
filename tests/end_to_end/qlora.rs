//! QLoRA learns the photographs as LoRA on whole weights does.

use neva_tests::{DEADLINE, finish_within, metrics, neva_run, run_folder, start};
use std::path::Path;
use std::process::Child;

const STEPS: usize = 200;

/// Starts a run with adapters and the settings in `more`.
fn start_run(dir: &Path, name: &str, more: &[&str]) -> Child {
    let settings = [
        format!("dir={}", dir.display()),
        format!("name={name}"),
        "peft_scheme=lora".into(),
        "num_gpus_per_node=1".into(),
        "finetune.trainer.plugins.precision=bf16-mixed".into(),
        "finetune.trainer.threads_per_rank=1".into(),
        // At the recipe's rate such small batches diverge from each other by rounding alone.
        "finetune.optim.lr=1.5e-3".into(),
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
    start(neva_run(&arguments))
}

#[test]
fn weights_in_four_bits_cost_two_percent_of_the_loss_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [("bf16", &[][..]), ("nf4", &["finetune.peft.quantization=nf4"][..])];
    // Both at once, on a thread each.
    let started = runs.map(|(name, more)| (name, start_run(dir.path(), name, more)));
    let [plain, quantized] = started.map(|(name, run)| {
        let _ = finish_within(run, DEADLINE).with_code(0);
        metrics(&run_folder(dir.path(), name), "reduced_train_loss")
    });
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
