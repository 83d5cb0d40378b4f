//! Packagers, on real repositories.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use neva_executors::{
    ExecutorError, PackagerError,
    packager::{CodeRecord, Package, pack},
    tunnel::LocalTunnel,
};
use neva_schemas::{
    GitArchivePackagerConfig, HybridPackagerConfig, NoPackagerConfig, OutsideCommit, PackagerConfig, PatternPackagerConfig, TextOrList,
};
use tempfile::TempDir;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always"]);
    let output = command
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A repository with a commit, in a folder whose name is no pattern.
fn repository(files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("my [code] *");
    fs::create_dir(&root).unwrap();
    git(&root, &["init", "-q", "-b", "main"]);
    write(&root, files);
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-q", "-m", "first"]);
    (dir, root)
}

fn packed(config: &PackagerConfig, folder: &Path) -> Package {
    block_on(pack(config, folder)).unwrap().unwrap()
}

fn refused(config: &PackagerConfig, folder: &Path) -> PackagerError {
    block_on(pack(config, folder)).unwrap_err()
}

/// Returns names and contents in a package: a link's is its target behind `->`.
fn contents(package: &Package) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(fs::File::open(package.archive().unwrap()).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let text = match entry.link_name().unwrap() {
            Some(target) => format!("->{}", target.display()),
            None => std::io::read_to_string(&mut entry).unwrap(),
        };
        (name, text)
    });
    entries.collect()
}

fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn archive(change: impl FnOnce(&mut GitArchivePackagerConfig)) -> PackagerConfig {
    let mut config = GitArchivePackagerConfig::default();
    change(&mut config);
    PackagerConfig::GitArchive(config)
}

