//! Damaged and malicious files of weights, and caches that cannot be written: a clear error, and nothing partial is left.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use neva_schemas::exit_class;

use crate::{
    import::{CONFIG, WEIGHTS, fixture, hub_tensors, import, imported_names, model},
    tensor_files::{pickle, safetensors, zip},
};

/// Checks that a model with other bytes in the file of weights `name` is refused.
fn refused(name: &str, bytes: &[u8], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("broken");
    model(&source);
    fs::remove_file(source.join(WEIGHTS)).unwrap();
    fs::write(source.join(name), bytes).unwrap();
    let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
    assert_eq!(code, i32::from(exit_class::INPUT), "{words:?}: {stderr}");
    let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat.contains(word), "{word}: {flat}");
    }
    assert!(!flat.contains("panicked"), "{flat}");
    assert_eq!(imported_names(dir.path()), Vec::<String>::new(), "{words:?}");
}

#[test]
fn damaged_weights() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13\n";
    let whole = safetensors(hub_tensors());
    let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 8]].concat();
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let huge = r#"{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]}}"#;
    let archive = pickle(&hub_tensors());
    let cases: &[(&str, &[u8], &[&str])] = &[
        (WEIGHTS, pointer, &["a pointer of git-lfs", "git lfs pull"]),
        ("pytorch_model.bin", pointer, &["a pointer of git-lfs", "git lfs pull"]),
        (
            WEIGHTS,
            &whole[..whole.len() / 2],
            &["truncated", "download or copy the file again"],
        ),
        (WEIGHTS, &header(overlap), &["`b` overlaps another tensor"]),
        (WEIGHTS, &header(huge), &["too large"]),
        ("pytorch_model.bin", &archive[..archive.len() / 2], &["truncated"]),
        ("pytorch_model.bin", b"", &["truncated"]),
    ];
    for (name, bytes, words) in cases {
        refused(name, bytes, words);
    }
}

#[test]
fn pickles_with_code_do_not_run() {
    let proof = tempfile::tempdir().unwrap();
    let file = proof.path().join("executed");
    let command = format!("touch {}", file.display());
    let text = |text: &str| [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("subprocess", "check_output"),
    ] {
        let code = [
            b"\x80\x02c",
            module.as_bytes(),
            b"\n",
            name.as_bytes(),
            b"\n",
            &text(&command),
            b"\x85R.",
        ]
        .concat();
        let archive = zip(&[("archive/data.pkl".to_owned(), code)]);
        refused("pytorch_model.bin", &archive, &[&format!("`{module}.{name}`"), "not executed"]);
    }
    assert!(!file.exists());
}

#[test]
fn a_cache_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    // A file in place of the folder, which root cannot write to, either.
    fs::write(dir.path().join("models"), "").unwrap();
    let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
    assert_eq!(code, i32::from(exit_class::CLUSTER), "{stderr}");
    assert!(stderr.contains("cannot create") && stderr.contains("NEMO_MODELS_CACHE"), "{stderr}");
    fs::remove_file(dir.path().join("models")).unwrap();
    let models = dir.path().join("models");
    fs::create_dir(&models).unwrap();
    fs::set_permissions(&models, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(models.join("try"), "").is_err() {
        let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
        assert_eq!(code, i32::from(exit_class::CLUSTER), "{stderr}");
        assert!(stderr.contains("Permission denied") && stderr.contains("--output"), "{stderr}");
    }
    fs::set_permissions(&models, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    fs::remove_file(source.join(WEIGHTS)).unwrap();
    fs::write(source.join("pytorch_model.bin"), pickle(&hub_tensors())).unwrap();
    let models = dir.path().join("models");
    // Writes beyond this size fail, as on a full disk.
    let limited = format!("ulimit -f 512; exec {} import {}", env!("CARGO_BIN_EXE_neva-run"), source.display());
    let output = Command::new("bash")
        .args(["-c", &limited])
        .env("NEMO_MODELS_CACHE", &models)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(exit_class::CLUSTER)), "{stderr}");
    assert!(stderr.contains("cannot write"), "{stderr}");
    assert_eq!(imported_names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_killed_import_leaves_nothing_that_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model(&source);
    let stage = dir.path().join("models/.source.importing");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join(WEIGHTS), "half").unwrap();
    fs::write(stage.join("model-00001-of-00009.safetensors"), "half").unwrap();
    let (code, stdout, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
    assert!(code == 0 && stdout.starts_with("imported"), "{stderr}");
    assert_eq!(imported_names(dir.path()), ["source"]);
    let names = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!(names(&dir.path().join("models/source")), names(&source));
}

