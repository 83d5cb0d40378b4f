//! Tests the examples in README.md, CONTRIBUTING.md and docs/*.md.
//!
//! | block | test |
//! |---|---|
//! | `yaml` with `_factory_:` | `neva-run show FILE` and `neva-run FILE --dry-run` accept it |
//! | `yaml` that starts with `finetune:` | the same, over `llava15_7b`, or over the recipe of a comment `<!-- recipe: NAME -->` |
//! | `yaml` with `tasks:` | an experiment: `neva-run validate FILE` and `neva-run FILE --dry-run` accept it |
//! | `yaml` with `executors:` or `_target_:` | a workspace or an executor: `neva-run validate FILE` accepts it |
//! | `console` | each `$ neva-run ...` and `$ neva-rank ...` is run, in a folder with the repository's entries; runs land in its `nemo_experiments`, for the document's later commands to use |
//! | `rust` | a documentation test of examples/lib.rs; in README.md, a quotation of examples/direct.rs |
//! | `text`, `json` | none |
//!
//! A command must exit with code 0, or with N if `# exit N` follows it. Commands with a large recipe get `--dry-run`.
//! The lines below a command must occur in its output in order; the output may contain others. In these lines `...`
//! matches anything, a number any number (but for counts of parameters), and a space any space. Commands of other programs are not run, and neither
//! are blocks below a comment that starts with `<!-- not run`.

use neva_tests::{neva_run, program, root, run};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Recipes that are too large for test machines.
const LARGE: &[&str] = &["llava15_", "neva_llama3_"];

/// A fenced block of a document.
struct Block {
    /// File and line, for messages.
    at: String,
    language: String,
    /// Comment above the block.
    note: String,
    text: String,
}

/// Returns the documents, relative to the root.
fn documents() -> Vec<PathBuf> {
    let folder = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut documents: Vec<_> = folder.map(|name| Path::new("docs").join(name)).collect();
    documents.sort();
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    documents.extend(["README.md".into(), "CONTRIBUTING.md".into()]);
    documents
}

fn read(document: &Path) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

fn blocks(document: &Path) -> Vec<Block> {
    let (mut blocks, mut open, mut note) = (Vec::new(), None::<Block>, String::new());
    for (index, line) in read(document).lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block {
                    at: format!("{}:{}", document.display(), index + 1),
                    language: language.split(',').next().unwrap().to_owned(),
                    note: std::mem::take(&mut note),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) if line.trim().is_empty() => {}
            (None, None) => note = line.to_owned(),
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", document.display());
    blocks
}

fn blocks_in(language: &str) -> Vec<Block> {
    let all = documents().into_iter().flat_map(|document| blocks(&document));
    all.filter(|block| block.language == language).collect()
}

#[test]
fn every_block_is_tested() {
    for block in documents().iter().flat_map(|document| blocks(document)) {
        let known = ["yaml", "console", "rust", "text", "json"];
        assert!(
            known.contains(&block.language.as_str()),
            "{}: a block of {:?}",
            block.at,
            block.language
        );
    }
    // The documents' Rust code is compiled and run there.
    let examples = fs::read_to_string(root().join("examples/lib.rs")).unwrap();
    for document in documents().iter().filter(|document| document.starts_with("docs")) {
        let include = format!("include_str!(\"../{}\")", document.display());
        assert!(examples.contains(&include), "examples/lib.rs has no {include}");
    }
    let example = fs::read_to_string(root().join("examples/direct.rs")).unwrap();
    for block in blocks(Path::new("README.md")).iter().filter(|block| block.language == "rust") {
        for line in block.text.lines() {
            assert!(example.contains(line.trim()), "{}: not in examples/direct.rs: {line}", block.at);
        }
    }
}

#[test]
fn every_yaml_block_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file.yaml");
    for Block { at, note, text, .. } in blocks_in("yaml") {
        let recipe = note.strip_prefix("<!-- recipe: ").and_then(|rest| rest.strip_suffix(" -->"));
        let has = |key: &str| text.lines().any(|line: &str| line.starts_with(key));
        if has("apiVersion:") {
            // Kubernetes reads it; kubernetes_manifests compares it with a golden file.
            continue;
        }
        let (text, commands) = if has("tasks:") {
            (text, &["validate", "--dry-run"][..])
        } else if has("executors:") || has("_target_:") {
            (text, &["validate"][..])
        } else if has("_factory_:") {
            (text, &["show", "--dry-run"][..])
        } else {
            assert!(has("finetune:"), "{at}: neva-run does not read such a file");
            let over = format!("_factory_: {}\n{text}", recipe.unwrap_or("llava15_7b"));
            (over, &["show", "--dry-run"][..])
        };
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        for command in commands {
            let arguments = if command.starts_with('-') {
                [file, command]
            } else {
                [command, file]
            };
            let ended = run(neva_run(&arguments));
            assert_eq!(ended.code, Some(0), "{at}:\n{}", ended.stderr);
        }
    }
}

