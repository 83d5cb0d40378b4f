//! Adapters on weights in 4 bits.

use crate::layout::{Layout, pipeline};
use crate::parity::check;
use crate::setting::{ONE, adapters, bits, files, loaded, precision, run, small, within_limit};
use neva_engine::comm::Mesh;
use neva_engine::quantization::Nf4;
use neva_layout::{Part, is_quantized};
use neva_schemas::{Finetune, Precision, Quantization};
use std::path::Path;
use tch::Kind;

/// Returns a run whose rows of 128 values hold whole blocks on two ranks.
fn quantized() -> Finetune {
    let mut finetune = small();
    let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
    (text.hidden_size, text.intermediate_size, text.num_hidden_layers) = (128, 256, 4);
    adapters(
        &mut finetune,
        &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2", "linear_1"],
    );
    finetune.peft.as_mut().unwrap().lora_mut().quantization = Some(Quantization::Nf4);
    finetune
}

#[test]
fn every_layout_computes_with_the_values_of_one_rank() {
    within_limit(|| {
        let tp2 = Layout::plain(ONE).over(2, 1);
        let layouts = [
            tp2.sequence_parallel(),
            tp2.over(2, 2).distributed(),
            pipeline(2).chunks(2),
            Layout::plain(ONE).context(2),
        ];
        check("QLoRA", &quantized(), &layouts, Layout::of);
        let mut with_lengths = quantized();
        with_lengths.peft.as_mut().unwrap().lora_mut().use_dora = true;
        check("QDoRA", &with_lengths, &layouts[..1], Layout::of);
    });
}

#[test]
fn linears_of_the_language_model_take_four_bits() {
    within_limit(|| {
        let (mut plain, mut finetune) = (quantized(), quantized());
        plain.peft.as_mut().unwrap().lora_mut().quantization = None;
        for finetune in [&mut plain, &mut finetune] {
            precision(finetune, Precision::Bf16Mixed);
        }
        let (plain, model) = (loaded(&plain, &Mesh::single()), loaded(&finetune, &Mesh::single()));
        let (mut before, mut after) = (0, 0);
        for parameter in model.parameters.iter() {
            let of_base = plain.parameters.get(&parameter.spec.name).unwrap();
            let is_linear = of_base.spec.part == Part::Language && of_base.spec.lora.is_some();
            assert_eq!(parameter.quantized.is_some(), is_linear, "{}", parameter.spec.name);
            assert_eq!(is_quantized(&parameter.spec, &finetune), is_linear);
            let Some(quantized) = &parameter.quantized else {
                assert!(parameter.tensor.equal(&of_base.tensor), "{}", parameter.spec.name);
                continue;
            };
            before += 2 * of_base.spec.numel();
            after += quantized.bytes();
            // bitsandbytes quantises the weight in bf16, too.
            let expected = Nf4::quantize(&of_base.tensor).unwrap().dequantize(Kind::BFloat16).unwrap();
            assert!(quantized.dequantize(Kind::BFloat16).unwrap().equal(&expected));
        }
        assert!(before > 0 && after as f64 <= 0.27 * before as f64, "{after} of {before} bytes");
    });
}

#[test]
fn a_resumed_run_is_exact() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let (whole, rest) = (folder.path().join("whole"), folder.path().join("rest"));
        let mut finetune = quantized();
        let lora = finetune.peft.as_mut().unwrap().lora_mut();
        (lora.dropout, lora.use_dora, lora.use_rslora) = (0.2, true, true);
        finetune.log.ckpt.every_n_train_steps = Some(3);
        let expected = run(&finetune, &whole).unwrap();
        finetune.resume.resume_from_path = Some(whole.join("checkpoints/default--step=2-consumed_samples=24"));
        let resumed = run(&finetune, &rest).unwrap();
        assert_eq!(bits(&resumed.losses), bits(&expected.losses)[3..]);
        let last = "checkpoints/default--step=5-consumed_samples=48-last";
        let (expected, got) = (files(&whole.join(last)), files(&rest.join(last)));
        for file in ["model.safetensors", "optimizer.safetensors"] {
            assert!(got[Path::new(file)] == expected[Path::new(file)], "{file} differs");
        }
    });
}

#[test]
fn a_cut_within_a_block_is_refused() {
    within_limit(|| {
        let mut finetune = quantized();
        finetune.model.as_llava_mut().unwrap().text_config.intermediate_size = 96;
        finetune.trainer.strategy.tensor_model_parallel_size = 2;
        let parameters = neva_layout::Families::builtin().resolve(&finetune.model, "").unwrap();
        let parameters = parameters.parameters(finetune.trainer.strategy.vision_placement);
        let problem = neva_layout::quantization_problem(&parameters, &finetune, "finetune.peft").unwrap();
        assert_eq!(
            problem.message,
            "with 2 tensor-parallel ranks, `model.language_model.layers.0.mlp.down_proj.weight` [128, 96] is cut by columns within blocks of 64 values, which have one scale each"
        );
        finetune.trainer.strategy.tensor_model_parallel_size = 1;
        assert_eq!(neva_layout::quantization_problem(&parameters, &finetune, "finetune.peft"), None);
    });
}