fn texts(texts: &[&str]) -> TextOrList {
    TextOrList(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn a_commit_is_copied_and_the_rest_is_named() {
    let (_dir, root) = repository(&[
        ("a.py", "1"),
        ("src/b.py", "2"),
        ("src/odd \"name\"\n.txt", "3"),
        (".gitignore", "*.bin\n"),
    ]);
    fs::set_permissions(root.join("a.py"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("b.py", root.join("src/link")).unwrap();
    git(&root, &["add", "-A"]);
    git(&root, &["commit", "-q", "-m", "second"]);
    let files = [
        ("a.py", "1"),
        ("src/b.py", "2"),
        ("src/odd \"name\"\n.txt", "3"),
        (".gitignore", "*.bin\n"),
        ("src/link", "->b.py"),
    ];
    let clean = packed(&archive(|_| {}), &root);
    assert_eq!(contents(&clean), map(&files));
    assert_eq!(clean.warnings(), [] as [&str; 0]);
    let expect = CodeRecord {
        format: 1,
        hash: clean.record().hash.clone(),
        files: 5,
        commits: map(&[("", &git(&root, &["rev-parse", "HEAD"]))]),
        not_committed: Vec::new(),
    };
    assert_eq!(*clean.record(), expect);

    write(&root, &[("src/b.py", "changed"), ("new.py", "untracked"), ("data.bin", "ignored")]);
    fs::remove_file(root.join("a.py")).unwrap();
    let status = git(&root, &["status", "--porcelain", "--ignored"]);
    // From a folder within: the whole repository is copied, as it was committed.
    let warned = packed(&archive(|_| {}), &root.join("src"));
    assert_eq!(warned.record().hash, clean.record().hash);
    let at = root.display();
    assert_eq!(
        warned.warnings(),
        [
            format!("changes in {at} are not copied: a.py, src/b.py; commit them, or set `packager.uncommitted: include`"),
            format!("untracked files in {at} are not copied: new.py; commit them, or set `packager.untracked: include`"),
        ]
    );
    let included = packed(
        &archive(|config| (config.uncommitted, config.untracked) = (OutsideCommit::Include, OutsideCommit::Include)),
        &root,
    );
    let mut now = map(&files);
    now.remove("a.py");
    now.insert("src/b.py".into(), "changed".into());
    now.insert("new.py".into(), "untracked".into());
    assert_eq!(contents(&included), now);
    assert_eq!(included.record().not_committed, ["a.py", "src/b.py", "new.py"]);
    let diff = String::from_utf8(included.diff().to_vec()).unwrap();
    assert!(diff.contains("deleted file mode 100755") && diff.contains("+changed"), "{diff}");
    let ignored = packed(
        &archive(|config| (config.uncommitted, config.untracked) = (OutsideCommit::Ignore, OutsideCommit::Ignore)),
        &root,
    );
    assert_eq!(ignored.warnings(), [] as [&str; 0]);
    // The repository is as it was.
    assert_eq!(git(&root, &["status", "--porcelain", "--ignored"]), status);

    for (config, what) in [
        (
            archive(|config| config.check_uncommitted_changes = true),
            "changes that are not committed: a.py, src/b.py",
        ),
        (
            archive(|config| config.uncommitted = OutsideCommit::Refuse),
            "changes that are not committed: a.py, src/b.py",
        ),
        (
            archive(|config| config.check_untracked_files = true),
            "untracked files that are not committed: new.py",
        ),
    ] {
        let error = ExecutorError::from(refused(&config, &root));
        assert!(error.to_string().ends_with(what), "{error}");
        assert!(error.help().unwrap().contains("include") && error.exit_code() == 2);
    }
}

#[test]
fn a_part_and_another_commit_are_copied() {
    let (_dir, root) = repository(&[("a.py", "1"), ("src/b.py", "2"), ("src/c/d.py", "3"), ("srcx", "4")]);
    git(&root, &["tag", "first"]);
    write(&root, &[("src/b.py", "new"), ("a.py", "new")]);
    git(&root, &["commit", "-q", "-a", "-m", "second"]);
    write(&root, &[("a.py", "not committed")]);
    let within = |reference: &str| archive(|config| (config.r#ref, config.subpath) = (reference.into(), "src/".into()));
    let head = packed(&within("HEAD"), &root);
    assert_eq!(contents(&head), map(&[("b.py", "new"), ("c/d.py", "3")]));
    // The change is not below `src`.
    assert_eq!(head.warnings(), [] as [&str; 0]);
    assert_eq!(contents(&packed(&within("first"), &root)), map(&[("b.py", "2"), ("c/d.py", "3")]));
    let base = archive(|config| config.basepath = root.file_name().unwrap().to_str().unwrap().into());
    assert_eq!(packed(&base, root.parent().unwrap()).record().files, 4);

    let outside = tempfile::tempdir().unwrap();
    for (config, folder, what) in [
        (
            archive(|config| config.r#ref = "no-such".into()),
            root.as_path(),
            "`git rev-parse` failed",
        ),
        (archive(|config| config.subpath = "none".into()), &root, "`git archive` failed"),
        (archive(|_| {}), outside.path(), "is in no Git repository"),
        (
            archive(|config| (config.r#ref, config.uncommitted) = ("first".into(), OutsideCommit::Include)),
            &root,
            "`uncommitted: include` needs the current commit, but `ref` is first",
        ),
    ] {
        let error = refused(&config, folder);
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn submodules_are_copied_with_theirs() {
    let (_inner_dir, inner) = repository(&[("inner.py", "i")]);
    let (_middle_dir, middle) = repository(&[("middle.py", "m")]);
    git(&middle, &["submodule", "--quiet", "add", inner.to_str().unwrap(), "deep"]);
    git(&middle, &["commit", "-q", "-a", "-m", "submodule"]);
    let (_dir, root) = repository(&[("a.py", "1"), ("lib/b.py", "2")]);
    git(&root, &["submodule", "--quiet", "add", middle.to_str().unwrap(), "lib/sub"]);
    git(&root, &["submodule", "--quiet", "update", "--init", "--recursive"]);
    git(&root, &["commit", "-q", "-a", "-m", "submodule"]);
    let names = |package: &Package| {
        contents(package)
            .into_keys()
            .filter(|name| name.ends_with(".py"))
            .collect::<Vec<_>>()
    };
    let all = ["a.py", "lib/b.py", "lib/sub/deep/inner.py", "lib/sub/middle.py"];
    assert_eq!(names(&packed(&archive(|_| {}), &root)), all);
    let within = packed(&archive(|config| config.subpath = "lib/sub".into()), &root);
    assert_eq!(names(&within), ["deep/inner.py", "middle.py"]);
    assert_eq!(
        names(&packed(&archive(|config| config.include_submodules = false), &root)),
        ["a.py", "lib/b.py"]
    );

    write(&root.join("lib/sub"), &[("middle.py", "changed")]);
    let warned = packed(&archive(|_| {}), &root);
    assert_eq!(contents(&warned)["lib/sub/middle.py"], "m");
    assert!(warned.warnings()[0].contains("lib/sub/middle.py"), "{:?}", warned.warnings());
    let included = packed(&archive(|config| config.uncommitted = OutsideCommit::Include), &root);
    assert_eq!(contents(&included)["lib/sub/middle.py"], "changed");

    // A clone whose submodules were not fetched.
    let clone = root.with_file_name("clone");
    git(
        root.parent().unwrap(),
        &["clone", "-q", root.to_str().unwrap(), clone.to_str().unwrap()],
    );
    let error = refused(&archive(|_| {}), &clone);
    assert_eq!(error.to_string(), "the submodule lib/sub is not checked out");
    assert!(error.help().unwrap().contains("git submodule update --init --recursive"));
}

#[test]
fn patterns_add_files() {
    let (_dir, root) = repository(&[("a.py", "1"), (".gitignore", "data\n")]);
    write(&root, &[("data/x.json", "x"), ("data/deep/y.json", "y"), ("data/z.txt", "z")]);
    let data = packed(
        &archive(|config| config.include_pattern = texts(&["data/**/*.json", "data/z.txt"])),
        &root,
    );
    let expect = [
        ("a.py", "1"),
        (".gitignore", "data\n"),
        ("data/x.json", "x"),
        ("data/deep/y.json", "y"),
        ("data/z.txt", "z"),
    ];
    assert_eq!(contents(&data), map(&expect));
    let pattern = |patterns: &[&str], folders: &[&str]| {
        PackagerConfig::Pattern(PatternPackagerConfig {
            include_pattern: texts(patterns),
            relative_path: texts(folders),
            ..PatternPackagerConfig::default()
        })
    };
    let folder = packed(&pattern(&["data"], &["data"]), &root);
    assert_eq!(contents(&folder), map(&[("x.json", "x"), ("deep/y.json", "y"), ("z.txt", "z")]));
    let absolute = root.join("a.py");
    let two = packed(&pattern(&["data/deep", "a.*"], &["data", "."]), &root);
    assert_eq!(contents(&two), map(&[("deep/y.json", "y"), ("a.py", "1")]));
    for (config, what) in [
        (pattern(&["*.none"], &[]), "no file fits \"*.none\" in "),
        (pattern(&["a.py"], &["data"]), "is not in "),
        (pattern(&["[x"], &[]), "\"[x\" is not a pattern"),
        (pattern(&["a.py", "a.*"], &[]), "a.py is brought twice"),
        (
            pattern(&[glob::Pattern::escape(absolute.to_str().unwrap()).as_str()], &["data"]),
            "is not in ",
        ),
    ] {
        let error = refused(&config, &root);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn several_packagers_have_folders_or_one() {
    let (_dir, root) = repository(&[("a.py", "1")]);
    write(&root, &[("extra/a.txt", "t")]);
    symlink("/tmp", root.join("extra/link")).unwrap();
    let pattern = |pattern: &str| {
        PackagerConfig::Pattern(PatternPackagerConfig {
            include_pattern: texts(&[pattern]),
            relative_path: texts(&["extra"]),
            ..PatternPackagerConfig::default()
        })
    };
    let hybrid = |extract_at_root, packagers: Vec<(&str, PackagerConfig)>| {
        PackagerConfig::Hybrid(HybridPackagerConfig {
            sub_packagers: packagers.into_iter().map(|(name, config)| (name.to_owned(), config)).collect(),
            extract_at_root,
            ..HybridPackagerConfig::default()
        })
    };
    let both = || vec![("code", archive(|_| {})), ("data", pattern("extra/a.txt"))];
    assert_eq!(
        contents(&packed(&hybrid(false, both()), &root)),
        map(&[("code/a.py", "1"), ("data/a.txt", "t")])
    );
    assert_eq!(
        contents(&packed(&hybrid(true, both()), &root)),
        map(&[("a.py", "1"), ("a.txt", "t")])
    );

    // One brings a link, the other a file below it: unpacked, it would be written where the link leads.
    write(&root, &[("other/link/evil", "e")]);
    let below = PackagerConfig::Pattern(PatternPackagerConfig {
        include_pattern: texts(&["other"]),
        relative_path: texts(&["other"]),
        ..PatternPackagerConfig::default()
    });
    let error = refused(&hybrid(true, vec![("a", pattern("extra/link")), ("b", below)]), &root);
    assert_eq!(error.to_string(), "link/evil is brought twice");
}

#[test]
fn equal_files_give_equal_packages() {
    let hashes: Vec<_> = (0..2)
        .map(|_| {
            let (_dir, root) = repository(&[("a.py", "1"), ("b/c.py", "2")]);
            packed(&archive(|_| {}), &root).record().hash.clone()
        })
        .collect();
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_package_is_unpacked_once_and_replaced_whole() {
    let (dir, root) = repository(&[("a.py", "1"), ("b/c.py", "2")]);
    let (job, archives) = (dir.path().join("job 1"), dir.path().join("archives"));
    fs::create_dir(&job).unwrap();
    let send = |config: &PackagerConfig| block_on(packed(config, &root).send(&LocalTunnel, &job, &archives));
    send(&archive(|_| {})).unwrap();
    assert_eq!(fs::read_to_string(job.join("code/b/c.py")).unwrap(), "2");
    let record: CodeRecord = serde_json::from_str(&fs::read_to_string(job.join("code.json")).unwrap()).unwrap();
    assert_eq!(record.files, 2);
    assert!(!job.join("code.diff").exists());
    // The same code again: a further attempt keeps what it finds.
    fs::write(job.join("code/mark"), "").unwrap();
    send(&archive(|_| {})).unwrap();
    assert!(job.join("code/mark").exists());
    write(&root, &[("a.py", "changed")]);
    fs::remove_file(root.join("b/c.py")).unwrap();
    send(&archive(|config| config.uncommitted = OutsideCommit::Include)).unwrap();
    assert_eq!(fs::read_to_string(job.join("code/a.py")).unwrap(), "changed");
    assert!(!job.join("code/b/c.py").exists() && !job.join("code/mark").exists());
    assert!(fs::read_to_string(job.join("code.diff")).unwrap().contains("+changed"));
    let names: Vec<_> = fs::read_dir(&job)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(fs::read_dir(&archives).unwrap().count(), 2);

    // A folder on the cluster instead of a copy.
    let there = |folder: &Path| {
        PackagerConfig::None(NoPackagerConfig {
            symlink_from_remote_dir: Some(folder.to_owned()),
            ..NoPackagerConfig::default()
        })
    };
    let linked = dir.path().join("linked");
    fs::create_dir(&linked).unwrap();
    let link = |config: &PackagerConfig| block_on(packed(config, &root).send(&LocalTunnel, &linked, &archives));
    link(&there(&root)).unwrap();
    link(&there(&root)).unwrap();
    assert_eq!(fs::read_link(linked.join("code")).unwrap(), root);
    let error = link(&there(&dir.path().join("none"))).unwrap_err();
    assert!(error.to_string().contains("there is no folder"), "{error}");
    assert_eq!(
        block_on(pack(&PackagerConfig::default(), &root))
            .unwrap()
            .map(|package| package.record().clone()),
        None
    );
}
