//! Streams and events. Without CUDA there are none, and every call says why.

use neva_torch_ffi::{Stream, libtorch_folder, load_cuda, set_gpu};
use std::path::Path;
use tch::Cuda;

#[test]
fn without_cuda_every_call_says_what_is_missing() {
    if load_cuda().unwrap() && Cuda::is_available() {
        let stream = Stream::pooled(0).unwrap();
        assert!(!stream.handle().unwrap().is_null());
        return;
    }
    for error in [
        Stream::current(0).unwrap_err(),
        Stream::pooled(0).unwrap_err(),
        set_gpu(0).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with("point LIBTORCH at a CUDA libtorch 2.11.0"), "{error}");
    }
    assert!(Stream::current(200).unwrap_err().to_string().contains("GPU 200"));
}

#[test]
fn libtorch_lies_where_it_was_loaded_from() {
    let folder = libtorch_folder().unwrap().canonicalize().unwrap();
    assert_eq!(folder, Path::new(env!("LIBTORCH_LIB")).canonicalize().unwrap());
}
