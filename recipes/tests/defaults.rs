//! Compares the values of each recipe with NeMo's tables.

use neva_recipes::{RECIPES, find};
use neva_schemas::{Data, Finetune, LossNormalization, LrScheduler, PeftScheme, RecipeArgs, Validate};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn recipe(name: &str, args: RecipeArgs) -> Finetune {
    (find(name).expect("a recipe").finetune)(args)
}

/// Checks values at JSON pointers of the graph.
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

/// `nemo_compat` changes only what NeMo's code does differently from its documentation.
#[test]
fn nemo_compat_freezes_the_encoder_and_averages_over_microbatches() {
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
            let model = expect.model.as_llava_mut().unwrap();
            model.freeze_vision_model = true;
            // For data that are set afterwards.
            expect.nemo_compat = true;
            assert_eq!(graph(true), expect, "{} {peft_scheme:?}", entry.name);
        }
    }
}

/// Returns the values of NeMo 2.4's recipes, and ours without a counterpart: `nemo_2_4.json`.
fn table() -> Value {
    serde_json::from_str(include_str!("nemo_2_4.json")).expect("JSON")
}

/// Collects every value below `value` that is not a map, by JSON pointer.
fn leaves(at: String, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(format!("{at}/{name}"), value, found);
            }
        }
        _ => drop(found.insert(at, value.clone())),
    }
}

/// All values of a large recipe are in the table, as NeMo's or as ours with the reason, and the table has no others.
#[test]
fn the_large_recipes_have_the_values_of_nemos_recipes() {
    let table = table();
    let entries = |value: &Value| -> BTreeMap<String, Value> { value.as_object().expect("a map").clone().into_iter().collect() };
    for (name, schemes) in entries(&table["recipes"]) {
        for (scheme, key) in [(PeftScheme::None, "none"), (PeftScheme::Lora, "lora")] {
            let mut expected = entries(&table["all"]);
            for part in ["both", key] {
                expected.extend(entries(&schemes[part]));
            }
            for (pointer, ours) in entries(&table["ours"]) {
                assert!(ours["why"].as_str().is_some_and(|why| why.ends_with('.')), "{pointer} says why");
                if let Some(value) = ours["values"].get(&name).or(ours["values"].get("")) {
                    let nemos = expected.insert(pointer.clone(), value.clone());
                    assert_eq!(nemos, None, "{name}: {pointer} is NeMo's or ours");
                }
            }
            let args = RecipeArgs {
                peft_scheme: scheme,
                ..RecipeArgs::default()
            };
            let mut found = BTreeMap::new();
            leaves(String::new(), &serde_json::to_value(recipe(&name, args)).expect("JSON"), &mut found);
            for (pointer, value) in &found {
                assert_eq!(
                    Some(value),
                    expected.get(pointer),
                    "{name} {scheme:?} {pointer}: left the recipe's, right the table's"
                );
            }
            let missing: Vec<_> = expected.keys().filter(|pointer| !found.contains_key(*pointer)).collect();
            assert!(missing.is_empty(), "{name} {scheme:?}: the recipe has no {missing:?}");
        }
    }
}

/// A setting of NeMo's that is implemented moves from that list to the compared values.
#[test]
fn unimplemented_settings_are_in_no_recipe() {
    let table = table();
    let to_come = table["to_come"].as_array().expect("a list");
    assert!(to_come.iter().any(|setting| setting["name"] == "tp_comm_overlap"));
    for entry in RECIPES {
        let mut found = BTreeMap::new();
        let graph = serde_json::to_value((entry.finetune)((entry.default_args)())).expect("JSON");
        leaves(String::new(), &graph, &mut found);
        for setting in to_come {
            let name = setting["name"].as_str().expect("a name");
            assert!(
                !found.keys().any(|pointer| pointer.ends_with(&format!("/{name}"))),
                "{}: {name} is built: compare it",
                entry.name
            );
        }
    }
}

/// The image token has a row in the embedding.
#[test]
fn the_image_token_is_in_the_vocabulary() {
    for entry in RECIPES {
        let finetune = (entry.finetune)((entry.default_args)());
        let model = finetune.model.as_llava().unwrap();
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
    let (text, vision) = (
        &graph.model.as_llava().unwrap().text_config,
        &graph.model.as_llava().unwrap().vision_config,
    );
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
