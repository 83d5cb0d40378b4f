//! Every format of models that transformers wrote: no value, name or data type is lost.

use super::{assert_extends, exported, fixture, json_of, tensors, trained};
use crate::setting::{ONE, adapters, copy, load, rewrite, weights, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::comm::Mesh;
use neva_engine::export::{ExportDtype, ExportFormat, NameLayout, Reader};
use neva_engine::trainer::Trainer;
use neva_layout::{Families, ModelTable};
use neva_schemas::{Finetune, RestoreConfig};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Kind, Tensor};

/// Models that transformers wrote.
const MODELS: &[&str] = &[
    "clip_layers",
    "internvl_6b",
    "internvl_norm",
    "internvl_qwen2",
    "llama3_bias",
    "llava_clip_llama",
    "llava_clip_llama_gqa",
    "llava_internvit",
    "llava_siglip_llama",
    "mistral_window",
    "nemotron_bias",
    "qwen2_window",
    "siglip_odd",
];

fn table(folder: &Path) -> ModelTable {
    let families = Families::builtin();
    let model = families.read_config(&json_of(folder, "config.json")).unwrap();
    families.resolve(&model, "model").unwrap()
}

#[track_caller]
fn equal(what: &str, got: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) {
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        let got = &got[name];
        assert_eq!((got.kind(), got.size()), (expected.kind(), expected.size()), "{what}: `{name}`");
        assert!(got.equal(expected), "{what}: `{name}`");
    }
}

/// Copies a model, and changes the data type of some of its tensors.
fn with_kinds(name: &str, to: &Path) {
    copy(&fixture(name), to);
    rewrite(&to.join("model.safetensors"), |tensors| {
        for (index, (_, tensor)) in tensors.iter_mut().enumerate() {
            let kind = [Kind::BFloat16, Kind::Float, Kind::Half][index % 3];
            *tensor = tensor.to_kind(kind);
        }
    });
}

#[test]
fn keep_every_tensor_of_a_folder() {
    within_limit(|| {
        for name in MODELS {
            let folder = tempfile::tempdir().unwrap();
            let source = folder.path().join("source");
            with_kinds(name, &source);
            let (expected, table) = (tensors(&source), table(&source));
            let original = folder.path().join("original");
            exported(&source, &original, ExportFormat::Hf, |request| request.max_shard_size = 50_000).unwrap();
            let derived = |name: &String| table.is_derived(name) || table.canonical_name(name).is_none_or(|name| table.is_tied_head(&name));
            let kept: BTreeMap<_, _> = expected.iter().filter(|(name, _)| !derived(name)).collect();
            // The files have transformers 5's names of CLIP; the original ones are those of the hub.
            let hub = |name: &String| table.exported_name(NameLayout::Original, &table.canonical_name(name).unwrap());
            let kept: BTreeMap<_, _> = kept.into_iter().map(|(name, tensor)| (hub(name), tensor.shallow_clone())).collect();
            equal(name, &tensors(&original), &kept);
            // transformers 4 needs other names of the rotary settings, too.
            assert_extends(&json_of(&original, "config.json"), &json_of(&source, "config.json"));
            let text = &json_of(&original, "config.json")["text_config"];
            assert!(text["rope_theta"].is_number() || text["rope_parameters"].is_null(), "{name}");

            let newer = folder.path().join("newer");
            exported(&source, &newer, ExportFormat::Hf, |request| request.names = Some(NameLayout::Newer)).unwrap();
            let canonical = kept
                .iter()
                .map(|(name, tensor)| (table.canonical_name(name).unwrap(), tensor.shallow_clone()));
            equal(name, &tensors(&newer), &canonical.collect());
            let back = folder.path().join("back");
            exported(&newer, &back, ExportFormat::Hf, |_| {}).unwrap();
            equal(name, &tensors(&back), &kept);
        }
    });
}

