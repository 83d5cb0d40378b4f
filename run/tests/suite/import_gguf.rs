//! `neva-run import FILE.gguf`: the weights, config, tokenizer and chat template of a language model of llama.cpp.

use std::{collections::BTreeMap, fs, path::Path};

use neva_data::Tokenizer;
use neva_schemas::exit_class;
use serde_json::Value;

use crate::{
    import::{CONFIG, WEIGHTS, all_stored, fixture, import, imported_names},
    tensor_files::{Meta, Stored, gguf, renamed},
};

const TEMPLATE: &str = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}";

/// Returns the language model of the fixture, under Hugging Face's names.
fn language_model() -> Vec<Stored> {
    renamed(&fixture("llava_clip_llama").join(WEIGHTS), |name| {
        name.strip_prefix("language_model.").map(str::to_owned)
    })
}

/// Returns the tensors as llama.cpp stores them: other names, and rows of query and key in pairs.
fn llama_cpp(tensors: Vec<Stored>) -> Vec<Stored> {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let convert = |mut tensor: Stored| {
        for (own, theirs) in names {
            tensor.name = tensor.name.replace(own, theirs);
        }
        if tensor.name.contains("attn_q") || tensor.name.contains("attn_k") {
            // 4 heads of 16 rows of 64 values: row i and row i + 8 become neighbours.
            let rows: Vec<_> = tensor.bytes.chunks(64 * 4).collect();
            let order = (0..64).map(|row| row / 16 * 16 + row % 2 * 8 + row % 16 / 2);
            tensor.bytes = order.flat_map(|row| rows[row].to_vec()).collect();
        }
        tensor
    };
    tensors.into_iter().map(convert).collect()
}

/// Returns metadata with the sizes of the fixture, and a byte-level tokenizer.
fn metadata() -> BTreeMap<&'static str, Meta<'static>> {
    let mut tokens: Vec<String> = ["<|end|>", "<|user|>", "a", "b", "c", "ab", "abc", "\u{120}", "\u{120}a"]
        .map(str::to_owned)
        .into();
    tokens.extend((0..20).map(|number| format!("unused{number}")));
    let mut kinds = vec![1; tokens.len()];
    kinds[..2].fill(3);
    BTreeMap::from([
        ("general.architecture", Meta::Text("llama")),
        ("llama.block_count", Meta::Number(2)),
        ("llama.embedding_length", Meta::Number(64)),
        ("llama.feed_forward_length", Meta::Number(160)),
        ("llama.attention.head_count", Meta::Number(4)),
        ("llama.attention.head_count_kv", Meta::Number(4)),
        ("llama.context_length", Meta::Number(512)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::Float(1e-5)),
        ("llama.rope.freq_base", Meta::Float(10000.0)),
        ("llama.rope.dimension_count", Meta::Number(16)),
        ("tokenizer.ggml.model", Meta::Text("gpt2")),
        ("tokenizer.ggml.pre", Meta::Text("smollm")),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::Numbers(kinds)),
        (
            "tokenizer.ggml.merges",
            Meta::Texts(["a b", "ab c", "\u{120} a"].map(str::to_owned).into()),
        ),
        ("tokenizer.ggml.bos_token_id", Meta::Number(1)),
        ("tokenizer.ggml.eos_token_id", Meta::Number(0)),
        ("tokenizer.ggml.add_bos_token", Meta::Flag(false)),
        ("tokenizer.chat_template", Meta::Text(TEMPLATE)),
    ])
}

fn write(to: &Path, metadata: BTreeMap<&'static str, Meta<'static>>, tensors: Vec<Stored>) {
    let metadata: Vec<_> = metadata.into_iter().collect();
    fs::write(to, gguf(&metadata, &llama_cpp(tensors))).unwrap();
}

#[test]
fn a_language_model_with_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("small.gguf");
    write(&file, metadata(), language_model());
    let (code, stdout, stderr) = import(dir.path(), &[file.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("language model (llama)") && stdout.contains("nemo://small"),
        "{stdout}"
    );
    let target = dir.path().join("models/small");
    assert!(all_stored(&target) == language_model(), "rows of heads are in Hugging Face's order");
    // Its config is that of the fixture, where it says more than transformers' defaults.
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let (config, theirs) = (read(&target.join(CONFIG)), read(&fixture("llava_clip_llama").join(CONFIG)));
    for name in [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
    ] {
        assert_eq!(config[name], theirs["text_config"][name], "{name}");
    }
    let tokenizer = Tokenizer::open(target.to_str().unwrap()).unwrap();
    assert_eq!(tokenizer.encode("abc ab<|end|>a").unwrap(), [6, 7, 5, 0, 2]);
    assert_eq!(tokenizer.special().eos, Some(0));
    assert_eq!((tokenizer.adds_bos(), tokenizer.chat_template()), (false, Some(TEMPLATE)));
    // In a folder alone, and a second time.
    let (code, stdout, _) = import(dir.path(), &[file.to_str().unwrap()]);
    assert!(code == 0 && stdout.starts_with("already imported"), "{stdout}");
}

