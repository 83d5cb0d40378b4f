//! What each recipe gives, against NeMo's tables.

use neva_recipes::{RECIPES, find};
use neva_schemas::{Data, Finetune, LossNormalization, LrScheduler, Model, PeftScheme, RecipeArgs, Validate};
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
    let (none, lora) = (PeftScheme::None, PeftScheme::Lora);
    for (name, scheme, tp, lr, dim, alpha) in [
        ("llava15_7b", none, 2, 2e-5, Value::Null, Value::Null),
        ("llava15_7b", lora, 1, 1e-4, json!(32), json!(32.0)),
        ("llava15_13b", none, 2, 2e-5, Value::Null, Value::Null),
        ("llava15_13b", lora, 1, 1e-4, json!(32), json!(32.0)),
        ("llava15_7b_pretrain", none, 1, 1e-3, Value::Null, Value::Null),
        ("llava15_7b_pretrain", lora, 1, 1e-3, json!(32), json!(32.0)),
        ("neva_llama3_8b", none, 1, 3e-4, Value::Null, Value::Null),
        ("neva_llama3_8b", lora, 1, 3e-4, json!(32), json!(32.0)),
        ("neva_tiny", none, 1, 2e-3, Value::Null, Value::Null),
        ("neva_tiny", lora, 1, 5e-3, json!(8), json!(16.0)),
    ] {
        let expect = [
            ("/trainer/strategy/tensor_model_parallel_size", json!(tp)),
            ("/optim/optim.AdamW/lr", json!(lr)),
            ("/peft/vlm.LoRA/dim", dim),
            ("/peft/vlm.LoRA/alpha", alpha),
        ];
        check(name, scheme, &expect);
        if scheme == none {
            check(name, scheme, &[("/peft", Value::Null)]);
        }
    }
}

/// What NeMo's code does against its documents, and nothing else.
#[test]
fn nemo_compat_freezes_the_encoder_and_averages_over_micro_batches() {
    for entry in RECIPES {
        for peft_scheme in [PeftScheme::None, PeftScheme::Lora] {
            let graph = |nemo_compat| {
                (entry.finetune)(RecipeArgs {
                    peft_scheme,
                    nemo_compat,
                    ..(entry.default_args)()
                })
            };
            assert!(!(entry.default_args)().nemo_compat, "{}", entry.name);
            let mut expect = graph(false);
            assert_eq!(expect.trainer.loss_normalization, LossNormalization::GlobalToken, "{}", entry.name);
            expect.trainer.loss_normalization = LossNormalization::Microbatch;
            let Model::Llava(model) = &mut expect.model;
            model.freeze_vision_model = true;
            assert_eq!(graph(true), expect, "{} {peft_scheme:?}", entry.name);
        }
    }
}

#[test]
fn adapters_have_the_values_of_nemos_lora() {
    let modules = [
        "*.language_model.*.linear_qkv",
        "*.language_model.*.linear_q",
        "*.language_model.*.linear_kv",
        "*.language_model.*.linear_proj",
        "*.language_model.*.linear_fc1",
        "*.language_model.*.linear_fc2",
    ];
    for name in ["llava15_7b", "llava15_13b", "llava15_7b_pretrain", "neva_llama3_8b"] {
        let expect = [
            ("/peft/vlm.LoRA/dropout", json!(0.0)),
            ("/peft/vlm.LoRA/freeze_vision_model", json!(false)),
            ("/peft/vlm.LoRA/freeze_language_model", json!(true)),
            ("/peft/vlm.LoRA/target_modules", json!(modules)),
        ];
        check(name, PeftScheme::Lora, &expect);
    }
}

