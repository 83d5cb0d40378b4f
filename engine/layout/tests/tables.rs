//! Parameter tables: names, cuts, adapters, sizes, and reading of `config.json`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use neva_layout::{Cut, Families, HfConfigError, Init, ModelTable, ParamSpec, Part, PartialSum, Stage, from_hf_config, lora_adapters};
use neva_schemas::{FeatureSelect, LlavaModel, LoRA, Model, Peft, TextConfig, VisionConfig, VisionPlacement};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Returns a model with two layers in each part, heads of width 4, and 2 key heads for 4 query heads.
fn model() -> LlavaModel {
    LlavaModel {
        text_config: TextConfig {
            vocab_size: 200,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..TextConfig::default()
        },
        vision_config: VisionConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            image_size: 28,
            ..VisionConfig::default()
        },
        ..LlavaModel::default()
    }
}

fn table(model: &LlavaModel) -> ModelTable {
    Families::builtin().resolve(&Model::Llava(model.clone()), "model").unwrap()
}

fn parameters(model: &LlavaModel) -> Vec<ParamSpec> {
    table(model).parameters(VisionPlacement::Shared)
}

fn lora(targets: &[&str]) -> LoRA {
    LoRA {
        target_modules: targets.iter().map(ToString::to_string).collect(),
        dim: 3,
        ..LoRA::default()
    }
}

/// Returns the linears that `targets` match, without the language model's prefix.
fn adapted(targets: &[&str]) -> Vec<String> {
    let model = model();
    let adapters = lora_adapters(&parameters(&model), &lora(targets), "peft").unwrap();
    let short = |name: &String| name.replace("model.language_model.layers.", "");
    adapters.linears.keys().map(short).collect()
}

#[test]
fn targets_are_last_components_or_wildcards_over_full_names() {
    let check = |targets: &[&str], expect: &[&str]| assert_eq!(adapted(targets), expect, "{targets:?}");
    let qkv = ["0.self_attn.k_proj", "0.self_attn.q_proj", "0.self_attn.v_proj"];
    let second = ["1.self_attn.k_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"];
    check(&["linear_qkv"], &[qkv, second].concat());
    check(&["*.language_model.*.linear_qkv"], &[qkv, second].concat());
    check(&["*.layers.1.*.linear_qkv"], &second);
    check(&["module.language_model.decoder.layers.0.self_attention.linear_qkv"], &qkv);
    check(&["*layers.0*qkv"], &qkv);
    check(&["linear_proj"], &["0.self_attn.o_proj", "1.self_attn.o_proj"]);
    check(
        &["linear_fc1"],
        &["0.mlp.gate_proj", "0.mlp.up_proj", "1.mlp.gate_proj", "1.mlp.up_proj"],
    );
    check(&["linear_fc2"], &["0.mlp.down_proj", "1.mlp.down_proj"]);
    check(&["*.language_model.*.q_proj"], &["0.self_attn.q_proj", "1.self_attn.q_proj"]);
    check(
        &["*.1.*.gate_proj", "linear_proj"],
        &["0.self_attn.o_proj", "1.mlp.gate_proj", "1.self_attn.o_proj"],
    );
    check(
        &["*projector*"],
        &["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"],
    );
    // A bare component also matches linears of the encoder, with the last layer that never runs, as in PEFT.
    let vision = [0, 1].map(|layer| format!("model.vision_tower.encoder.layers.{layer}.self_attn.q_proj"));
    check(&["q_proj"], &["0.self_attn.q_proj", "1.self_attn.q_proj", &vision[0], &vision[1]]);
    // A pattern is a regular expression in which a star stands for anything.
    check(&["*.layers.(0|9).*.linear_qkv"], &qkv);
    check(&["module.language_model.decoder.layers.0.self.attention.linear_qkv"], &qkv);
    check(
        &["*.language_model.layers.[1-9].*(?<!down_)proj"],
        &[
            "1.mlp.gate_proj",
            "1.mlp.up_proj",
            "1.self_attn.k_proj",
            "1.self_attn.o_proj",
            "1.self_attn.q_proj",
            "1.self_attn.v_proj",
        ],
    );
    // NeMo's six targets, two of which match nothing here.
    assert_eq!(
        adapted(&LoRA::default().target_modules.iter().map(String::as_str).collect::<Vec<_>>()).len(),
        14
    );
    // Many stars do not take forever.
    let stars = "*a".repeat(40);
    check(&[&stars, "linear_proj"], &["0.self_attn.o_proj", "1.self_attn.o_proj"]);
}