#[test]
fn every_command_gives_the_shown_output() {
    let mut wrong = Vec::new();
    for document in documents() {
        let folder = mirror();
        let blocks = blocks(&document).into_iter().filter(|block| block.language == "console");
        for block in blocks.filter(|block| !block.note.starts_with("<!-- not run")) {
            let tried = commands(&block.text).into_iter().map(|shown| try_command(&shown, folder.path()));
            wrong.extend(tried.filter_map(Result::err).map(|error| format!("{}: {error}", block.at)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Creates a folder with the entries of the repository's root and its own `nemo_experiments`, in which commands run as
/// printed.
fn mirror() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["docs", "examples", "recipes", "schemas", "tests"] {
        symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    fs::create_dir(folder.path().join("target")).unwrap();
    symlink(program("neva-run").parent().unwrap(), folder.path().join("target/release")).unwrap();
    folder
}

/// A command in a document, with its shown output.
#[derive(Debug, PartialEq)]
struct Shown {
    command: String,
    code: i32,
    output: Vec<String>,
}

/// Returns the commands of a block that call our programs.
fn commands(block: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let block = block.replace("\\\n", " ");
    for line in block.lines() {
        if let Some(line) = line.strip_prefix("$ ") {
            let (command, comment) = line.split_once(" #").unwrap_or((line, ""));
            all.push(Shown {
                command: command.trim().to_owned(),
                code: comment.trim().strip_prefix("exit ").map_or(0, |code| code.parse().unwrap()),
                output: Vec::new(),
            });
        } else if let Some(shown) = all.last_mut() {
            shown.output.push(line.to_owned());
        }
    }
    let is_ours = |shown: &Shown| {
        let word = shown.command.split_whitespace().find(|word| !word.contains('='));
        word.is_some_and(|word| ["neva-run", "neva-rank", "target/release/neva-run"].contains(&word))
    };
    all.retain(is_ours);
    all
}

/// Runs a command; returns an error if its result differs from the document.
fn try_command(shown: &Shown, folder: &Path) -> Result<(), String> {
    let mut command = shown.command.clone();
    let is_launcher = command.split_whitespace().any(|word| word.ends_with("neva-run"));
    let is_large = is_launcher && LARGE.iter().any(|name| command.contains(name));
    if is_large && !command.contains("--dry-run") && !["neva-run show", "neva-run render"].iter().any(|name| command.contains(name)) {
        command += " --dry-run";
    }
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("exec 2>&1\n{command}")).current_dir(folder);
    for (name, _) in neva_run(&[]).get_envs() {
        shell.env_remove(name);
    }
    for name in ["NEMO_MODELS_CACHE", "NEMO_CACHE_DIR", "NEMO_HOME"] {
        shell.env_remove(name);
    }
    #[expect(clippy::disallowed_methods, reason = "the test's own environment, handed on")]
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = folder.join("target/release");
    shell.env("PATH", format!("{}:{path}", programs.display())).env("HOME", folder);
    // Spinning threads make a busy machine eight times slower.
    shell.env("OMP_WAIT_POLICY", "passive");
    let ended = run(shell);
    let output = ended.stdout.replace(&format!("{}/", folder.canonicalize().unwrap().display()), "");
    let wrong = match first_missing(&shown.output, &output) {
        _ if ended.code != Some(shown.code) => format!("exit code {:?}, not {}", ended.code, shown.code),
        Some(missing) => format!("this is not printed, or not there: {missing}"),
        None => return Ok(()),
    };
    Err(format!("{command}\n{wrong}\n--- printed\n{output}"))
}

/// Returns the first shown line that does not occur in the output in order.
fn first_missing<'a>(shown: &'a [String], output: &str) -> Option<&'a str> {
    let mut printed = output.lines().map(plain);
    let wanted = shown.iter().filter(|line| !["", "..."].contains(&line.trim()));
    let mut missing = wanted.filter(|line| {
        let line = plain(line);
        !printed.any(|printed| fits(&line, &printed))
    });
    missing.next().map(String::as_str)
}

/// Normalizes a line: all numbers (also dates, times and versions) become 0, and repeated spaces one.
/// The counts of a table of parameters are kept: they depend on the recipe alone.
fn plain(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let is_part = words
        .first()
        .is_some_and(|part| ["language", "projection", "vision", "adapter"].contains(part));
    let is_count = |word: &&&str| word.bytes().all(|digit| digit.is_ascii_digit());
    if is_part && words.iter().filter(is_count).count() == 2 {
        return words.join(" ");
    }
    let mut plain = String::new();
    let mut letters = line.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_digit() {
            plain.push('0');
            let mut ahead = letters.clone();
            while let Some(next) = ahead.next() {
                let joins = "-_.:".contains(next) && ahead.peek().is_some_and(char::is_ascii_digit);
                if !next.is_ascii_digit() && !joins {
                    break;
                }
                letters.next();
            }
        } else if !letter.is_whitespace() {
            plain.push(letter);
        } else if !letters.peek().is_some_and(|next| next.is_whitespace()) {
            plain.push(' ');
        }
    }
    plain
}

/// Returns true if `line` matches `pattern`, in which `...` matches anything.
fn fits(pattern: &str, line: &str) -> bool {
    let Some((start, rest)) = pattern.split_once("...") else {
        return pattern == line;
    };
    let Some(mut line) = line.strip_prefix(start) else { return false };
    let mut parts: Vec<_> = rest.split("...").collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = line.split_once(part) else { return false };
        line = after;
    }
    line.ends_with(end)
}

