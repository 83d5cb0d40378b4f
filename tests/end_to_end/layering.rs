//! Rules of ARCHITECTURE.md that a compiler does not check.

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

/// Files with their lines, numbered from 1, without comments.
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

/// Places where one of `words` stands.
fn places(folders: &[&str], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let files = folders.iter().flat_map(|folder| sources(folder));
    let files = files.filter(|(path, _)| !allowed.iter().any(|allowed| path.to_string_lossy().contains(allowed)));
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
fn a_model_file_knows_no_rank() {
    let found = places(
        &["engine/src/model"],
        &["comm::", "Mesh", "rank()", ".size() ==", "Collective", "world"],
        &[],
    );
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn unsafe_code_stands_in_the_ffi_only() {
    let words = [
        concat!("uns", "afe {"),
        concat!("uns", "afe fn"),
        concat!("uns", "afe impl"),
        concat!("ext", "ern \"C\""),
    ];
    assert_eq!(
        places(CODE, &words, &["engine/ffi/", "engine/src/comm/nccl.rs"]),
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
    // Tests play launcher or rank themselves.
    assert_eq!(places(CODE, &words, &["schemas/src/contract.rs", "/tests/"]), Vec::<String>::new());
}