#[test]
fn adapters_are_cut_as_their_linears() {
    let model = model();
    let check = |target: &str, expect: &[(&str, [usize; 2], Cut)]| {
        let adapters = lora_adapters(&parameters(&model), &lora(&[target]), "peft").unwrap();
        let got: Vec<_> = adapters
            .parameters
            .iter()
            .map(|spec| (spec.name.as_str(), [spec.shape[0], spec.shape[1]], spec.cut))
            .collect();
        let full: Vec<_> = expect
            .iter()
            .map(|(name, ..)| format!("model.language_model.layers.0.{name}.weight"))
            .collect();
        let expect: Vec<_> = full
            .iter()
            .zip(expect)
            .map(|(name, (_, shape, cut))| (name.as_str(), *shape, *cut))
            .collect();
        assert_eq!(got, expect, "{target}");
        for spec in &adapters.parameters {
            assert_eq!(spec.part, Part::Adapter);
            assert_eq!(spec.init == Init::Zeros, spec.name.ends_with("lora_B.weight"), "{}", spec.name);
        }
    };
    // One A for a fused module, one B for each of its linears.
    check(
        "*.layers.0.*.linear_qkv",
        &[
            ("self_attn.linear_qkv.lora_A", [3, 16], Cut::Replicate),
            ("self_attn.q_proj.lora_B", [16, 3], Cut::Column),
            ("self_attn.k_proj.lora_B", [8, 3], Cut::Column),
            ("self_attn.v_proj.lora_B", [8, 3], Cut::Column),
        ],
    );
    check(
        "*.layers.0.*.linear_fc1",
        &[
            ("mlp.linear_fc1.lora_A", [3, 16], Cut::Replicate),
            ("mlp.gate_proj.lora_B", [24, 3], Cut::Column),
            ("mlp.up_proj.lora_B", [24, 3], Cut::Column),
        ],
    );
    let k = [
        ("self_attn.k_proj.lora_A", [3, 16], Cut::Replicate),
        ("self_attn.k_proj.lora_B", [8, 3], Cut::Column),
    ];
    check("*language_model.layers.0.*.k_proj", &k);
    let down = [
        ("mlp.down_proj.lora_A", [3, 24], Cut::Row),
        ("mlp.down_proj.lora_B", [16, 3], Cut::Replicate),
    ];
    check("*.layers.0.*.linear_fc2", &down);
    check("*language_model.layers.0.*.down_proj", &down);
}

#[test]
fn wrong_targets_are_reported() {
    let model = model();
    let check = |targets: &[&str], expect: &[&str]| {
        let problems = lora_adapters(&parameters(&model), &lora(targets), "finetune.peft").unwrap_err();
        let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        for part in expect {
            assert!(text.contains(part), "{targets:?}: no {part:?} in {text}");
        }
    };
    check(
        &["linear_qkvs"],
        &[
            "finetune.peft.target_modules: no module matches",
            "linear_qkvs",
            "modules are named like module.language_model",
        ],
    );
    check(&["*.linear_Qkv", ""], &["no module matches"]);
    check(&["*.(linear_qkv"], &["target_modules: \"*.(linear_qkv\" is no regular expression"]);
    // Embedding and head are no linears.
    check(&["embed_tokens", "lm_head"], &["no module matches"]);
    check(
        &["linear_qkv", "q_proj"],
        &["layers.0.self_attn.q_proj` would get two adapters", "layers.1.self_attn.q_proj"],
    );
    check(&["linear_proj", "o_proj"], &["layers.0.self_attn.o_proj` would get two adapters"]);
    let unmatched = lora_adapters(&parameters(&model), &lora(&["linear_q", "linear_proj"]), "peft")
        .unwrap()
        .unmatched;
    assert_eq!(unmatched, [("target_modules", "linear_q".to_owned())]);
}