#[test]
fn options_that_have_no_effect_are_refused() {
    for option in ["--base", "--vision-tower"] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        model(&source);
        let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap(), option, "other"]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(stderr.contains(option) && stderr.contains("remove"), "{stderr}");
    }
}

#[test]
fn folders_of_another_kind_are_named() {
    for (file, words) in [
        ("adapter_config.json", ["adapters of peft, not a model", "adapter_path"]),
        ("checkpoint.json", ["a checkpoint of neva-run", "neva-run export"]),
        ("README.md", ["there is no config.json", "only a GGUF file"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join(file), "{}").unwrap();
        let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(words.iter().all(|word| flat.contains(word)), "{flat}");
    }
}

/// `--overwrite` replaces models, and empty folders. What else is in a folder would be lost.
#[test]
fn only_a_model_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("work/source");
    model(&source);
    let notes = dir.path().join("work/notes.txt");
    fs::write(&notes, "mine").unwrap();
    let (work, source) = (dir.path().join("work").display().to_string(), source.display().to_string());
    for more in [&[][..], &["--overwrite"]] {
        let (code, _, stderr) = import(dir.path(), &[&[source.as_str(), "--output", &work][..], more].concat());
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        assert!(
            stderr.contains("is not the folder of a model") && !stderr.contains("add `--overwrite`"),
            "{stderr}"
        );
        assert!(notes.is_file());
    }
    // A model around the source would take it away.
    fs::write(dir.path().join("work").join(CONFIG), "{}").unwrap();
    let (code, _, stderr) = import(dir.path(), &[&source, "--output", &work, "--overwrite"]);
    assert!(code == i32::from(exit_class::INPUT) && notes.is_file(), "{stderr}");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let (code, _, stderr) = import(dir.path(), &[&source, "--output", empty.to_str().unwrap(), "--overwrite"]);
    assert!(code == 0 && empty.join(CONFIG).is_file(), "{stderr}");
}

/// A copy of the hub's cache without its blobs has links to nothing.
#[test]
fn links_to_nothing_are_called_so() {
    for name in [CONFIG, WEIGHTS, "tokenizer.json"] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        model(&source);
        fs::remove_file(source.join(name)).unwrap();
        std::os::unix::fs::symlink("../../blobs/0123", source.join(name)).unwrap();
        let (code, _, stderr) = import(dir.path(), &[source.to_str().unwrap()]);
        assert_eq!(code, i32::from(exit_class::INPUT), "{stderr}");
        let flat = stderr.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        for word in [name, "a link to ../../blobs/0123, which does not exist", "cp -rL"] {
            assert!(flat.contains(word), "{word}: {flat}");
        }
        assert_eq!(imported_names(dir.path()), Vec::<String>::new());
    }
}

#[test]
fn the_cache_is_found_by_its_variables_and_printed() {
    let source = fixture("llava_clip_llama");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("NEMO_MODELS_CACHE", "models"), ("NEMO_CACHE_DIR", "legacy"), ("NEMO_HOME", "nemo")],
            "models",
        ),
        (&[("NEMO_CACHE_DIR", "legacy"), ("NEMO_HOME", "nemo")], "legacy/models"),
        (&[("NEMO_HOME", "nemo")], "nemo/models"),
        (&[], ".cache/nemo/models"),
    ];
    for (variables, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        let values: Vec<_> = variables.iter().map(|(name, value)| (*name, format!("{home}/{value}"))).collect();
        let mut environment: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        environment.push(("HOME", &home));
        let program = crate::process::Program::new("", &["import", source.to_str().unwrap()])
            .without(&["NEMO_MODELS_CACHE", "NEMO_CACHE_DIR", "NEMO_HOME"])
            .env(&environment);
        let (code, stdout, stderr, _dir) = program.run();
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(&format!("cache    {home}/{expected}\n")), "{stdout}");
        assert!(dir.path().join(expected).join("llava_clip_llama").join(CONFIG).is_file());
    }
}
