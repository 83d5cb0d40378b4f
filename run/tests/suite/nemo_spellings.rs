//! Spellings of NeMo-Run's users.

use neva_run::{
    config::{self, Problems, Source},
    load, resolve,
};
use serde_json::{Value, json};

fn try_graph(recipe: &str, sets: &[&str]) -> Result<Value, Problems> {
    let run = resolve(load(recipe).unwrap(), sets)?.run;
    Ok(serde_json::to_value(run).unwrap())
}

/// Returns a run as ranks read it.
#[track_caller]
fn graph(recipe: &str, sets: &[&str]) -> Value {
    try_graph(recipe, sets).unwrap_or_else(|error| panic!("{sets:?}: {}", config::render(&error, false)))
}

#[test]
fn booleans_are_read_in_every_spelling() {
    for (texts, expect) in [
        (&["true", "True", "TRUE", "tRue", "1", "yes", "Yes", "YES", "on", "ON"][..], true),
        (&["false", "False", "FALSE", "0", "no", "No", "off", "Off"], false),
    ] {
        for text in texts {
            let run = graph(
                "neva_tiny",
                &[&format!("nemo_compat={text}"), &format!("finetune.log.tensorboard={text}")],
            );
            assert_eq!(
                (&run["nemo_compat"], &run["finetune"]["log"]["tensorboard"]),
                (&json!(expect), &json!(expect)),
                "{text}"
            );
        }
    }
    for text in [
        "2", "-1", "1.0", "01", "y", "n", "t", "f", "", "null", "yess", "[true]", "\"true\"", "\"1\"",
    ] {
        assert!(try_graph("neva_tiny", &[&format!("nemo_compat={text}")]).is_err(), "{text}");
    }
    // Where no boolean is expected, the spelling stays.
    let run = graph("neva_tiny", &["name=yes", "finetune.trainer.max_steps=1"]);
    assert_eq!((&run["name"], &run["finetune"]["trainer"]["max_steps"]), (&json!("yes"), &json!(1)));
}

#[test]
fn a_tuple_is_a_list() {
    let optim = "/finetune/optim/optim.AdamW";
    for (set, pointer, expect) in [
        ("finetune.optim.betas=(0.9, 0.99)", format!("{optim}/betas"), json!([0.9, 0.99])),
        ("finetune.optim.betas=(0.9,0.99,)", format!("{optim}/betas"), json!([0.9, 0.99])),
        (
            "finetune.optim={_target_: optim.AdamW, betas: \"(0.9, 0.99)\"}",
            String::new(),
            Value::Null,
        ),
        (
            "finetune.optim=optim.AdamW(lr=1, betas=(0.9, 0.99))",
            format!("{optim}/betas"),
            json!([0.9, 0.99]),
        ),
        ("finetune.optim.param_groups=()", format!("{optim}/param_groups"), json!([])),
        (
            "finetune.optim.param_groups=[{params: ('*.bias',), lr: 1}]",
            format!("{optim}/param_groups/0/params"),
            json!(["*.bias"]),
        ),
    ] {
        if pointer.is_empty() {
            // Quotes make it text.
            assert!(try_graph("neva_tiny", &[set]).is_err(), "{set}");
            continue;
        }
        assert_eq!(graph("neva_tiny", &[set]).pointer(&pointer), Some(&expect), "{set}");
    }
    for (set, params) in [
        ("finetune.optim.param_groups=[dict(params=list('a,b'), lr=2)]", json!(["a,b"])),
        ("finetune.optim.param_groups=list(dict(params=('it''s',)))", json!(["it's"])),
        ("finetune.optim.param_groups=tuple({params: set(\"a\\\"b\")})", json!(["a\"b"])),
    ] {
        let run = graph("neva_tiny", &[set]);
        assert_eq!(run.pointer(&format!("{optim}/param_groups/0/params")), Some(&params), "{set}");
    }
    let betas = graph("neva_tiny", &["finetune.optim.betas=tuple(0.5, 0.75)"]);
    assert_eq!(betas.pointer(&format!("{optim}/betas")), Some(&json!([0.5, 0.75])));
    let modules = "finetune.peft.target_modules=('*.linear_qkv', '*.linear_proj')";
    let run = graph("llava15_7b", &[modules]);
    assert_eq!(
        run["finetune"]["peft"]["vlm.LoRA"]["target_modules"],
        json!(["*.linear_qkv", "*.linear_proj"])
    );
    // Also in a file.
    let file = "_factory_: neva_tiny\nfinetune:\n  optim:\n    betas: (0.8, 0.9)\n";
    let run = resolve(config::parse(&Source::new("run.yaml", file)).unwrap(), &[""; 0])
        .unwrap()
        .run;
    assert_eq!(
        serde_json::to_value(run.finetune.optim).unwrap()["optim.AdamW"]["betas"],
        json!([0.8, 0.9])
    );
    for wrong in ["(0.9, 0.99", "(0.9)(0.99)", "(0.9, (0.99)", "(0.9)", "(a, b)"] {
        assert!(
            try_graph("neva_tiny", &[&format!("finetune.optim.betas={wrong}")]).is_err(),
            "{wrong}"
        );
    }
    // Text in parentheses stays text where text is expected.
    let error = try_graph("neva_tiny", &["name=(a)"]).unwrap_err();
    assert!(
        error.to_string().contains("(a)"),
        "a name is a text, and this one no folder's: {error}"
    );
}