#[test]
fn no_targets_are_all_linears_that_are_not_excluded() {
    let adapters = |change: &dyn Fn(&mut LoRA)| {
        let mut lora = lora(&[]);
        change(&mut lora);
        lora_adapters(&parameters(&model()), &lora, "peft")
    };
    let all = adapters(&|_| {}).unwrap();
    // Seven of each decoder layer, six of each encoder layer, two of the projector; not the head.
    assert_eq!(all.linears.len(), 2 * 7 + 2 * 6 + 2);
    let fused = all.parameters.iter().filter(|spec| spec.name.ends_with("linear_qkv.lora_A.weight"));
    assert_eq!(fused.count(), 2);
    assert_eq!(adapters(&|lora| lora.target_modules = vec!["all-linear".into()]).unwrap(), all);
    let some = adapters(&|lora| {
        lora.exclude_modules = ["linear_qkv", "*vision_tower*", "linear_2", "lm_head"].map(str::to_owned).to_vec();
    });
    let some = some.unwrap();
    assert_eq!(some.linears.len(), 2 * 4 + 1);
    assert_eq!(some.unmatched, [("exclude_modules", "lm_head".to_owned())]);
    let none = adapters(&|lora| lora.exclude_modules = vec!["*".into()]).unwrap_err();
    assert!(none[0].message.contains("excludes every module"), "{none:?}");
}

#[test]
fn canonical_adapters_are_those_of_single_linears() {
    let Peft::CanonicalLoRA(lora) = serde_json::from_value(json!({ "llm.peft.CanonicalLoRA": { "dim": 3 } })).unwrap() else {
        panic!("the scheme has this name")
    };
    let adapters = lora_adapters(&parameters(&model()), &lora, "peft").unwrap();
    assert_eq!((adapters.linears.len(), adapters.unmatched.len()), (14, 0));
    assert_eq!(adapters.parameters.len(), 2 * 14);
    let q = &adapters.linears["model.language_model.layers.0.self_attn.q_proj"];
    assert_eq!(q.a, "model.language_model.layers.0.self_attn.q_proj.lora_A.weight");
}

#[test]
fn ranks_scales_and_magnitudes_are_those_of_each_linear() {
    let lora = LoRA {
        alpha: 8.0,
        use_rslora: true,
        use_dora: true,
        rank_pattern: [("q_proj".to_owned(), 4), (r"layers\.1\..*".to_owned(), 2), ("x_proj".to_owned(), 1)].into(),
        alpha_pattern: [("k_proj".to_owned(), 2.0)].into(),
        modules_to_save: vec!["norm".into(), "*.embed_tokens".into(), "head".into()],
        ..lora(&["q_proj", "k_proj", "linear_proj"])
    };
    let adapters = lora_adapters(&parameters(&model()), &lora, "peft").unwrap();
    let of = |name: &str| {
        let adapter = &adapters.linears[&format!("model.language_model.layers.{name}")];
        (adapter.rank, adapter.scale)
    };
    assert_eq!(of("0.self_attn.q_proj"), (4, 4.0));
    assert_eq!(of("1.self_attn.q_proj"), (4, 4.0));
    assert_eq!(of("0.self_attn.k_proj"), (3, 2.0 / 3f64.sqrt()));
    assert_eq!(of("1.self_attn.k_proj"), (2, 2.0 / 2f64.sqrt()));
    assert_eq!(of("1.self_attn.o_proj"), (2, 8.0 / 2f64.sqrt()));
    assert_eq!(
        adapters.unmatched,
        [("rank_pattern", "x_proj".to_owned()), ("modules_to_save", "head".to_owned())]
    );
    let cut = |name: &str| {
        let name = format!("model.language_model.layers.0.self_attn.{name}.lora_magnitude_vector");
        let spec = adapters.parameters.iter().find(|spec| spec.name == name).unwrap();
        (spec.shape.clone(), spec.cut, spec.heads, spec.partial_sum, spec.decays())
    };
    // Lengths of rows are cut as the rows are; those of row-parallel linears are on every rank.
    assert_eq!(cut("k_proj"), (vec![8], Cut::Column, Some(2), PartialSum::Never, false));
    assert_eq!(cut("o_proj"), (vec![16], Cut::Replicate, None, PartialSum::SequenceParallel, false));
}