/// What NeMo's recipes have in common: precision, Megatron's axes, AdamW, the log.
#[test]
fn the_large_recipes_share_nemos_values() {
    for name in ["llava15_7b", "llava15_13b", "llava15_7b_pretrain", "neva_llama3_8b"] {
        for scheme in [PeftScheme::None, PeftScheme::Lora] {
            let expect = [
                ("/model/vlm.LlavaModel/freeze_vision_projection", json!(false)),
                ("/model/vlm.LlavaModel/vision_feature_layer", json!(-2)),
                ("/model/vlm.LlavaModel/vision_config/num_hidden_layers", json!(24)),
                ("/model/vlm.LlavaModel/vision_config/hidden_size", json!(1024)),
                ("/model/vlm.LlavaModel/vision_config/image_size", json!(336)),
                ("/trainer/accelerator", json!("gpu")),
                ("/trainer/strategy/pipeline_model_parallel_size", json!(1)),
                (
                    "/trainer/strategy/context_parallel_size",
                    json!(if name == "neva_llama3_8b" { 2 } else { 1 }),
                ),
                ("/trainer/plugins/nl.MegatronMixedPrecision/precision", json!("bf16-mixed")),
                ("/data/vlm.MockDataModule/num_workers", json!(4)),
                ("/optim/optim.AdamW/weight_decay", json!(0.1)),
                ("/optim/optim.AdamW/betas", json!([0.9, 0.95])),
                ("/optim/optim.AdamW/eps", json!(1e-5)),
                ("/optim/optim.AdamW/clip_grad", json!(1.0)),
                ("/log/ckpt/save_top_k", json!(10)),
            ];
            check(name, scheme, &expect);
        }
    }
}

/// A column of NeMo's tables.
struct Column {
    /// Vocabulary, width, MLP, layers, heads, key and value heads, longest sequence.
    text: [u64; 7],
    rope_theta: f64,
    initializer_range: f64,
    /// Language model, vision encoder.
    frozen: [bool; 2],
    /// Sequence length, global batch, micro-batch.
    data: [u64; 3],
    /// Steps, steps of warm-up, steps between two lines of the log.
    steps: [u64; 3],
    min_lr: f64,
    restore: Value,
    resume_if_exists: bool,
}