#[test]
fn a_sentencepiece_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("small.gguf");
    let mut metadata = metadata();
    let tokens = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "\u{2581}ab"].map(str::to_owned);
    metadata.insert("tokenizer.ggml.model", Meta::Text("llama"));
    metadata.insert("tokenizer.ggml.tokens", Meta::Texts(tokens.into()));
    metadata.insert("tokenizer.ggml.token_type", Meta::Numbers(vec![2, 3, 3, 1, 1, 1, 1, 1]));
    metadata.insert("tokenizer.ggml.scores", Meta::Numbers(vec![0, 0, 0, -3, -4, -5, -1, -2]));
    metadata.remove("tokenizer.ggml.merges");
    metadata.remove("tokenizer.ggml.add_bos_token");
    write(&file, metadata, language_model());
    let (code, _, stderr) = import(dir.path(), &[file.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    let tokenizer = Tokenizer::open(dir.path().join("models/small").to_str().unwrap()).unwrap();
    assert_eq!(tokenizer.encode("ab b").unwrap(), [7, 3, 5]);
    assert!(tokenizer.adds_bos());
}

#[test]
fn files_that_are_not_supported_say_what_is() {
    type Change = fn(&mut BTreeMap<&'static str, Meta<'static>>, &mut Vec<Stored>);
    let cases: &[(Change, &[&str])] = &[
        (
            |metadata, _| drop(metadata.insert("general.architecture", Meta::Text("mamba"))),
            &["`general.architecture` is \"mamba\", known are llama, qwen2"],
        ),
        (
            |metadata, _| drop(metadata.remove("llama.block_count")),
            &["no size `llama.block_count`"],
        ),
        (
            |metadata, _| drop(metadata.insert("llama.block_count", Meta::Number(3))),
            &["layers.2.input_layernorm.weight` [64] is missing"],
        ),
        (
            |metadata, _| drop(metadata.insert("llama.rope.dimension_count", Meta::Number(8))),
            &["8 of 16 dims of a head are rotated"],
        ),
        (
            |metadata, _| drop(metadata.insert("llama.rope.scaling.type", Meta::Text("yarn"))),
            &["rotary embedding of type \"yarn\""],
        ),
        (
            |metadata, _| drop(metadata.insert("llama.expert_count", Meta::Number(8))),
            &["`llama.expert_count` is not supported"],
        ),
        (
            |metadata, _| drop(metadata.remove("tokenizer.ggml.model")),
            &["no tokenizer: `tokenizer.ggml.model`"],
        ),
        (
            |metadata, _| drop(metadata.insert("tokenizer.ggml.model", Meta::Text("bert"))),
            &["`tokenizer.ggml.model` is \"bert\""],
        ),
        (
            |metadata, _| drop(metadata.insert("tokenizer.ggml.pre", Meta::Text("tekken"))),
            &["`tokenizer.ggml.pre` is \"tekken\"", "llama-bpe"],
        ),
        (
            |metadata, _| drop(metadata.insert("tokenizer.ggml.eos_token_id", Meta::Number(99))),
            &["eos_token_id` is 99, but there are 29 tokens"],
        ),
        (
            |metadata, _| drop(metadata.insert("tokenizer.ggml.merges", Meta::Texts(vec!["ab".to_owned()]))),
            &["merges` are not pairs"],
        ),
        (
            |metadata, _| drop(metadata.insert("tokenizer.ggml.tokens", Meta::Texts(vec!["a".to_owned(); 3000]))),
            &["the tokenizer has 3000 tokens, but the embedding has only 2048 rows"],
        ),
        (
            |_, tensors| tensors.retain(|tensor| !tensor.name.contains("embed")),
            &["no tensor `token_embd.weight`"],
        ),
        (
            |_, tensors| tensors.push(Stored::f32("rope_freqs.weight", &[8], &[3.0; 8])),
            &["`rope_freqs.weight` has factors that are not those of Llama 3.1"],
        ),
    ];
    for (change, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("small.gguf");
        let (mut metadata, mut tensors) = (metadata(), language_model());
        change(&mut metadata, &mut tensors);
        write(&file, metadata, tensors);
        let (code, _, stderr) = import(dir.path(), &[file.to_str().unwrap()]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{words:?}: {stderr}");
        let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        for word in *words {
            assert!(flat.contains(word), "{word}: {flat}");
        }
        assert_eq!(imported_names(dir.path()), Vec::<String>::new());
    }
}
