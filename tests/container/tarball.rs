//! The tarball of `make dist`, on an empty Debian.

use std::{fs, path::PathBuf, process::Command};

use neva_tests::{Ended, run, variable};

use crate::machine::{Machine, TARGET};

/// Runs a shell text in the root of an empty machine.
fn shell(text: &str) -> Ended {
    let mut command = Command::new("/usr/sbin/chroot");
    command
        .arg(variable("NEVA_TEST_DEBIAN", TARGET))
        .args(["/bin/sh", "-euc", text])
        .env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", "/root");
    run(command)
}

#[test]
fn the_tarball_trains_on_an_empty_debian() {
    let machine = Machine::new();
    let path = |name: &str| PathBuf::from(variable(name, TARGET));
    let (debian, tarball) = (path("NEVA_TEST_DEBIAN"), path("NEVA_TEST_TARBALL"));
    let name = tarball.file_name().expect("a name").to_string_lossy().into_owned();
    let own = debian.join("opt").join(machine.dir.path().file_name().expect("a name"));
    fs::create_dir_all(&own).expect("a folder");
    fs::copy(&tarball, own.join(&name)).expect("a copy");
    fs::copy(tarball.with_file_name(format!("{name}.sha256")), own.join(format!("{name}.sha256"))).expect("a copy");
    let inside = PathBuf::from("/").join(own.strip_prefix(&debian).expect("below"));
    let inside = inside.display();
    let folder = name.trim_end_matches(".tar.gz");
    let text = |text: &str| shell(&format!("cd {inside}\n{text}")).with_code(0).stdout;
    // Moved: it must not depend on its place.
    text(&format!(
        "sha256sum --quiet -c *.sha256 && tar -xf {name} && mv {folder} moved && cd moved && sha256sum --quiet -c SHA256SUMS"
    ));
    assert!(text("moved/bin/neva-run doctor").contains("ok      libtorch"));
    let trained = text("moved/bin/neva-run moved/recipes/neva_tiny.yaml --set num_gpus_per_node=2 --set finetune.trainer.max_steps=3");
    assert!(trained.contains("done: 3 steps"), "{trained}");

    let tree = own.join("moved");
    let bill: serde_json::Value = serde_json::from_slice(&fs::read(tree.join("sbom.cdx.json")).expect("a bill")).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = bill["components"].as_array().expect("components");
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    assert!(components.len() > 200 && ["neva-run", "tokio", "openssl-src", "libtorch_cpu.so"].iter().all(|name| has(name)));
    for component in components {
        assert!(
            component["licenses"].as_array().is_some_and(|licenses| !licenses.is_empty()),
            "{component}"
        );
    }
    let list = fs::read_to_string(tree.join("licenses/LIST")).expect("a list");
    assert!(list.lines().count() > 200, "{list}");
    for (shell, file) in [
        ("bash", "share/bash-completion/completions/neva-run"),
        ("sh", "share/man/man1/neva-run.1"),
    ] {
        assert!(tree.join(file).is_file(), "{shell}: {file}");
    }
    text("bash -n moved/share/bash-completion/completions/neva-run");
    assert!(
        fs::read_to_string(tree.join("share/man/man1/neva-run-run.1"))
            .expect("a page")
            .contains(".SH OPTIONS")
    );
    // The building machine's folders are in no program's run path.
    let program = fs::read(tree.join("bin/neva-rank")).expect("the program");
    let built = neva_tests::root().canonicalize().expect("a path").join(".libtorch/lib");
    let built = built.display().to_string().into_bytes();
    assert!(
        !program.windows(built.len()).any(|bytes| bytes == built),
        "the build's libtorch is in the program"
    );
    fs::remove_dir_all(own).expect("removed");
}