#[test]
fn three_spellings_are_one_name() {
    let rows = [
        (
            "language_model.model.embed_tokens.weight",
            "model.language_model.embed_tokens.weight",
            "model.language_model.embed_tokens.weight",
        ),
        (
            "language_model.model.layers.3.mlp.up_proj.weight",
            "model.language_model.layers.3.mlp.up_proj.weight",
            "model.language_model.layers.3.mlp.up_proj.weight",
        ),
        (
            "language_model.model.norm.weight",
            "model.language_model.norm.weight",
            "model.language_model.norm.weight",
        ),
        ("language_model.lm_head.weight", "lm_head.weight", "lm_head.weight"),
        (
            "multi_modal_projector.linear_2.bias",
            "model.multi_modal_projector.linear_2.bias",
            "model.multi_modal_projector.linear_2.bias",
        ),
        (
            "vision_tower.vision_model.pre_layrnorm.bias",
            "model.vision_tower.vision_model.pre_layrnorm.bias",
            "model.vision_tower.pre_layrnorm.bias",
        ),
        (
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
            "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
            "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
        ),
    ];
    let table = table(&model());
    for (a, b, c) in rows {
        for name in [a, b, c] {
            assert_eq!(table.canonical_name(name).as_deref(), Some(c), "{name}");
        }
    }
    for foreign in [
        "",
        "model.",
        "layers.0.mlp.up_proj.weight",
        "model.embed_tokens.weight",
        "model.mm_projector.0.weight",
        "lm_headless",
        "vision_towers.x",
    ] {
        assert_eq!(table.canonical_name(foreign), None, "{foreign}");
    }
    // Every name of the table is its own canonical name, and no name comes twice.
    let specs = parameters(&model());
    for spec in &specs {
        assert_eq!(table.canonical_name(&spec.name).as_deref(), Some(spec.name.as_str()));
        assert!(!table.is_derived(&spec.name), "{}", spec.name);
    }
    assert_eq!(specs.iter().map(|spec| &spec.name).collect::<BTreeSet<_>>().len(), specs.len());
    assert!(table.is_derived("vision_tower.vision_model.embeddings.position_ids"));
    assert!(table.is_derived("language_model.model.layers.0.self_attn.rotary_emb.inv_freq"));
}

#[test]
fn shards_cover_every_index_once() {
    for size in [1, 63, 64, 65, 200, 320, 2000, 2048, 32000, 32064] {
        for tp in [1, 2, 4, 8] {
            check_shards(&spec(Cut::Vocab, [size, 4]), 0, tp);
            check_shards(&spec(Cut::Column, [size * tp, 4]), 0, tp);
            check_shards(&spec(Cut::Row, [4, size * tp]), 1, tp);
        }
    }
    assert_eq!(spec(Cut::Replicate, [8, 8]).shard(1, 2), None);
}

/// The tables define the cut of each parameter; replicated ones are norms, or in the vision tower.
#[test]
fn every_matrix_of_the_decoder_is_cut() {
    let cut = |end: &str| {
        let rows = parameters(&model());
        let cuts: BTreeSet<_> = rows
            .iter()
            .filter(|row| row.name.ends_with(end))
            .map(|row| format!("{:?}", row.cut))
            .collect();
        cuts.into_iter().collect::<Vec<_>>().join(" ")
    };
    for (end, expected) in [
        ("embed_tokens.weight", "Vocab"),
        ("lm_head.weight", "Vocab"),
        ("language_model.layers.0.self_attn.q_proj.weight", "Column"),
        ("language_model.layers.0.self_attn.k_proj.weight", "Column"),
        ("language_model.layers.0.self_attn.v_proj.weight", "Column"),
        ("self_attn.o_proj.weight", "Row"),
        ("gate_proj.weight", "Column"),
        ("up_proj.weight", "Column"),
        ("down_proj.weight", "Row"),
        ("norm.weight", "Replicate"),
        ("vision_tower.encoder.layers.0.self_attn.q_proj.weight", "Replicate"),
        ("linear_1.weight", "Replicate"),
    ] {
        assert_eq!(cut(end), expected, "{end}");
    }
}

fn spec(cut: Cut, shape: [usize; 2]) -> ParamSpec {
    ParamSpec {
        name: "weight".into(),
        shape: shape.to_vec(),
        init: Init::Zeros,
        cut,
        heads: None,
        stage: Stage::First,
        part: Part::Language,
        adapts: None,
        lora: None,
        partial_sum: PartialSum::Never,
        used: true,
    }
}

fn check_shards(spec: &ParamSpec, dim: usize, tp: usize) {
    let (name, shape) = (format!("{:?}", spec.cut), &spec.shape);
    let mut next = 0;
    for rank in 0..tp {
        let local = spec.local_shape(rank, tp);
        let Some(shard) = spec.shard(rank, tp) else {
            assert_eq!((tp, local), (1, spec.shape.clone()), "only a single rank holds all of {name}");
            return;
        };
        let at = format!("{name} {shape:?}, rank {rank} of {tp}: {shard:?}");
        assert_eq!((shard.dim, shard.start), (dim, next), "{at}");
        assert!(shard.len <= shard.padded, "{at}");
        assert_eq!((local[dim], local[1 - dim]), (shard.padded, shape[1 - dim]), "{at}");
        if spec.cut == Cut::Vocab {
            assert!(shard.padded.is_multiple_of(64) && shard.padded < shape[0] / tp + 65, "{at}");
        }
        next += shard.len;
    }
    assert_eq!(next, shape[dim], "{name} {shape:?} over {tp} ranks");
}

