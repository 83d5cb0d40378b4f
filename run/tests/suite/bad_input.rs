//! Bad files are reported with exit code 2, wherever the program takes a file.

use std::{fs, path::Path};

use crate::process::Program;

/// Returns the bytes of a file.
type Make = fn() -> Vec<u8>;

/// Names of bad files, functions that create them, and the expected message.
const FILES: &[(&str, Make, &str)] = &[
    ("laughs.yaml", laughs, "too large: at most 64 levels and"),
    ("deep.yaml", || "[".repeat(100_000).into_bytes(), "too large: at most 64 levels and"),
    (
        "deep.json",
        || ("[".repeat(100_000) + &"]".repeat(100_000)).into_bytes(),
        "too large: at most 64 levels",
    ),
    (
        "nul.yaml",
        || b"_factory_: neva\0tiny\n".to_vec(),
        "this is a NUL byte: the file is not text",
    ),
    (
        "nul.toml",
        || b"_factory_ = 'neva\0tiny'\n".to_vec(),
        "expected non-single-quote visible characters",
    ),
    (
        "latin1.yaml",
        || b"# \xfcber\n_factory_: neva_tiny\n".to_vec(),
        "it is not UTF-8 text (byte 2, on line 1)",
    ),
    (
        "utf16.yaml",
        || b"\xff\xfe_\0f\0".to_vec(),
        "it is not UTF-8 text (byte 0, on line 1)",
    ),
    ("empty.yaml", Vec::new, "the file names no recipe"),
    ("list.yaml", || b"- neva_tiny\n".to_vec(), "a recipe file is a map"),
];

/// Returns YAML whose aliases expand to 10^9 words.
fn laughs() -> Vec<u8> {
    let level = |level: usize| {
        let below = vec![format!("*l{}", level - 1); 10];
        format!("l{level}: &l{level} [{}]\n", below.join(", "))
    };
    let levels: String = (1..10).map(level).collect();
    format!("l0: &l0 [lol]\n{levels}").into_bytes()
}

/// Runs the program; returns its exit code and its whole output.
fn output_of(arguments: &[&str], make: impl FnOnce(&Path)) -> (i32, String) {
    let program = Program::new("", arguments);
    make(program.dir.path());
    let (code, stdout, stderr, _dir) = program.run();
    (code, stdout + &stderr)
}

#[track_caller]
fn refused(arguments: &[&str], file: &str, bytes: &[u8], expect: &str) {
    let (code, output) = output_of(arguments, |dir| fs::write(dir.join(file), bytes).unwrap());
    // Reports break long lines.
    let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        code == 2 && output.contains(expect) && !output.contains("panicked"),
        "{arguments:?}: {code}: {output}"
    );
}

#[test]
fn a_bad_recipe_file_is_refused() {
    for (name, bytes, expect) in FILES {
        for arguments in [&[*name, "--dry-run"][..], &["show", name], &["diff", "neva_tiny", name]] {
            refused(arguments, name, &bytes(), expect);
        }
    }
}

/// Problems that do not depend on the kind of file are reported for every kind.
#[test]
fn a_bad_file_is_refused_by_every_option() {
    for (name, bytes, expect) in FILES.iter().filter(|(name, ..)| !["empty.yaml", "list.yaml"].contains(name)) {
        let bytes = bytes();
        let local = format!("./{name}");
        refused(&["validate", name], name, &bytes, expect);
        refused(&["neva_tiny", "--dry-run", "--executor", &local], name, &bytes, expect);
        refused(
            &["neva_tiny", "--dry-run", "--set", &format!("finetune.model=@{name}")],
            name,
            &bytes,
            expect,
        );
        if name.ends_with(".yaml") {
            refused(&["neva_tiny", "--dry-run"], "neva.yaml", &bytes, expect);
        }
    }
}

#[test]
fn a_file_of_100_mb_is_not_read() {
    for arguments in [
        &["huge.yaml", "--dry-run"][..],
        &["validate", "huge.yaml"],
        &["neva_tiny", "--dry-run", "--executor", "./huge.yaml"],
        &["neva_tiny", "--dry-run", "--set", "finetune.model=@huge.yaml"],
    ] {
        let (code, output) = output_of(arguments, |dir| {
            let file = fs::File::create(dir.join("huge.yaml")).unwrap();
            file.set_len(100 << 20).unwrap();
        });
        assert!(code == 2 && output.contains("larger than 4 MiB"), "{arguments:?}: {code}: {output}");
    }
}

#[test]
fn a_bad_override_is_refused() {
    let deep = format!("{}x=1", "a.".repeat(50_000));
    let brackets = format!("name={}", "[".repeat(50_000));
    for (set, expect) in [
        ("", "the path is missing"),
        ("=", "the path is missing"),
        ("name", "`=` is missing"),
        ("[0]=1", ""),
        ("finetune.optim.lr=*l", ""),
        ("finetune.optim.lr=&l [*l]", ""),
        ("finetune.model=@", ""),
        ("finetune.model=@/proc/self/mem", ""),
        ("name=${name}", "these references form a cycle"),
        (&deep, "a path has at most 64 segments"),
        (&brackets, ""),
    ] {
        let (code, output) = output_of(&["neva_tiny", "--dry-run", "--set", set], |_| ());
        let shown: String = set.chars().take(40).collect();
        assert!(
            code == 2 && output.contains(expect) && !output.contains("panicked"),
            "{shown}: {code}: {output}"
        );
    }
}