#[test]
fn a_class_alone_can_be_overridden() {
    let schedule = "finetune.optim.lr_scheduler";
    for (sets, pointer, expect) in [
        (
            &["finetune.optim=torch.optim.AdamW", "finetune.optim.lr=3"][..],
            "/optim/optim.AdamW/lr",
            json!(3.0),
        ),
        (
            &["finetune.optim=optim.AdamW", "finetune.optim|={lr: 3}"],
            "/optim/optim.AdamW/lr",
            json!(3.0),
        ),
        (
            &[&format!("{schedule}=CosineAnnealing"), &format!("{schedule}.warmup_steps=7")],
            "/optim/optim.AdamW/lr_scheduler/CosineAnnealing/warmup_steps",
            json!(7),
        ),
    ] {
        let run = graph("neva_tiny", sets);
        assert_eq!(run["finetune"].pointer(pointer), Some(&expect), "{sets:?}");
    }
    for wrong in ["name.x=1", "finetune.trainer.max_steps.x=1"] {
        assert!(try_graph("neva_tiny", &["name=Run", wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn plus_joins_texts() {
    for (sets, expect) in [
        (&["name+=_v2"][..], "default_v2"),
        (&["name=a", "name+=b", "name+=c"], "abc"),
        (&["name+=2"], "default2"),
        (&["name+=\"-2\""], "default-2"),
    ] {
        assert_eq!(graph("neva_tiny", sets)["name"], json!(expect), "{sets:?}");
    }
    // Numbers are added, whatever their type; text and a number are not joined.
    assert_eq!(
        graph("neva_tiny", &["num_nodes=1", "num_gpus_per_node+=1"])["num_gpus_per_node"],
        json!(2)
    );
    for wrong in ["finetune.optim.lr+=fast", "finetune.trainer.max_steps+=x", "finetune.peft+=x"] {
        assert!(try_graph("neva_tiny", &[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn nemo_class_names_are_accepted() {
    for (set, pointer, expect) in [
        ("finetune.peft=llm.peft.LoRA(dim=8)", "/peft/vlm.LoRA/dim", json!(8)),
        (
            "finetune.peft={_target_: nemo.collections.llm.peft.lora.LoRA, dim: 8}",
            "/peft/vlm.LoRA/dim",
            json!(8),
        ),
        (
            "finetune.peft={_target_: nemo.collections.vlm.peft.lora.LoRA}",
            "/peft/vlm.LoRA/dim",
            json!(32),
        ),
        (
            "finetune.data=vlm.data.MockDataModule(seq_length=64)",
            "/data/vlm.MockDataModule/seq_length",
            json!(64),
        ),
        (
            "finetune.data={_target_: nemo.collections.vlm.neva.data.mock.MockDataModule, seq_length: 64}",
            "/data/vlm.MockDataModule/seq_length",
            json!(64),
        ),
        ("finetune.optim=torch.optim.AdamW(lr=1)", "/optim/optim.AdamW/lr", json!(1.0)),
        (
            "finetune.optim.lr_scheduler=nl.lr_scheduler.CosineAnnealingScheduler(warmup_steps=7)",
            "/optim/optim.AdamW/lr_scheduler/CosineAnnealing/warmup_steps",
            json!(7),
        ),
        (
            "finetune.optim=distributed_fused_adam_with_cosine_annealing(max_lr=1e-3, warmup_steps=5)",
            "/optim/optim.AdamW/lr_scheduler/CosineAnnealing/min_lr",
            json!(1e-4),
        ),
        (
            "finetune.optim=llm.distributed_fused_adam_with_cosine_annealing(max_lr=1e-3, min_lr=0)",
            "/optim/optim.AdamW/lr",
            json!(1e-3),
        ),
        (
            "finetune.trainer.plugins=bf16_mixed()",
            "/trainer/plugins/nl.MegatronMixedPrecision/precision",
            json!("bf16-mixed"),
        ),
        (
            "finetune.trainer.plugins=bf16_mixed",
            "/trainer/plugins/nl.MegatronMixedPrecision/precision",
            json!("bf16-mixed"),
        ),
        (
            "finetune.trainer.callbacks=[pl.callbacks.EarlyStopping(patience=4)]",
            "/trainer/callbacks/0/nl.EarlyStopping/patience",
            json!(4),
        ),
        ("finetune.trainer=nl.Trainer(max_steps=5)", "/trainer/max_steps", json!(5)),
        ("finetune.trainer.strategy=nl.MegatronStrategy(timeout_minutes=5)", "", Value::Null),
        (
            "finetune.trainer.strategy=nl.MegatronStrategy(sequence_parallel=True)",
            "/trainer/strategy/sequence_parallel",
            json!(true),
        ),
        ("finetune.log=nl.NeMoLogger(name=mine)", "/log/name", json!("mine")),
        (
            "finetune.log.ckpt=nl.ModelCheckpoint(save_top_k=3)",
            "/log/ckpt/save_top_k",
            json!(3),
        ),
        (
            "finetune.resume=nl.AutoResume(restore_config=nl.RestoreConfig(path=/model))",
            "/resume/restore_config/path",
            json!("/model"),
        ),
        (
            "finetune.data=vlm.NevaPreloadedDataModule(paths=a.json, seq_length=64, global_batch_size=8, \
             data_config=vlm.ImageDataConfig(image_folder=/i))",
            "/data/vlm.NevaPreloadedDataModule/data_config/image_folder",
            json!("/i"),
        ),
        (
            "finetune.data=nemo.collections.multimodal.data.energon.EnergonMultiModalDataModule(path=/d, seq_length=256, global_batch_size=16, \
             multimodal_sample_config=MultiModalSampleConfig(image_token=ImageToken(token_str=\"[IMG]\", token_id=-200), \
             ignore_place_holder=-100), task_encoder=MultiModalTaskEncoder())",
            "/data/EnergonMultiModalDataModule/multimodal_sample_config/image_token/token_str",
            json!("[IMG]"),
        ),
    ] {
        if pointer.is_empty() {
            assert!(try_graph("neva_tiny", &[set]).is_err(), "{set}");
            continue;
        }
        let model = "finetune.data|={num_workers: 0}";
        let run = graph("neva_tiny", &[set, model]);
        assert_eq!(run["finetune"].pointer(pointer), Some(&expect), "{set}");
    }
    let run = graph(
        "llava15_7b",
        &["finetune.model=nemo.collections.vlm.LlavaModel(freeze_vision_model=1)"],
    );
    assert_eq!(run["finetune"]["model"]["vlm.LlavaModel"]["freeze_vision_model"], json!(true));
    // An override below another spelling of the type keeps the recipe's values.
    let run = graph("llava15_7b", &["finetune.peft|={_target_: llm.peft.LoRA, dim: 8}"]);
    assert_eq!(run["finetune"]["peft"]["vlm.LoRA"]["alpha"], json!(32.0));
    // The other schemes have defaults of their own.
    let run = graph("llava15_7b", &["finetune.peft=llm.peft.DoRA(dim=8)"]);
    let dora = &run["finetune"]["peft"]["llm.peft.DoRA"];
    assert_eq!(
        (&dora["alpha"], &dora["use_dora"], &dora["dim"]),
        (&json!(64.0), &json!(true), &json!(8))
    );
    let run = graph(
        "llava15_7b",
        &["finetune.peft=nemo.collections.llm.peft.CanonicalLoRA(dropout=0.1)"],
    );
    let canonical = &run["finetune"]["peft"]["llm.peft.CanonicalLoRA"];
    assert_eq!(
        (&canonical["alpha"], &canonical["target_modules"][0]),
        (&json!(32.0), &json!("linear_q"))
    );
    for wrong in [
        "finetune.peft=llm.peft.AdaLoRA(dim=8)",
        "finetune.peft=other.LoRA(dim=8)",
        "finetune.trainer=nl.MegatronStrategy(devices=1)",
        "finetune.trainer.callbacks=[\"pl::EarlyStopping\"]",
    ] {
        assert!(try_graph("neva_tiny", &[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn recipes_may_be_named_as_functions() {
    for (name, factory) in [
        ("vlm.llava15_7b.finetune_recipe", "llava15_7b"),
        ("nemo.collections.vlm.recipes.llava15_13b.finetune_recipe", "llava15_13b"),
        ("llava15_7b.pretrain_recipe", "llava15_7b_pretrain"),
        ("vlm.neva_llama3_8b.finetune_recipe", "neva_llama3_8b"),
    ] {
        let file = config::parse(&Source::new("run.yaml", format!("_factory_: {name}\n"))).unwrap();
        assert_eq!(resolve(file, &[""; 0]).unwrap().run.factory, factory);
    }
    for scheme in ["None", "none", "NONE", "LoRA", "Lora"] {
        graph("llava15_7b", &[&format!("peft_scheme={scheme}")]);
    }
}

#[test]
fn a_number_is_not_a_name() {
    for set in [
        "finetune.peft.target_modules=[1, 2]",
        "finetune.peft.target_modules+=5",
        "finetune.peft.target_modules+=[1e-4]",
        "finetune.peft.target_modules[+]=0.5",
        "finetune.peft.target_modules[0]=7",
        "finetune.optim.param_groups=[{params: [3]}]",
    ] {
        let error = try_graph("llava15_7b", &[set]).unwrap_err();
        let is_reported = |error: &config::ConfigError| error.to_string().contains("is a number, not the name of a");
        assert!(error.errors().iter().all(is_reported), "{set}: {error:?}");
    }
}

#[test]
fn a_section_of_comments_changes_nothing() {
    let resolved = |text: &str, sets: &[&str]| {
        let file = config::parse(&Source::new("run.yaml", format!("_factory_: llava15_7b\n{text}"))).unwrap();
        resolve(file, sets).map(|resolved| resolved.run)
    };
    let plain = resolved("", &[]).unwrap();
    for text in [
        "finetune:\n  trainer:\n    # max_steps: 5\n",
        "finetune:\n  trainer:\n    strategy:\n    # none\n  log:\n",
        "finetune:\n  model:\n    text_config:\n  data:\n  optim:\n    lr_scheduler:\n    betas:\n    # - 0.9\n",
        "finetune:\n  trainer:\n    callbacks:\n    # - {_target_: nl.EarlyStopping}\n",
        "finetune:\n",
    ] {
        let run = resolved(text, &[]).unwrap_or_else(|error| panic!("{text}{}", config::render(&error, false)));
        assert_eq!(run, plain, "{text}");
    }
    // Null keeps its meaning where it has one, and a written null is a null.
    assert!(resolved("finetune:\n  peft:\n", &[]).unwrap().finetune.peft.is_none());
    for text in [
        "finetune: {trainer: null}\n",
        "finetune:\n  trainer: ~\n",
        "finetune:\n  optim:\n    lr:\n",
    ] {
        assert!(resolved(text, &[]).is_err(), "{text}");
    }
    // A value that the recipe does not have gets its type's default.
    let data = "finetune:\n  data:\n    _target_: vlm.NevaPreloadedDataModule\n    paths: a.json\n    global_batch_size: 128\n    \
                data_config:\n    # conv_template: v1\n";
    resolved(data, &[]).unwrap_or_else(|error| panic!("{}", config::render(&error, false)));
}

/// NeMo's page on NeVA: its vision encoders, as a call, as a map, and below other fields.
#[test]
fn models_of_nemos_neva_page_are_known() {
    let vision = |class: &str| format!("finetune.model.vision_config={class}");
    let neva = |arguments: &str| format!("finetune.model=vlm.NevaConfig({arguments})");
    for (set, pointer, expect) in [
        (vision("vlm.CLIPViTL_14_336_Config"), "/vision_config/image_size", json!(336)),
        (
            vision("vlm.SigLIPViT400M_14_384_Config()"),
            "/vision_config/model_type",
            json!("siglip_vision_model"),
        ),
        (
            vision("vlm.SigLIPViT400M_14_384_Config(num_layers=2)"),
            "/vision_config/num_hidden_layers",
            json!(2),
        ),
        (
            vision("vlm.SigLIPViT400M_14_384_Config(num_layers=2)"),
            "/vision_config/intermediate_size",
            json!(4304),
        ),
        (
            vision("nemo.collections.vlm.InternViT_300M_448px_Config"),
            "/vision_config/image_size",
            json!(448),
        ),
        (
            vision("vlm.InternViTModel(config=vlm.InternViT_6B_448px_Config)"),
            "/vision_config/use_qk_norm",
            json!(true),
        ),
        (
            vision("vlm.HFCLIPVisionConfig(pretrained_model_name_or_path=openai/clip-vit-base-patch32)"),
            "/vision_config/patch_size",
            json!(32),
        ),
        (
            vision("{_target_: vlm.SigLIPViT400M_14_384_Config, image_size: 56}"),
            "/vision_config/image_size",
            json!(56),
        ),
        (
            vision("{_target_: vlm.SigLIPViT400M_14_384_Config, image_size: 56}"),
            "/vision_config/hidden_size",
            json!(1152),
        ),
        (
            "finetune.model=vlm.Llava15Config13B".to_owned(),
            "/text_config/hidden_size",
            json!(5120),
        ),
        (
            "finetune.model=vlm.LlavaModel(config=vlm.Llava15Config7B())".to_owned(),
            "/text_config/hidden_size",
            json!(4096),
        ),
        (
            "finetune.model=vlm.LlavaModel(vlm.Llava15Config13B())".to_owned(),
            "/text_config/hidden_size",
            json!(5120),
        ),
        (
            "finetune.model=vlm.NevaModel(vlm.Llava15Config13B, freeze_vision_model=True)".to_owned(),
            "/freeze_vision_model",
            json!(true),
        ),
        (
            vision("vlm.HFCLIPVisionConfig(openai/clip-vit-base-patch32)"),
            "/vision_config/patch_size",
            json!(32),
        ),
        (
            "finetune.model={_target_: vlm.LlavaModel, config: vlm.Llava15Config13B}".to_owned(),
            "/text_config/hidden_size",
            json!(5120),
        ),
        (
            "finetune.model={_target_: nemo.collections.vlm.LlavaModel, config: {_factory_: vlm.Llava15Config13B, freeze_vision_model: true}}"
                .to_owned(),
            "/freeze_vision_model",
            json!(true),
        ),
        (
            "finetune.model={_target_: vlm.NevaModel, config: vlm.Llava15Config13B, freeze_vision_model: true}".to_owned(),
            "/freeze_vision_model",
            json!(true),
        ),
        (
            vision("{_target_: vlm.InternViTModel, config: vlm.InternViT_6B_448px_Config}"),
            "/vision_config/use_qk_norm",
            json!(true),
        ),
        (
            "finetune.model=vlm.NevaModel(config=vlm.NevaConfig(freeze_vision_model=True))".to_owned(),
            "/freeze_vision_model",
            json!(true),
        ),
        (
            neva("vision_transformer_config=vlm.HFCLIPVisionConfig(pretrained_model_name_or_path=openai/clip-vit-large-patch14-336)"),
            "/vision_model_from_pretrained",
            json!("hf://openai/clip-vit-large-patch14-336"),
        ),
        (
            neva("vision_transformer_config=vlm.SigLIPViT400M_14_384_Config(), vision_model_from_pretrained=/models/siglip"),
            "/vision_model_from_pretrained",
            json!("/models/siglip"),
        ),
        (
            neva("vision_transformer_config=vlm.SigLIPViT400M_14_384_Config()"),
            "/vision_feature_select_strategy",
            json!("full"),
        ),
        (
            neva("drop_vision_class_token=False"),
            "/vision_feature_select_strategy",
            json!("full"),
        ),
        (
            neva("vision_projection_config=vlm.MultimodalProjectorConfig(projector_type=mcore_mlp)"),
            "/projector_type",
            json!("mcore_mlp"),
        ),
        (
            "finetune.model={_target_: vlm.NevaConfig, vision_transformer_config: {_target_: vlm.InternViT_300M_448px_Config}}".to_owned(),
            "/vision_config/model_type",
            json!("internvl_vision"),
        ),
        (
            "finetune.model.vision_feature_layer=[-2, -5]".to_owned(),
            "/vision_feature_layer",
            json!([-2, -5]),
        ),
        (
            "finetune.model.vision_feature_layer=-1".to_owned(),
            "/vision_feature_layer",
            json!(-1),
        ),
        (
            "finetune.model.projector_type=mlp3x_gelu".to_owned(),
            "/projector_type",
            json!("mlp3x_gelu"),
        ),
    ] {
        let run = graph("llava15_7b", &[&set]);
        let model = &run["finetune"]["model"]["vlm.LlavaModel"];
        assert_eq!(model.pointer(pointer), Some(&expect), "{set}");
    }
    for (wrong, expect) in [
        (vision("vlm.QwenVisionConfig"), "vlm.QwenVisionConfig"),
        (vision("{_target_: vlm.QwenVisionConfig}"), "vlm.QwenVisionConfig"),
        (vision("vlm.HFCLIPVisionConfig()"), "pretrained_model_name_or_path"),
        (vision("vlm.SigLIPViT400M_14_384_Config(27)"), "needs a name"),
        (
            "finetune.model=vlm.LlavaModel(vlm.Llava15Config13B, vlm.Llava15Config7B)".to_owned(),
            "needs a name",
        ),
        (vision("vlm.SigLIPViT400M_14_384_Config(use_qk_norm=true)"), "use_qk_norm"),
        (
            neva("vision_projection_config=vlm.MultimodalProjectorConfig(input_size=3)"),
            "input_size",
        ),
        ("finetune.model.projector_type=mlp0x_gelu".to_owned(), "mlp0x_gelu"),
        ("finetune.model.vision_feature_layer=[]".to_owned(), "empty"),
        ("finetune.model.vision_feature_layer=[-2, 99]".to_owned(), "99"),
        ("finetune.model.downsample_ratio=0.25".to_owned(), "downsample_ratio"),
    ] {
        let error = try_graph("llava15_7b", &[&wrong]).unwrap_err();
        let text = config::render(&error, false);
        assert!(text.contains(expect), "{wrong}: {text}");
    }
}