/// Returns a minimal `config.json` with `changes` as (pointer to an object, key, value).
fn config(changes: &[(&str, &str, Value)]) -> Value {
    let mut config =
        json!({"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}});
    for (at, key, value) in changes {
        config.pointer_mut(at).unwrap()[*key] = value.clone();
    }
    config
}

#[test]
fn absent_fields_have_the_defaults_of_transformers() {
    let model = from_hf_config(&config(&[])).unwrap();
    assert_eq!((model.image_token_index, model.vision_feature_layer), (32000, (-2).into()));
    assert_eq!(model.vision_feature_select_strategy, FeatureSelect::Default);
    let text = &model.text_config;
    assert_eq!((text.vocab_size, text.hidden_size, text.intermediate_size), (32000, 4096, 11008));
    assert_eq!(
        (text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads),
        (32, 32, 32)
    );
    assert_eq!(
        (text.rms_norm_eps, text.rope_theta, text.max_position_embeddings),
        (1e-6, 10000.0, 2048)
    );
    assert!(!text.tie_word_embeddings);
    let vision = &model.vision_config;
    assert_eq!(
        (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers),
        (768, 3072, 12)
    );
    assert_eq!((vision.num_attention_heads, vision.image_size, vision.patch_size), (12, 224, 32));
    assert_eq!(vision.layer_norm_eps, 1e-5);
}

#[test]
fn both_spellings_of_a_config_mean_the_same() {
    let check = |changes: &[(&str, &str, Value)], read: fn(&LlavaModel) -> Value, expect: Value| {
        assert_eq!(read(&from_hf_config(&config(changes)).unwrap()), expect, "{changes:?}");
    };
    let theta: fn(&LlavaModel) -> Value = |model| json!(model.text_config.rope_theta);
    let text = "/text_config";
    check(
        &[(text, "rope_theta", json!(5e5)), (text, "rope_scaling", Value::Null)],
        theta,
        json!(5e5),
    );
    check(
        &[(text, "rope_parameters", json!({"rope_theta": 5e5, "rope_type": "default"}))],
        theta,
        json!(5e5),
    );
    check(
        &[(text, "rope_theta", json!(5e5)), (text, "rope_parameters", Value::Null)],
        theta,
        json!(5e5),
    );
    check(&[(text, "rope_theta", json!(500000))], theta, json!(5e5));
    let image: fn(&LlavaModel) -> Value = |model| json!(model.image_token_index);
    check(&[("", "image_token_index", json!(7))], image, json!(7));
    check(&[("", "image_token_id", json!(7))], image, json!(7));
    let tied: fn(&LlavaModel) -> Value = |model| json!(model.text_config.tie_word_embeddings);
    check(&[("", "tie_word_embeddings", json!(true))], tied, json!(true));
    check(&[(text, "tie_word_embeddings", json!(true))], tied, json!(true));
    let heads: fn(&LlavaModel) -> Value = |model| json!([model.text_config.num_key_value_heads, model.text_config.head_dim()]);
    check(&[(text, "num_attention_heads", json!(16))], heads, json!([16, 256]));
    check(
        &[(text, "num_key_value_heads", json!(8)), (text, "head_dim", json!(64))],
        heads,
        json!([8, 64]),
    );
    check(&[(text, "head_dim", Value::Null)], heads, json!([32, 128]));
    let select: fn(&LlavaModel) -> Value = |model| json!([model.vision_feature_layer, model.vision_feature_select_strategy]);
    check(
        &[
            ("", "vision_feature_layer", json!(-1)),
            ("", "vision_feature_select_strategy", json!("full")),
        ],
        select,
        json!([-1, "full"]),
    );
}

#[test]
fn all_unsupported_fields_are_listed_at_once() {
    let check = |changes: &[(&str, &str, Value)], expect: &[&str]| {
        let HfConfigError::Unsupported(problems) = from_hf_config(&config(changes)).unwrap_err() else {
            panic!("{changes:?}: not the error that lists");
        };
        assert_eq!(problems.len(), expect.len(), "{changes:?}: {problems:?}");
        for part in expect {
            assert!(
                problems.iter().any(|problem| problem.contains(part)),
                "{changes:?}: no {part:?} in {problems:?}"
            );
        }
    };
    let (text, vision) = ("/text_config", "/vision_config");
    check(
        &[
            ("", "projector_hidden_act", json!("swiglu")),
            ("", "vision_feature_select_strategy", json!("cls")),
            ("", "mm_projector_type", json!("qformer")),
            (text, "model_type", json!("gemma")),
            (text, "hidden_act", json!("xielu")),
            (text, "rope_scaling", json!({"type": "yarn", "factor": 2.0})),
            (vision, "model_type", json!("dinov2")),
            (vision, "hidden_act", json!("swiglu")),
            (vision, "image_size", json!([28, 56])),
        ],
        &[
            "projector_hidden_act",
            "\"cls\"",
            "mm_projector_type",
            "text_config.model_type` is \"gemma\", supported: llama",
            "text_config.hidden_act",
            "\"yarn\"",
            "vision_config.model_type` is \"dinov2\", supported: clip_vision_model, siglip_vision_model, internvl_vision",
            "vision_config.hidden_act",
            "vision_config.image_size",
        ],
    );
    check(&[("", "model_type", json!("llava_next"))], &["`model_type` is \"llava_next\""]);
    check(&[(text, "rope_parameters", json!({"rope_type": "longrope"}))], &["\"longrope\""]);
    check(&[("", "vision_feature_layer", json!([-2, "x"]))], &["vision_feature_layer"]);
    check(&[("", "vision_feature_layer", json!([]))], &["vision_feature_layer"]);
    check(
        &[
            (text, "vocab_size", json!(-1)),
            (text, "hidden_size", json!(1.5)),
            (text, "rms_norm_eps", json!("x")),
            (vision, "patch_size", json!(1u64 << 40)),
        ],
        &["vocab_size", "hidden_size", "rms_norm_eps", "patch_size"],
    );
    check(
        &[("", "image_token_index", json!("a")), ("", "tie_word_embeddings", json!(1))],
        &["image_token_index", "tie_word_embeddings"],
    );
    for value in [json!(null), json!([]), json!("llava"), json!(1)] {
        assert_eq!(from_hf_config(&value).unwrap_err(), HfConfigError::NotAnObject);
    }
}

/// A value of the wrong kind anywhere in the file is an error or harmless, never a panic.
#[test]
fn odd_values_never_panic() {
    let full = serde_json::to_value(model()).unwrap();
    let fields = |at: &str| full.pointer(at).unwrap().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut refused = 0;
    for at in ["", "/text_config", "/vision_config"] {
        for key in fields(at) {
            for odd in [
                json!(0),
                json!(-3),
                json!(1e300),
                json!(u64::MAX),
                json!(""),
                json!([]),
                json!({}),
                json!(true),
            ] {
                if let Ok(model) = from_hf_config(&config(&[(at, &key, odd)])) {
                    model.vision_layers_used();
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 50, "only {refused} were refused");
}

#[test]
fn llava_15_7b_has_its_published_size() {
    let specs = parameters(&LlavaModel::default());
    let count = |part: Part| specs.iter().filter(|spec| spec.part == part).map(ParamSpec::numel).sum::<usize>();
    // Llama-2-7B is 6,738,415,616 with 32,000 tokens; LLaVA has 64 more, in embedding and head.
    assert_eq!(count(Part::Language), 6_738_415_616 + 2 * 64 * 4096);
    // CLIP ViT-L/14 at 336 pixels, post-norm included.
    assert_eq!(count(Part::Vision), 303_507_456);
    assert_eq!(count(Part::Projection), (1024 + 1) * 4096 + (4096 + 1) * 4096);
    assert_eq!(specs.iter().map(ParamSpec::numel).sum::<usize>(), 7_063_427_072);
    // 32 x 9 + 3 of the language, 24 x 16 + 7 of the encoder, 4 of the projector.
    assert_eq!(specs.len(), 291 + 391 + 4);
    // The last layer and the post-norm are stored for export, but not used.
    let unused: Vec<_> = specs.iter().filter(|spec| !spec.used).map(|spec| spec.name.as_str()).collect();
    assert_eq!(unused.len(), 16 + 2);
    assert!(
        unused
            .iter()
            .all(|name| name.contains(".layers.23.") || name.contains("post_layernorm"))
    );
    let mut tied = LlavaModel::default();
    tied.text_config.tie_word_embeddings = true;
    assert_eq!(parameters(&tied).len(), specs.len() - 1);
}
