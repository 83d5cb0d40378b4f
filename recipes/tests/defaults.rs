//! What each recipe gives, against NeMo's tables.

use neva_recipes::{RECIPES, find};
use neva_schemas::{Data, Finetune, LrScheduler, PeftScheme, RecipeArgs, Validate};
use serde_json::{Value, json};

fn recipe(name: &str, args: RecipeArgs) -> Finetune {
    (find(name).expect("a recipe").finetune)(args)
}

/// Values at JSON pointers of the graph.
fn check(name: &str, scheme: PeftScheme, expect: &[(&str, Value)]) {
    let graph = serde_json::to_value(recipe(
        name,
        RecipeArgs {
            peft_scheme: scheme,
            ..RecipeArgs::default()
        },
    ))
    .expect("JSON");
    for (pointer, value) in expect {
        assert_eq!(graph.pointer(pointer).unwrap_or(&Value::Null), value, "{name} {scheme:?} {pointer}");
    }
}

#[test]
fn the_scheme_decides_parallelism_learning_rate_and_adapters() {
    let tp = "/trainer/strategy/tensor_model_parallel_size";
    let lr = "/optim/optim.AdamW/lr";
    check(
        "llava15_7b",
        PeftScheme::None,
        &[(tp, json!(2)), (lr, json!(2e-5)), ("/peft", Value::Null)],
    );
    check(
        "llava15_7b",
        PeftScheme::Lora,
        &[
            (tp, json!(1)),
            (lr, json!(1e-4)),
            ("/peft/vlm.LoRA/dim", json!(32)),
            ("/peft/vlm.LoRA/alpha", json!(32.0)),
            ("/peft/vlm.LoRA/dropout", json!(0.0)),
            ("/peft/vlm.LoRA/freeze_vision_model", json!(false)),
            ("/peft/vlm.LoRA/freeze_language_model", json!(true)),
            (
                "/peft/vlm.LoRA/target_modules",
                json!([
                    "*.language_model.*.linear_qkv",
                    "*.language_model.*.linear_q",
                    "*.language_model.*.linear_kv",
                    "*.language_model.*.linear_proj",
                    "*.language_model.*.linear_fc1",
                    "*.language_model.*.linear_fc2"
                ]),
            ),
        ],
    );
    check(
        "neva_tiny",
        PeftScheme::None,
        &[(tp, json!(1)), (lr, json!(2e-3)), ("/peft", Value::Null)],
    );
    check(
        "neva_tiny",
        PeftScheme::Lora,
        &[
            (lr, json!(5e-3)),
            ("/peft/vlm.LoRA/dim", json!(8)),
            ("/peft/vlm.LoRA/alpha", json!(16.0)),
        ],
    );
}

#[test]
fn llava15_7b_has_the_values_of_nemos_recipe() {
    for scheme in [PeftScheme::None, PeftScheme::Lora] {
        let expect = [
            ("/model/vlm.LlavaModel/freeze_language_model", json!(false)),
            ("/model/vlm.LlavaModel/freeze_vision_model", json!(false)),
            ("/model/vlm.LlavaModel/freeze_vision_projection", json!(false)),
            ("/trainer/accelerator", json!("gpu")),
            ("/trainer/max_steps", json!(5190)),
            ("/trainer/log_every_n_steps", json!(1)),
            ("/trainer/strategy/pipeline_model_parallel_size", json!(1)),
            ("/trainer/plugins/nl.MegatronMixedPrecision/precision", json!("bf16-mixed")),
            ("/data/vlm.MockDataModule/seq_length", json!(4096)),
            ("/data/vlm.MockDataModule/global_batch_size", json!(128)),
            ("/data/vlm.MockDataModule/micro_batch_size", json!(2)),
            ("/data/vlm.MockDataModule/num_workers", json!(4)),
            ("/optim/optim.AdamW/weight_decay", json!(0.1)),
            ("/optim/optim.AdamW/betas", json!([0.9, 0.95])),
            ("/optim/optim.AdamW/eps", json!(1e-5)),
            ("/optim/optim.AdamW/clip_grad", json!(1.0)),
            (
                "/optim/optim.AdamW/lr_scheduler/CosineAnnealing",
                json!({"warmup_steps": 150, "constant_steps": 0, "min_lr": 2e-7}),
            ),
            ("/log/ckpt/save_top_k", json!(10)),
            ("/resume/restore_config/path", json!("nemo://llava-hf/llava-1.5-7b-hf")),
            ("/resume/resume_if_exists", json!(false)),
        ];
        check("llava15_7b", scheme, &expect);
    }
}

#[test]
fn neva_tiny_is_tiny() {
    let graph = recipe("neva_tiny", neva_recipes::neva_tiny::default_args());
    let (text, vision) = (&graph.model.llava().text_config, &graph.model.llava().vision_config);
    let head = text.head_dim();
    let decoder =
        text.hidden_size * head * 2 * (text.num_attention_heads + text.num_key_value_heads) + 3 * text.hidden_size * text.intermediate_size;
    let encoder = 4 * vision.hidden_size.pow(2) + 2 * vision.hidden_size * vision.intermediate_size;
    let matrices = 2 * text.vocab_size * text.hidden_size
        + text.num_hidden_layers * decoder
        + vision.num_hidden_layers * encoder
        + vision.num_channels * vision.patch_size.pow(2) * vision.hidden_size
        + (vision.hidden_size + text.hidden_size) * text.hidden_size;
    assert!((2_000_000..2_500_000).contains(&matrices), "{matrices} parameters");
    assert!(matches!(graph.data, Data::Mock(_)), "needs no file");
    assert_eq!(graph.resume.restore_config, None);
    assert!(graph.model.llava().image_token_index < text.vocab_size as i64);
    assert_eq!(graph.trainer.timeout_s, 60);
    let LrScheduler::CosineAnnealing { warmup_steps, min_lr, .. } = graph.optim.adamw().lr_scheduler else {
        panic!("cosine")
    };
    assert_eq!((warmup_steps, min_lr), (10, 1e-5));
}

#[test]
fn arguments_reach_the_graph_and_defaults_are_valid() {
    for entry in RECIPES {
        for peft_scheme in [PeftScheme::None, PeftScheme::Lora] {
            let args = RecipeArgs {
                dir: Some("runs".into()),
                name: "mine".into(),
                num_nodes: 3,
                num_gpus_per_node: 4,
                peft_scheme,
            };
            let graph = (entry.finetune)(args);
            assert_eq!(graph.log.log_dir.as_deref(), Some("runs".as_ref()), "{}", entry.name);
            assert_eq!(
                (graph.log.name.as_str(), graph.trainer.num_nodes, graph.trainer.devices),
                ("mine", 3, 4),
                "{}",
                entry.name
            );

            let graph = (entry.finetune)(RecipeArgs {
                peft_scheme,
                ..(entry.default_args)()
            });
            assert_eq!(
                graph.problems("finetune"),
                [],
                "{} {peft_scheme:?}: neither errors nor warnings",
                entry.name
            );
        }
    }
}