#[test]
fn write_the_names_of_the_original_llava() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("llava");
        exported(&fixture("llava_clip_llama"), &out, ExportFormat::Llava, |_| {}).unwrap();
        let (got, source) = (tensors(&out), tensors(&fixture("llava_clip_llama")));
        assert_eq!(got.len(), source.len());
        for (name, hub) in [
            ("model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
            (
                "model.layers.0.self_attn.q_proj.weight",
                "language_model.model.layers.0.self_attn.q_proj.weight",
            ),
            ("model.norm.weight", "language_model.model.norm.weight"),
            ("lm_head.weight", "language_model.lm_head.weight"),
            ("model.mm_projector.0.weight", "multi_modal_projector.linear_1.weight"),
            ("model.mm_projector.2.bias", "multi_modal_projector.linear_2.bias"),
            (
                "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
                "vision_tower.embeddings.class_embedding",
            ),
        ] {
            assert!(got[name].equal(&source[hub]), "`{name}`");
        }
        let config = json_of(&out, "config.json");
        for (name, value) in [
            ("model_type", "llava_llama"),
            ("mm_projector_type", "mlp2x_gelu"),
            ("mm_vision_select_feature", "patch"),
        ] {
            assert_eq!(config[name], value, "{name}");
        }
        assert_eq!(
            (&config["mm_vision_select_layer"], &config["hidden_size"]),
            (&(-2).into(), &64.into())
        );
        for (name, reason) in [
            ("llava_siglip_llama", "no vision encoder of the type"),
            ("internvl_qwen2", "no language model of the type `qwen2`"),
            ("nemotron_bias", "no language model of the type `nemotron`"),
        ] {
            let error = exported(&fixture(name), &folder.path().join("none"), ExportFormat::Llava, |_| {}).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(crate::setting::names(folder.path()), ["llava"]);
    });
}

/// Returns the weights of a run that starts from a folder.
fn restored(finetune: &Finetune, folder: &Path) -> BTreeMap<String, Tensor> {
    let mut finetune = finetune.clone();
    finetune.peft = None;
    finetune.resume.restore_config = Some(RestoreConfig::weights(folder.display().to_string()));
    weights(&Trainer::new(&finetune, load(&finetune, None, &Mesh::single()), Mesh::single()).unwrap())
}

#[test]
fn start_a_run_from_an_export_without_the_base() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        copy(&fixture("llava_clip_llama"), &base);
        let mut finetune = crate::weights::finetune(&base);
        adapters(&mut finetune, &["*.language_model.*.linear_qkv", "down_proj"]);
        let checkpoint = trained(folder.path(), &finetune, ONE);
        let (hf, neva) = (folder.path().join("hf"), folder.path().join("neva"));
        exported(&checkpoint.path, &hf, ExportFormat::Hf, |_| {}).unwrap();
        exported(&checkpoint.path, &neva, ExportFormat::Neva, |_| {}).unwrap();
        let again = folder.path().join("again");
        std::fs::rename(&base, folder.path().join("moved")).unwrap();
        let whole = CheckpointFolder::open(&neva).unwrap();
        whole.verify().unwrap();
        assert!(whole.state.whole && !whole.state.optimizer && whole.run.finetune.peft.is_none());
        equal("neva", &restored(&finetune, &neva), &restored(&finetune, &hf));
        // An export of the export.
        exported(&neva, &again, ExportFormat::Hf, |_| {}).unwrap();
        equal("again", &tensors(&again), &tensors(&hf));
    });
}

#[test]
fn have_the_requested_data_type() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        for (dtype, kind) in [
            (ExportDtype::Float32, Kind::Float),
            (ExportDtype::Bfloat16, Kind::BFloat16),
            (ExportDtype::Float16, Kind::Half),
        ] {
            let out = folder.path().join(dtype.word());
            exported(&fixture("qwen2_window"), &out, ExportFormat::Hf, |request| {
                request.dtype = Some(dtype)
            })
            .unwrap();
            assert!(tensors(&out).values().all(|tensor| tensor.kind() == kind), "{dtype}");
            assert_eq!(json_of(&out, "config.json")["dtype"], dtype.word());
        }
        let large = folder.path().join("large");
        copy(&fixture("qwen2_window"), &large);
        rewrite(&large.join("model.safetensors"), |tensors| tensors[0].1 = &tensors[0].1 + 1e6);
        let out = folder.path().join("none");
        let error = exported(&large, &out, ExportFormat::Hf, |request| request.dtype = Some(ExportDtype::Float16)).unwrap_err();
        assert!(error.to_string().contains("beyond the range of float16"), "{error}");
        assert!(!out.exists());
    });
}

#[test]
fn are_refused_for_a_reader_that_does_not_read_them() {
    let folder = tempfile::tempdir().unwrap();
    for (format, reader, names, reason) in [
        (ExportFormat::Hf, Some(Reader::Peft), None, "PEFT reads adapters"),
        (ExportFormat::Neva, Some(Reader::Vllm), None, "vllm does not read the format `neva`"),
        (ExportFormat::Llava, None, Some(NameLayout::Newer), "has names of its own"),
        (
            ExportFormat::Hf,
            Some(Reader::Vllm),
            Some(NameLayout::Newer),
            "vLLM is given the original names",
        ),
        (ExportFormat::HfPeft, None, None, "has no adapters"),
    ] {
        let out = folder.path().join("out");
        let error = exported(&fixture("llava_clip_llama"), &out, format, |request| {
            (request.reader, request.names) = (reader, names);
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!out.exists());
    }
}
