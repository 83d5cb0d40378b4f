//! Exports and merges on a full disk: a clear error, and nothing partial is left. A limit on the size of a file stands in for
//! the disk.

use neva_tests::{Ended, neva_run, root, run};
use std::fs;
use std::path::Path;
use std::process::Command;

const MODEL: &str = "tests/fixtures/hf/llava_clip_llama";

/// Runs `neva-run` with files of at most 64 KiB. Returns its end.
fn limited(arguments: &[&str]) -> Ended {
    let inner = neva_run(arguments);
    let mut shell = Command::new("bash");
    shell.arg("-c").arg("ulimit -f 64; exec \"$0\" \"$@\"");
    shell.arg(inner.get_program()).args(inner.get_args()).current_dir(root());
    run(shell)
}

/// Returns the names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn leaves_nothing_partial() {
    for command in [
        &["export", "--format", "hf"][..],
        &["export", "--format", "neva"],
        &["export", "--format", "llava", "--max-shard-size", "1MB"],
        &["merge", "--adapter", "adapter", "--base"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let (name, options) = command.split_first().unwrap();
        let adapter = dir.path().join("adapter");
        let mut arguments = vec![*name];
        arguments.extend(
            options
                .iter()
                .map(|option| if *option == "adapter" { adapter.to_str().unwrap() } else { *option }),
        );
        if *name == "merge" {
            write_adapter(&adapter);
        }
        // An export takes the model before its options, too.
        arguments.extend([MODEL, "--output", out.to_str().unwrap()]);
        let before = names(dir.path());
        let ended = limited(&arguments).with_code(3);
        let stderr = &ended.stderr;
        assert!(stderr.contains("File too large"), "{command:?}: {stderr}");
        assert_eq!(names(dir.path()), before, "{command:?}");
        // What is there already stays.
        let _ = run(neva_run(&arguments)).with_code(0);
        let whole = names(&out);
        arguments.push("--overwrite");
        let _ = limited(&arguments).with_code(3);
        assert_eq!(names(&out), whole, "{command:?}");
        assert_eq!(names(dir.path()).len(), before.len() + 1, "{command:?}");
    }
}

/// Writes an adapter of one linear of the model, whose values are 0.
fn write_adapter(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let config = serde_json::json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ".*language_model.*layers\\.0\\.mlp\\.down_proj",
        "modules_to_save": null, "bias": "none",
    });
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let model: serde_json::Value = serde_json::from_slice(&fs::read(root().join(MODEL).join("config.json")).unwrap()).unwrap();
    let size = |name: &str| usize::try_from(model["text_config"][name].as_u64().unwrap()).unwrap();
    let module = "base_model.model.model.language_model.layers.0.mlp.down_proj";
    let (a, b) = (2 * size("intermediate_size"), 2 * size("hidden_size"));
    let header = serde_json::json!({
        format!("{module}.lora_A.weight"): {"dtype": "F32", "shape": [2, a / 2], "data_offsets": [0, 4 * a]},
        format!("{module}.lora_B.weight"): {"dtype": "F32", "shape": [b / 2, 2], "data_offsets": [4 * a, 4 * (a + b)]},
    });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.append(&mut header);
    file.resize(file.len() + 4 * (a + b), 0);
    fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
}
