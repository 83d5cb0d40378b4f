//! CUDA streams and events. Without CUDA, every call returns an error that says what is missing.

use neva_torch_ffi::{Stream, libtorch_folder, load_cuda, set_cuda_device};
use std::path::Path;
use tch::Cuda;

#[test]
fn without_cuda_every_call_reports_what_is_missing() {
    if load_cuda().unwrap() && Cuda::is_available() {
        let stream = Stream::from_pool(0).unwrap();
        assert!(!stream.handle().unwrap().is_null());
        return;
    }
    for error in [
        Stream::current(0).unwrap_err(),
        Stream::from_pool(0).unwrap_err(),
        set_cuda_device(0).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with("point LIBTORCH at a CUDA libtorch 2.11.0"), "{error}");
    }
    assert!(Stream::current(200).unwrap_err().to_string().contains("GPU 200"));
}

#[test]
fn libtorch_folder_is_the_folder_of_the_loaded_libtorch() {
    let folder = libtorch_folder().unwrap().canonicalize().unwrap();
    assert_eq!(folder, Path::new(env!("LIBTORCH_LIB")).canonicalize().unwrap());
}
