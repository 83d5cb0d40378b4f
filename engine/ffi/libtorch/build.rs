//! Fails in the first second of a build without libtorch. Otherwise torch-sys would fail minutes later, with a page of
//! compiler output. torch-sys does not depend on this crate; this crate has no dependencies, so cargo compiles it first.

#[path = "src/lib.rs"]
#[expect(unreachable_pub, reason = "the same file is also the library")]
mod libtorch;

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    match libtorch::find() {
        Ok(libtorch) => println!(
            "cargo::rerun-if-changed={}",
            libtorch.join("include").join(libtorch::VERSION_HEADER).display()
        ),
        Err(problem) => println!("cargo::error={problem}"),
    }
}
