//! The mixed precision plugin in recipes: names, recipe functions, refusals, and the effective precision of each part.

use neva_recipes::precision::PRECISIONS;
use neva_run::{config, load, resolve};
use neva_schemas::{Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, MixedPrecision, Precision, TorchDtype};

fn plugin(set: &str) -> MixedPrecision {
    let resolved = resolve(load("neva_tiny").unwrap(), &[set]);
    let run = resolved
        .unwrap_or_else(|error| panic!("{set}: {}", config::render(&error, false)))
        .run;
    run.finetune.trainer.mixed_precision().clone()
}

fn refusal(sets: &[&str]) -> String {
    let error = resolve(load("neva_tiny").unwrap(), sets).map(drop).unwrap_err();
    // Terminals wrap long lines.
    let text = config::render(&error, false).replace('│', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_spelling_of_class_and_values_is_read() {
    for target in [
        "MegatronMixedPrecision",
        "nl.MegatronMixedPrecision",
        "nemo.lightning.MegatronMixedPrecision",
    ] {
        for (precision, expect) in [
            ("32", Precision::Fp32),
            ("fp32", Precision::Fp32),
            ("bf16", Precision::Bf16Mixed),
            ("bf16-mixed", Precision::Bf16Mixed),
            ("16", Precision::Fp16Mixed),
            ("16-mixed", Precision::Fp16Mixed),
            ("fp16", Precision::Fp16Mixed),
        ] {
            for set in [
                format!("finetune.trainer.plugins={{_target_: {target}, precision: {precision}}}"),
                format!("finetune.trainer.plugins={target}(precision={precision})"),
                format!("finetune.trainer.plugins={target}(precision=\"{precision}\")"),
            ] {
                assert_eq!(plugin(&set).precision, expect, "{set}");
            }
        }
    }
    for name in ["torch.bfloat16", "bfloat16", "bf16"] {
        let set = format!("finetune.trainer.plugins={{_target_: nl.MegatronMixedPrecision, params_dtype: {name}, pipeline_dtype: {name}}}");
        assert_eq!(plugin(&set).params_dtype, Some(TorchDtype::Bfloat16), "{set}");
    }
    for name in ["torch.half", "torch.float16", "half", "float16"] {
        let set = format!("finetune.trainer.plugins=nl.MegatronMixedPrecision(precision=16-mixed, params_dtype={name})");
        assert_eq!(plugin(&set).params_dtype, Some(TorchDtype::Float16), "{set}");
    }
}

/// The snippet of NeMo's documents: the plugin itself, with its FP8 settings.
#[test]
fn the_plugin_of_nemos_document_is_read() {
    let set = "finetune.trainer.plugins=nl.MegatronMixedPrecision(precision=bf16-mixed, params_dtype=torch.bfloat16, \
               pipeline_dtype=torch.bfloat16, autocast_enabled=False, grad_reduce_in_fp32=True, fp8=hybrid, fp8_recipe=delayed, \
               fp8_margin=1, fp8_amax_history_len=16, fp8_amax_compute_algo=max, fp8_params=True, fp8_wgrad=False)";
    let fp8 = plugin(set).fp8().unwrap();
    assert_eq!((fp8.format, fp8.recipe, fp8.margin), (Fp8Format::Hybrid, Fp8Recipe::Delayed, 1));
    assert_eq!((fp8.amax_history_len, fp8.amax_compute_algo), (16, Fp8AmaxComputeAlgo::Max));
    assert!(fp8.param_gather && !fp8.wgrad && !fp8.emulate);
}

/// The values of nemo/collections/llm/recipes/precision/mixed_precision.py of NeMo 2.4.
#[test]
fn recipe_functions_have_nemos_values() {
    use Fp8Recipe::{Blockwise, Delayed, Mxfp8, Tensorwise};
    for (name, precision, recipe, edges, gather) in [
        ("bf16_mixed", Precision::Bf16Mixed, None, 0, false),
        ("fp16_mixed", Precision::Fp16Mixed, None, 0, false),
        ("bf16_with_fp8_mixed", Precision::Bf16Mixed, Some(Delayed), 0, true),
        ("bf16_with_fp8_delayed_scaling_mixed", Precision::Bf16Mixed, Some(Delayed), 0, true),
        (
            "bf16_with_fp8_current_scaling_mixed",
            Precision::Bf16Mixed,
            Some(Tensorwise),
            1,
            true,
        ),
        (
            "bf16_with_fp8_subchannel_scaling_mixed",
            Precision::Bf16Mixed,
            Some(Blockwise),
            0,
            false,
        ),
        ("bf16_with_mxfp8_mixed", Precision::Bf16Mixed, Some(Mxfp8), 0, false),
    ] {
        for set in [name.to_owned(), format!("{name}()"), format!("llm.{name}()")] {
            let plugin = plugin(&format!("finetune.trainer.plugins={set}"));
            assert_eq!(plugin.precision, precision, "{name}");
            assert_eq!(plugin.grad_reduce_in_fp32, precision == Precision::Bf16Mixed, "{name}");
            assert_eq!(plugin.fp8.is_some(), recipe.is_some(), "{name}");
            let Some(fp8) = plugin.fp8() else { continue };
            assert_eq!((fp8.format, Some(fp8.recipe)), (Fp8Format::Hybrid, recipe), "{name}");
            assert_eq!((fp8.layers_at_start_in_bf16, fp8.layers_at_end_in_bf16), (edges, edges), "{name}");
            assert_eq!(fp8.param_gather, gather, "{name}");
            if recipe == Some(Delayed) {
                assert_eq!(
                    (fp8.margin, fp8.amax_history_len, fp8.amax_compute_algo),
                    (0, 1024, Fp8AmaxComputeAlgo::Max),
                    "{name}"
                );
            }
        }
    }
    // An override after a recipe function changes its value.
    let changed = resolve(
        load("neva_tiny").unwrap(),
        &[
            "finetune.trainer.plugins=bf16_with_fp8_mixed",
            "finetune.trainer.plugins.fp8_margin=2",
        ],
    );
    assert_eq!(changed.unwrap().run.finetune.trainer.mixed_precision().fp8_margin, 2);
    // Those that cannot be done are known, and refused with the reason.
    for entry in PRECISIONS {
        let set = format!("finetune.trainer.plugins={}", entry.name);
        let reason = match entry.name {
            name if name.contains("fp16_with") => "`fp8` contradicts `precision: 16-mixed`",
            name if name.starts_with("nemotron_h") => "no layer is left in FP8: 2 first and 2 last of 4 layers",
            _ => {
                plugin(&set);
                continue;
            }
        };
        let text = refusal(&[&set]);
        assert!(text.contains(reason), "{set}: {text}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_what_can() {
    let fp8 = "finetune.trainer.plugins=bf16_with_fp8_mixed";
    let current = "finetune.trainer.plugins=bf16_with_fp8_current_scaling_mixed";
    for (sets, expect, fix) in [
        (&["fp8=hybrid"][..], "contradicts `precision: 32`", "precision=bf16-mixed"),
        (&[fp8, "precision=32"], "contradicts `precision: 32`", "precision=bf16-mixed"),
        (&[fp8, "fp8_amax_history_len=0"], "is 0, it must be at least 1", ""),
        (
            &[fp8, "fp8_amax_history_len=100000"],
            "`fp8_amax_history_len` is 100000",
            "use 1 to 65536",
        ),
        (&[fp8, "fp8_margin=15"], "`fp8_margin` is 15", "use 0 to 14"),
        (&[fp8, "fp8_margin=-1"], "fp8_margin", ""),
        (&[fp8, "fp8_interval=0"], "is 0, it must be at least 1", ""),
        (
            &[fp8, "fp8_recipe=rowwise"],
            "unknown name `rowwise`",
            "`delayed`, `tensorwise`, `blockwise`",
        ),
        (&[fp8, "fp8=e5m2"], "unknown name `e5m2`", "`hybrid`, `e4m3`"),
        (&[fp8, "fp8_params=false"], "are names of one setting", "remove `fp8_params`"),
        (&[fp8, "fp8_recipe=blockwise"], "cannot be gathered in FP8", "delayed or tensorwise"),
        (
            &[fp8, "fp8_recipe=mxfp8"],
            "`fp8_recipe: mxfp8` cannot be gathered in FP8",
            "delayed or tensorwise",
        ),
        (&["fp8_param_gather=true"], "weights in FP8 need `fp8`", "fp8=hybrid"),
        (&["fp8_params=true"], "weights in FP8 need `fp8`", "fp8=hybrid"),
        (&[fp8, "fp8_dot_product_attention=true"], "no attention in FP8", "set it to false"),
        (&[fp8, "fp8_multi_head_attention=true"], "no attention in FP8", "set it to false"),
        (
            &[fp8, "reuse_grad_buf_for_mxfp8_param_ag=true"],
            "gathered in bf16",
            "set it to false",
        ),
        (
            &[fp8, "first_last_layers_bf16=true"],
            "cannot stay in bf16 with `fp8_recipe: delayed`",
            "tensorwise, blockwise or mxfp8",
        ),
        (
            &[current, "num_layers_at_start_in_bf16=0", "num_layers_at_end_in_bf16=0"],
            "keeps no layer in bf16",
            "set them to 1",
        ),
        (
            &[current, "num_layers_at_start_in_bf16=3"],
            "no layer is left in FP8",
            "use 1 and 1",
        ),
        (&["precision=bf16-true"], "unknown name `bf16-true`", "bf16-mixed"),
        (
            &["params_dtype=bfloat16"],
            "`params_dtype` is bfloat16, but weights are float32",
            "choose the `precision`",
        ),
        (
            &["precision=bf16-mixed", "params_dtype=float32"],
            "weights are bfloat16",
            "master weights are always fp32",
        ),
        (
            &["precision=16-mixed", "pipeline_dtype=bfloat16"],
            "between pipeline stages are float16",
            "remove it",
        ),
        (&["autocast_enabled=true"], "autocast is not built", "bf16-mixed"),
        (&["autocast_dtype=float16"], "`autocast_dtype` is float16", "remove it"),
        (&["precision=16-mixed", "fp16_loss_scale=0"], "`fp16_loss_scale` is 0.0", "65536"),
        (
            &["precision=16-mixed", "fp16_initial_loss_scale=1e40"],
            "finite number of fp32",
            "65536",
        ),
        (
            &["precision=16-mixed", "fp16_min_loss_scale=1e10"],
            "exceeds `fp16_initial_loss_scale`",
            "use 1.0",
        ),
        (&["precision=16-mixed", "fp16_hysteresis=0"], "is 0, it must be at least 1", ""),
        (
            &["precision=16-mixed", "fp16_loss_scale_window=0"],
            "is 0, it must be at least 1",
            "",
        ),
    ] {
        let sets: Vec<_> = sets
            .iter()
            .map(|set| {
                if set.contains("plugins") {
                    (*set).to_owned()
                } else {
                    format!("finetune.trainer.plugins.{set}")
                }
            })
            .collect();
        let text = refusal(&sets.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(text.contains(expect) && text.contains(fix), "{sets:?}: {text}");
    }
    for (sets, expect) in [
        (
            [fp8, "finetune.peft=vlm.LoRA(dim=8, quantization=nf4)"],
            "`fp8` and the quantization of the frozen weights to NF4 exclude each other",
        ),
        (
            [fp8, "finetune.trainer.strategy.ddp.use_distributed_optimizer=false"],
            "gathering weights in FP8 needs the distributed optimizer",
        ),
        (["finetune.trainer.require=[fp9]", "name=a"], "unknown requirement `fp9`"),
        (["finetune.trainer.require=['fp8>=2']", "name=a"], "not a share from 0 to 1"),
        (["finetune.trainer.strategy.attention_backend=xla", "name=a"], "unknown name `xla`"),
    ] {
        let text = refusal(&sets);
        assert!(text.contains(expect), "{sets:?}: {text}");
    }
}

/// A setting without effect is a warning.
#[test]
fn settings_without_effect_are_reported() {
    for (sets, expect) in [
        (&["fp8_margin=1"][..], "fp8=hybrid"),
        (&["fp8_wgrad=false"], "fp8=hybrid"),
        (&["fp8_emulate=true"], "fp8=hybrid"),
        (&["fp8_recipe=blockwise"], "fp8=hybrid"),
        (&["fp16_hysteresis=4"], "precision=16-mixed"),
        (&["precision=bf16-mixed", "autocast_enabled=true"], "autocast"),
        (&["precision=16-mixed", "autocast_enabled=true"], "autocast"),
        (&["fp16_loss_scale=2.0"], "precision=16-mixed"),
        (
            &["precision=bf16-mixed", "fp8=hybrid", "fp8_recipe=tensorwise", "fp8_margin=1"],
            "fp8_recipe=delayed",
        ),
        (
            &[
                "precision=bf16-mixed",
                "fp8=hybrid",
                "fp8_recipe=tensorwise",
                "num_layers_at_end_in_bf16=1",
            ],
            "first_last_layers_bf16=true",
        ),
    ] {
        let sets: Vec<_> = sets.iter().map(|set| format!("finetune.trainer.plugins.{set}")).collect();
        let sets: Vec<_> = sets.iter().map(String::as_str).collect();
        let resolved = resolve(load("neva_tiny").unwrap(), &sets).unwrap();
        let warnings: Vec<_> = resolved.warnings.iter().map(ToString::to_string).collect();
        let expect = match expect {
            "autocast" => "has no effect: autocast is not built".to_owned(),
            expect => format!("has no effect without `{expect}`"),
        };
        assert!(warnings.iter().any(|warning| warning.contains(&expect)), "{sets:?}: {warnings:?}");
    }
}

#[test]
fn the_effective_precision_names_each_part() {
    let parts = |recipe: &str, sets: &[&str]| {
        let run = resolve(load(recipe).unwrap(), sets).unwrap().run;
        let effective = run.finetune.effective_precision();
        let rows = effective.parts.iter().map(|part| {
            let state = if part.trained { "trained" } else { "frozen" };
            format!("{}: {} {state}: {}", part.part, part.weights, part.compute)
        });
        (rows.collect::<Vec<_>>(), effective.notes)
    };
    let (rows, notes) = parts("llava15_7b", &["finetune.trainer.plugins=bf16_with_fp8_current_scaling_mixed"]);
    for expect in [
        "vision encoder: bfloat16 trained: bfloat16",
        "projector: bfloat16 trained: bfloat16",
        "decoder linears 1-30: float8_e4m3fn frozen: fprop e4m3, dgrad e4m3 x e5m2; tensorwise",
        "decoder linears 0, 31: bfloat16 frozen: bfloat16",
        "adapters: bfloat16 trained: bfloat16",
        "head: bfloat16 frozen: bfloat16, loss in float32",
    ] {
        assert!(rows.iter().any(|row| row == expect), "{expect}: {rows:#?}");
    }
    assert!(
        notes.iter().any(|note| note == "parameter gather: FP8 for the linears in FP8"),
        "{notes:?}"
    );
    let (rows, notes) = parts("llava15_7b", &["peft_scheme=none", "finetune.trainer.plugins=bf16_with_fp8_mixed"]);
    let expect = "decoder linears: bfloat16 trained: fprop e4m3, dgrad, wgrad e4m3 x e5m2; delayed, max of 1024 steps";
    assert!(rows.iter().any(|row| row == expect), "{rows:#?}");
    assert!(notes[0].contains("reduced in float32"), "{notes:?}");
    let (rows, notes) = parts("neva_tiny", &["finetune.trainer.plugins=fp16_mixed"]);
    assert!(
        rows.iter().all(|row| row.contains("float16") || row.starts_with("attention core")),
        "{rows:#?}"
    );
    assert!(notes.iter().any(|note| note.contains("reduced in float16")), "{notes:?}");
    assert!(
        notes.iter().any(|note| note.starts_with("loss scale: starts at 4294967296")),
        "{notes:?}"
    );
    let (rows, _) = parts("llava15_7b", &["finetune.peft.quantization=nf4"]);
    assert!(rows.iter().any(|row| row == "decoder linears: nf4 frozen: bfloat16"), "{rows:#?}");
}
