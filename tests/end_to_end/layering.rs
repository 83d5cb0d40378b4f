//! Rules of ARCHITECTURE.md that the compiler does not check.

use crate::code::{Found, files, findings};
use crate::imports::Imports;
use neva_tests::{program, root};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn neva_run_links_no_libtorch() {
    let needed = |name: &str| {
        let output = Command::new("readelf")
            .args(["--dynamic", "--wide"])
            .arg(program(name))
            .output()
            .expect("readelf is there (binutils)");
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| line.contains("(NEEDED)"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let torch = |line: &String| ["torch", "c10", "stdc++"].iter().any(|name| line.contains(name));
    assert_eq!(
        needed("neva-run").into_iter().filter(torch).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    assert!(
        needed("neva-rank").iter().any(torch),
        "neva-rank links libtorch, or this test looks in the wrong place"
    );
}

/// Returns files with their lines, numbered from 1, without comments.
fn sources(folder: &str) -> Vec<(PathBuf, Vec<(usize, String)>)> {
    fn visit(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && !entry.ends_with("target") {
                visit(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    let mut files = Vec::new();
    visit(&root().join(folder), &mut files);
    assert!(!files.is_empty(), "no source file under {folder}");
    let lines = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        code.map(|(index, line)| (index + 1, line.to_owned())).collect()
    };
    files.iter().map(|path| (path.clone(), lines(path))).collect()
}

/// Returns the places that contain one of `words`.
fn places(folders: &[&str], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let files = folders.iter().flat_map(|folder| sources(folder));
    // The root's path goes through this package's folder, whose name is among the allowed ones.
    let within = |path: &Path| format!("/{}", path.strip_prefix(root()).unwrap().display());
    let files = files.filter(|(path, _)| !allowed.iter().any(|allowed| within(path).contains(allowed)));
    files
        .flat_map(|(path, lines)| {
            let hits = lines.into_iter().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
            hits.map(move |(number, line)| format!("{}:{number}: {}", path.display(), line.trim()))
                .collect::<Vec<_>>()
        })
        .collect()
}

const CODE: &[&str] = &["schemas", "recipes", "executors", "run", "engine", "tests", "examples"];

#[test]
fn model_files_do_not_depend_on_ranks() {
    let found = places(
        &["engine/src/model"],
        &["comm::", "Mesh", "rank()", ".size() ==", "ProcessGroup", "world"],
        &[],
    );
    assert_eq!(found, Vec::<String>::new());
}

/// FP8 belongs to the linears that `Build` makes.
#[test]
fn model_files_do_not_mention_fp8() {
    let words = ["fp8", "Fp8", "FP8", "Float8"];
    assert_eq!(places(&["engine/src/model"], &words, &[]), Vec::<String>::new());
    assert!(
        !places(&["engine/src/nn"], &words, &[]).is_empty(),
        "this test looks for the wrong words"
    );
}

#[test]
fn unsafe_code_is_only_in_the_ffi() {
    let words = [
        concat!("uns", "afe {"),
        concat!("uns", "afe fn"),
        concat!("uns", "afe impl"),
        concat!("ext", "ern \"C\""),
    ];
    assert_eq!(
        places(
            CODE,
            &words,
            &["engine/ffi/", "engine/jpeg/", "engine/kernels/", "engine/src/comm/nccl.rs"]
        ),
        Vec::<String>::new()
    );
}

#[test]
fn one_file_names_the_variables_between_launcher_and_rank() {
    let words = [
        "\"WORLD_SIZE\"",
        "\"LOCAL_RANK\"",
        "\"MASTER_ADDR\"",
        "\"MASTER_PORT\"",
        "\"NEVA_LOG\"",
        "\"NEVA_RANK\"",
    ];
    // Tests and benches act as launcher or rank themselves.
    assert_eq!(
        places(CODE, &words, &["schemas/src/contract.rs", "/tests/", "/benches/"]),
        Vec::<String>::new()
    );
}

/// Returns the crates of the workspace by folder.
const CRATES: &[&str] = &[
    "schemas",
    "recipes",
    "executors",
    "run",
    "engine",
    "engine/layout",
    "engine/jpeg",
    "engine/kernels",
    "engine/data",
    "engine/track",
    "engine/weights",
    "engine/ffi",
];

/// Imports that ARCHITECTURE.md forbids: crate, importing module, imported one.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("engine", "model", "parallel"),
    ("engine", "model", "comm"),
    ("engine", "model", "optim"),
    ("engine", "model", "trainer"),
    ("engine", "model", "checkpoint"),
    ("engine", "nn", "parallel"),
    ("engine", "nn", "model"),
    ("engine", "parallel", "nn"),
    ("engine", "parallel", "model"),
    ("engine", "optim", "nn"),
    ("engine", "optim", "model"),
    ("run", "resolve", "cli"),
    ("run", "config", "cli"),
];

#[test]
fn modules_import_only_lower_ones() {
    let found: Vec<_> = FORBIDDEN
        .iter()
        .flat_map(|(krate, from, to)| Imports::read(krate).between(from, to))
        .collect();
    assert_eq!(found, Vec::<String>::new());
    // Existing imports are found.
    assert!(!Imports::read("engine").between("model", "nn").is_empty());
    assert!(!Imports::read("run").between("cli", "resolve").is_empty());
}

#[test]
fn modules_have_no_import_cycles() {
    let cycles = |krate: &&str| {
        let cycles = Imports::read(krate).cycles();
        cycles.into_iter().map(|circle| format!("{krate}: {circle}")).collect::<Vec<_>>()
    };
    let found: Vec<_> = CRATES.iter().flat_map(cycles).collect();
    assert_eq!(found, Vec::<String>::new());
}

/// Sources that must not check the name of a model family or of a parameter.
const FAMILY_FREE: &[&str] = &[
    "schemas/src",
    "recipes/src",
    "executors/src",
    "run/src",
    "engine/src",
    "engine/layout/src",
    "engine/track/src",
];

/// Sources of the families themselves.
const FAMILIES: &[&str] = &["engine/layout/src/families/", "engine/src/model/"];

/// Components of parameter names.
const NAMES: &[&str] = &["language_model", "vision_tower", "multi_modal_projector", "embed_tokens", "lm_head"];

/// Settings of recipes whose names contain one of these.
const SETTINGS: &[&str] = &["freeze_language_model", "language_model_from_pretrained"];

/// NeMo's default of `vlm.LoRA.target_modules`: a value of a recipe, in Megatron's names of modules.
const RECIPE_VALUE: &str = "*.language_model.*.{module}";

#[test]
fn families_are_data() {
    let files = FAMILY_FREE.iter().flat_map(|folder| files(folder));
    let files = files.filter(|path| !FAMILIES.iter().any(|home| path.to_string_lossy().contains(home)));
    let forbidden = |found: &Found| match found {
        Found::Literal(text) => {
            let text = SETTINGS.iter().fold(text.clone(), |text, setting| text.replace(setting, ""));
            text != RECIPE_VALUE && NAMES.iter().any(|name| text.contains(name))
        }
        Found::Call(method, _) if method == "llava" => true,
        Found::Call(method, field) => {
            let looks_into = ["starts_with", "ends_with", "strip_prefix", "strip_suffix", "contains"];
            field.as_deref() == Some("name") && looks_into.contains(&method.as_str())
        }
    };
    let found: Vec<_> = files
        .flat_map(|path| {
            let hits = findings(&path).into_iter().filter(|(_, found)| forbidden(found));
            hits.map(|(line, found)| format!("{}:{line}: {found:?}", path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, Vec::<String>::new());
    // Both are found where they are allowed.
    let home = root().join("engine/layout/src/families/llava.rs");
    assert!(findings(&home).iter().any(|(_, found)| forbidden(found)));
}

/// These macros panic if the output cannot be written, even in the middle of a run or in signal handling.
#[test]
fn no_output_uses_macros_that_panic() {
    let words = [
        concat!("print", "ln!("),
        concat!("print", "!("),
        concat!("db", "g!("),
        concat!(".with_writer(std::io::", "stderr)"),
    ];
    let allowed = ["/tests/", "/benches/", "build.rs", "/examples/"];
    assert_eq!(places(CODE, &words, &allowed), Vec::<String>::new());
}
