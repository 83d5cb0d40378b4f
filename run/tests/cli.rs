//! The command line as documents: runs and compares each `console` block of `cli/*.md`.

use std::time::Duration;

#[test]
fn documents() {
    trycmd::TestCases::new()
        .case("tests/cli/*.md")
        .env("NEVA_RANK", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/neva-rank"))
        .register_bin("cat", std::path::Path::new("/bin/cat"))
        .env("NEVA_RUN_HOME", ".neva_run")
        .env("NO_COLOR", "1")
        .env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
        .timeout(Duration::from_secs(120));
}