#[test]
fn shown_lines_must_occur_in_order() {
    let output = "language  64  8\nstep 1/4  loss 7.66\nstep 2/4  loss 7.65\ndone: 4 steps in runs/2026-11-24_08-39-34/logs\n";
    let check = |shown: &[&str], expect: Option<&str>| {
        let shown: Vec<_> = shown.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(first_missing(&shown, output), expect);
    };
    check(&[], None);
    check(
        &["step 3/9 loss 1.5", "...", "done: 7 steps in runs/2030-01-01_00-00-00-1/logs"],
        None,
    );
    check(&["language 64     8", "step 9/9 loss 1"], None);
    check(&["language  65  8"], Some("language  65  8"));
    check(&["step ... 7", "step ... 7"], None);
    check(&["step ... 7", "step ... 8", "step ... 9"], Some("step ... 9"));
    check(&["done: 4 steps .../logs", "step 1/4  loss 7.66"], Some("step 1/4  loss 7.66"));
    check(&["done: ... in runs/.../logs"], None);
    check(&["done: ... runs ... in ..."], Some("done: ... runs ... in ..."));
    check(&["one: 4 steps ..."], Some("one: 4 steps ..."));
    check(&["done: 4 steps"], Some("done: 4 steps"));
    check(&["...logs/more"], Some("...logs/more"));
}

#[test]
fn commands_are_parsed_from_blocks() {
    let block = "$ make demo\nbuilt\n$ neva-run a.yaml \\\n    --set b=1   # exit 2\nerror: b\n...\n$ HOME=/x neva-run doctor   # fine\n$ torchrun neva-run a.yaml\n";
    let shown = |command: &str, code, output: &[&str]| Shown {
        command: command.into(),
        code,
        output: output.iter().map(|line| (*line).to_owned()).collect(),
    };
    let expect = [
        shown("neva-run a.yaml      --set b=1", 2, &["error: b", "..."]),
        shown("HOME=/x neva-run doctor", 0, &[]),
    ];
    assert_eq!(commands(block), expect);
}

#[test]
fn every_link_has_a_target() {
    let mut links = 0;
    for document in documents() {
        for link in read(&document).split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(
                root().join(&target).exists(),
                "{}: there is no {}",
                document.display(),
                target.display()
            );
            let headings = || {
                read(&target)
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line) == heading)
            };
            assert!(
                heading.is_empty() || headings(),
                "{}: {} has no heading {heading:?}",
                document.display(),
                target.display()
            );
        }
    }
    assert!(links > 0);
}

/// A link whose text is one word of code points to a file with a function of that name.
#[test]
fn every_named_test_exists() {
    let mut tests = 0;
    for document in documents() {
        for named in read(&document).split("[`").skip(1) {
            let Some((name, rest)) = named.split_once("`](") else { continue };
            let Some((path, _)) = rest
                .split_once(')')
                .filter(|(path, _)| path.ends_with(".rs") && path.contains("/tests/"))
            else {
                continue;
            };
            tests += 1;
            let file = read(&document.parent().unwrap().join(path));
            assert!(
                file.contains(&format!("fn {name}(")),
                "{}: {path} has no test {name}",
                document.display()
            );
        }
    }
    assert!(tests > 0);
}

/// Returns a heading's anchor, as on GitHub.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(kept)
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}
