//! Style rules of CONTRIBUTING.md that rustc, clippy and rustfmt do not check.

use neva_tests::root;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Maximum width of a line: rustfmt's `max_width`, which rustfmt does not enforce in string literals.
const COLUMNS: usize = 140;

/// Returns the lines longer than [`COLUMNS`], except those within a multi-line raw string, which is verbatim.
fn long_lines(text: &str) -> Vec<usize> {
    let mut raw_end: Option<String> = None;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut rest = match &raw_end {
            Some(end) => match line.split_once(end.as_str()) {
                Some((_, rest)) => rest,
                None => continue,
            },
            None => line,
        };
        if raw_end.is_none() && line.chars().count() > COLUMNS {
            found.push(index + 1);
        }
        raw_end = None;
        // A raw string starts but does not end here.
        while let Some(start) = rest.find("r#") {
            let hashes = rest[start + 1..].chars().take_while(|letter| *letter == '#').count();
            let after = &rest[start + 1 + hashes..];
            let Some(body) = after.strip_prefix('"') else {
                rest = after;
                continue;
            };
            let end = format!("\"{}", "#".repeat(hashes));
            match body.split_once(&end) {
                Some((_, next)) => rest = next,
                None => {
                    raw_end = Some(end);
                    break;
                }
            }
        }
    }
    found
}

#[test]
fn lines_in_raw_strings_are_not_counted() {
    let long = "x".repeat(COLUMNS + 1);
    let text =
        format!("short\nlet a = \"{long}\";\nlet b = r##\"{long}\n{long}\"#\n{long}\n\"##;\n// {long}\nlet c = r#\"x\"#; // {long}\n");
    assert_eq!(long_lines(&text), [2, 3, 7, 8]);
}

/// Collects the Rust files below `folder` that `git` does not ignore.
fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&entry, found);
        } else if name.ends_with(".rs") {
            found.push(entry);
        }
    }
}

#[test]
fn string_literals_fit_the_maximum_width() {
    let mut files = Vec::new();
    rust_files(root(), &mut files);
    // Generated data.
    files.retain(|path| !path.ends_with("optim/schedule_values.rs"));
    // Tests contain expected texts verbatim. The root's path itself may contain `tests`.
    let is_test = |path: &Path| {
        let mut folders = path.strip_prefix(root()).unwrap().components();
        folders.any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches")
    };
    files.retain(|path| !is_test(path));
    assert!(files.len() > 100, "only {} files were found", files.len());
    let mut long = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        long.extend(long_lines(&text).into_iter().map(|line| format!("{}:{line}", path.display())));
    }
    assert_eq!(long, Vec::<String>::new(), "break these literals with `\\` at the end of a line");
}

/// Parses major and minor version.
fn version(text: &str) -> (u64, u64) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap_or(0))
}

/// Dependencies must not need a newer Rust than our `rust-version`; clippy checks our own code
/// (`incompatible_msrv`).
#[test]
fn no_dependency_needs_a_newer_rust_than_ours() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let rust = |package: &Value| package["rust_version"].as_str().map(version);
    let own = packages
        .iter()
        .find(|package| package["name"] == "neva-run")
        .and_then(rust)
        .unwrap();
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| rust(package).is_some_and(|theirs| theirs > own))
        .map(|package| format!("{} {} needs {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(packages.len() > 100, "only {} packages were found", packages.len());
    assert_eq!(newer, Vec::<String>::new(), "rust-version is {}.{}", own.0, own.1);
}
