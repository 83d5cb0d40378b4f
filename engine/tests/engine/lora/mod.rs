//! Adapters: dropout, rsLoRA, DoRA and weights in 4 bits, in every layout.

mod dropout;
mod nf4;
mod qlora;
mod table;
mod unused;

use crate::layout::{Layout, four_layers, pipeline};
use crate::parity::check;
use crate::setting::{ONE, adapters, within_limit};
use neva_schemas::{DropoutPosition, Finetune, LoRA, VisionPlacement};

/// Linears of every part of the model, with and without an A of their own.
const EVERYWHERE: [&str; 10] = [
    "linear_qkv",
    "linear_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "out_proj",
    "fc1",
    "fc2",
    "linear_1",
    "linear_2",
];

/// Returns a run of four layers whose adapters were changed.
fn adapted(change: impl FnOnce(&mut LoRA)) -> Finetune {
    let mut finetune = four_layers();
    adapters(&mut finetune, &EVERYWHERE);
    change(finetune.peft.as_mut().unwrap().lora_mut());
    finetune
}

/// Returns layouts of each axis, and of several.
fn layouts() -> [Layout; 6] {
    let tp2 = Layout::plain(ONE).over(2, 1);
    [
        tp2,
        tp2.sequence_parallel(),
        Layout::plain(ONE).over(4, 2).sequence_parallel().distributed(),
        pipeline(2).chunks(2),
        Layout::plain(ONE).context(2),
        tp2.context(2).sequence_parallel(),
    ]
}

#[test]
fn dropout_on_the_input_is_the_same_in_every_layout() {
    within_limit(|| check("pre", &adapted(|lora| lora.dropout = 0.3), &layouts(), Layout::of));
}

#[test]
fn dropout_on_the_output_is_the_same_in_every_layout() {
    within_limit(|| {
        let alone = adapted(|lora| (lora.dropout, lora.dropout_position) = (0.3, DropoutPosition::Post));
        check("post", &alone, &layouts(), Layout::of);
    });
}

#[test]
fn dora_is_the_same_in_every_layout() {
    within_limit(|| {
        check(
            "DoRA",
            &adapted(|lora| (lora.use_dora, lora.use_rslora) = (true, true)),
            &layouts(),
            Layout::of,
        );
    });
}

#[test]
fn dora_with_dropout_is_the_same_in_every_layout() {
    within_limit(|| {
        let mut alone = adapted(|lora| (lora.use_dora, lora.dropout) = (true, 0.2));
        alone.trainer.strategy.vision_placement = VisionPlacement::Cut;
        // The encoder has two heads to cut.
        let layouts: Vec<_> = layouts().into_iter().filter(|layout| layout.sizes.tp <= 2).collect();
        check("DoRA with dropout", &alone, &layouts, Layout::of);
    });
}
