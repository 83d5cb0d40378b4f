//! Search for NCCL's library. The libraries are compiled by the tests.

use neva_engine::EngineError;
use neva_engine::comm::{Backend, CommError, Nccl};
use neva_schemas::exit_class;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The functions that the engine calls. Returns its version, and a unique id once.
const LIBRARY: &str = r#"
    #include <string.h>
    typedef struct { char internal[128]; } Id;
    int ncclGetVersion(int* version) { *version = VERSION; return 0; }
    int ncclGetUniqueId(Id* id) { static int dealt; memset(id->internal, 200, 128); return dealt++ ? 2 : 0; }
    int ncclCommInitRankConfig(void** comm, int size, Id id, int rank, void* config) { return 5; }
    int ncclCommGetAsyncError(void* comm, int* error) { return 0; }
    int ncclCommFinalize(void* comm) { return 0; }
    int ncclCommDestroy(void* comm) { return 0; }
    int ncclCommAbort(void* comm) { return 0; }
    const char* ncclGetErrorString(int result) { return result == 2 ? "unhandled system error" : "something"; }
    const char* ncclGetLastError(void* comm) { return ""; }
    int ncclAllReduce(void) { return 0; }
    int ncclAllGather(void) { return 0; }
    int ncclReduceScatter(void) { return 0; }
    int ncclBroadcast(void) { return 0; }
    int ncclSend(void) { return 0; }
    #ifndef OLD
    int ncclRecv(void) { return 0; }
    #endif
"#;

fn library(folder: &Path, name: &str, flags: &[&str]) -> PathBuf {
    let (source, library) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&source, LIBRARY).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .args(flags)
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success());
    library
}

#[test]
fn the_first_path_with_nccl_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let nccl = library(folder.path(), "libnccl.so.2", &["-DVERSION=22809"]);
    let nccl = Nccl::open(&[folder.path().join("none.so"), nccl], 3).unwrap();
    assert_eq!((nccl.version(), nccl.device()), ("2.28.9", tch::Device::Cuda(3)));
    assert_eq!(nccl.unique_id().unwrap(), [200; 128]);
    assert_eq!(nccl.unique_id().unwrap_err(), "NCCL: unhandled system error");
    // An id comes from another process and may be invalid.
    assert_eq!(nccl.init_rank(&[0; 8], 0, 2).unwrap_err(), "an id has 128 bytes, not 8");
}

#[test]
fn a_missing_library_is_reported_with_the_install_command() {
    let folder = tempfile::tempdir().unwrap();
    let places = [
        folder.path().join("none.so"),
        library(folder.path(), "old.so", &["-DVERSION=22809", "-DOLD"]),
        library(folder.path(), "older.so", &["-DVERSION=2708"]),
    ];
    let error = Nccl::open(&places, 0).unwrap_err();
    assert!(matches!(error, CommError::Unavailable(_)));
    let text = error.to_string();
    for words in [
        "pip install nvidia-nccl-cu13",
        "LD_LIBRARY_PATH",
        "finetune.trainer.accelerator=cpu",
        "none.so: ",
        "old.so: it has no ncclRecv",
        "older.so: version 2.7.8, and 2.14 or newer is needed",
    ] {
        assert!(text.contains(words), "`{words}` is not in {text}");
    }
    assert_eq!(EngineError::from(error).exit_code(), exit_class::CLUSTER);
}

#[test]
fn libtorchs_own_nccl_comes_first() {
    let places = Nccl::places(Path::new("/venv/site-packages/torch/lib"));
    let text: Vec<_> = places.iter().map(|place| place.to_str().unwrap()).collect();
    assert_eq!(
        text,
        [
            "libnccl.so.2",
            "libnccl.so",
            "/venv/site-packages/torch/lib/libnccl.so.2",
            "/venv/site-packages/torch/lib/../../nvidia/nccl/lib/libnccl.so.2",
        ]
    );
}
