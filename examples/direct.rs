//! Trains in this process, with the engine linked into it.
//!
//!     cargo run --release --example direct

use neva_engine::engine;
use neva_recipes::neva_tiny;
use neva_run::{RunError, RunOptions, run};

#[expect(clippy::print_stdout, reason = "a program shows its result")]
fn main() -> Result<(), RunError> {
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.trainer.max_steps = Some(5);
    finetune.log.name = "direct".into();

    let report = run(&finetune, RunOptions::direct(engine()))?;

    println!(
        "process {}: {} steps, losses {:.3?}",
        std::process::id(),
        report.steps,
        report.losses
    );
    if let Some(checkpoint) = report.checkpoint {
        println!("checkpoint {}", checkpoint.display());
    }
    Ok(())
}