#[test]
fn the_large_recipes_have_the_values_of_nemos_tables() {
    let llava15_7b = || Column {
        text: [32064, 4096, 11008, 32, 32, 32, 4096],
        rope_theta: 1e4,
        initializer_range: 0.02,
        frozen: [false, false],
        data: [4096, 128, 2],
        steps: [5190, 150, 1],
        min_lr: 2e-7,
        restore: json!("nemo://llava-hf/llava-1.5-7b-hf"),
        resume_if_exists: false,
    };
    let llava15_13b = Column {
        text: [32064, 5120, 13824, 40, 40, 40, 4096],
        data: [4096, 128, 1],
        restore: json!("nemo://llava-hf/llava-1.5-13b-hf"),
        ..llava15_7b()
    };
    let pretrain = Column {
        frozen: [true, true],
        steps: [5190, 70, 1],
        min_lr: 2e-5,
        ..llava15_7b()
    };
    let neva_llama3_8b = Column {
        text: [128_256, 4096, 14336, 32, 32, 8, 8192],
        rope_theta: 5e5,
        initializer_range: 0.01,
        frozen: [false, true],
        data: [8192, 512, 1],
        steps: [1_168_251, 2000, 10],
        min_lr: 3e-5,
        restore: Value::Null,
        resume_if_exists: true,
    };
    for (name, column) in [
        ("llava15_7b", llava15_7b()),
        ("llava15_13b", llava15_13b),
        ("llava15_7b_pretrain", pretrain),
        ("neva_llama3_8b", neva_llama3_8b),
    ] {
        let [vocab, hidden, mlp, layers, heads, kv_heads, longest] = column.text;
        let [seq_length, global, micro] = column.data;
        let [max_steps, warmup, log_every] = column.steps;
        let expect = [
            ("/model/vlm.LlavaModel/text_config/vocab_size", json!(vocab)),
            ("/model/vlm.LlavaModel/text_config/hidden_size", json!(hidden)),
            ("/model/vlm.LlavaModel/text_config/intermediate_size", json!(mlp)),
            ("/model/vlm.LlavaModel/text_config/num_hidden_layers", json!(layers)),
            ("/model/vlm.LlavaModel/text_config/num_attention_heads", json!(heads)),
            ("/model/vlm.LlavaModel/text_config/num_key_value_heads", json!(kv_heads)),
            ("/model/vlm.LlavaModel/text_config/max_position_embeddings", json!(longest)),
            ("/model/vlm.LlavaModel/text_config/rms_norm_eps", json!(1e-5)),
            ("/model/vlm.LlavaModel/text_config/rope_theta", json!(column.rope_theta)),
            (
                "/model/vlm.LlavaModel/text_config/initializer_range",
                json!(column.initializer_range),
            ),
            ("/model/vlm.LlavaModel/text_config/tie_word_embeddings", json!(false)),
            ("/model/vlm.LlavaModel/freeze_language_model", json!(column.frozen[0])),
            ("/model/vlm.LlavaModel/freeze_vision_model", json!(column.frozen[1])),
            ("/data/vlm.MockDataModule/seq_length", json!(seq_length)),
            ("/data/vlm.MockDataModule/global_batch_size", json!(global)),
            ("/data/vlm.MockDataModule/micro_batch_size", json!(micro)),
            ("/trainer/max_steps", json!(max_steps)),
            ("/trainer/log_every_n_steps", json!(log_every)),
            (
                "/optim/optim.AdamW/lr_scheduler/CosineAnnealing",
                json!({"warmup_steps": warmup, "warmup_ratio": null, "constant_steps": 0, "min_lr": column.min_lr}),
            ),
            ("/resume/restore_config/path", column.restore),
            ("/resume/resume_if_exists", json!(column.resume_if_exists)),
            ("/resume/resume_ignore_no_checkpoint", json!(column.resume_if_exists)),
        ];
        for scheme in [PeftScheme::None, PeftScheme::Lora] {
            check(name, scheme, &expect);
            // On where there is something to cut.
            let cut = scheme == PeftScheme::None && ["llava15_7b", "llava15_13b"].contains(&name);
            let strategy = [
                ("/trainer/strategy/tensor_model_parallel_size", json!(if cut { 2 } else { 1 })),
                ("/trainer/strategy/sequence_parallel", json!(cut)),
                ("/trainer/strategy/ddp/use_distributed_optimizer", json!(true)),
                ("/trainer/strategy/ddp/overlap_grad_reduce", json!(true)),
                ("/trainer/strategy/ddp/overlap_param_gather", json!(true)),
            ];
            check(name, scheme, &strategy);
        }
    }
}

/// Every picture's token has a row in the embedding.
#[test]
fn the_picture_token_is_in_the_vocabulary() {
    for entry in RECIPES {
        let finetune = (entry.finetune)((entry.default_args)());
        let model = finetune.model.llava();
        assert!(
            (0..model.text_config.vocab_size as i64).contains(&model.image_token_index),
            "{}",
            entry.name
        );
    }
}

#[test]
fn only_the_alias_has_a_notice_and_it_is_the_13b_recipe() {
    let noticed: Vec<_> = RECIPES
        .iter()
        .filter(|entry| entry.notice.is_some())
        .map(|entry| entry.name)
        .collect();
    assert_eq!(noticed, ["llava15_11b"]);
    for peft_scheme in [PeftScheme::None, PeftScheme::Lora] {
        let args = RecipeArgs {
            peft_scheme,
            ..RecipeArgs::default()
        };
        assert_eq!(recipe("llava15_11b", args.clone()), recipe("llava15_13b", args));
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
    assert_eq!(graph.trainer.timeout_s, 60);
    let LrScheduler::CosineAnnealing { warmup_steps, min_lr, .. } = *graph.optim.lr_scheduler() else {
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
                nemo_compat: false,
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
