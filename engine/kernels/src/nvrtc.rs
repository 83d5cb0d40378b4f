//! Compilation by NVRTC, NVIDIA's compiler library. It needs no GPU.

use crate::source;
use cudarc::nvrtc::{result, sys};
use libloading::Library;
use neva_torch_ffi::libtorch_folder;
use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};

/// File names of the library and of the one that it opens itself, without its patch level.
const LIBRARY_FILE: &str = "libnvrtc.so.13";
const BUILTINS_FILE: &str = "libnvrtc-builtins.so.13";

/// Returns the folders where torch's wheels have the library: beside libtorch, and in NVIDIA's packages beside torch.
pub fn nvrtc_folders() -> Vec<PathBuf> {
    let folder = libtorch_folder().unwrap_or_default();
    let wheels = ["../../nvidia/cu13/lib", "../../nvidia/cuda_nvrtc/lib"];
    let wheels = wheels.map(|wheel| folder.join(wheel));
    [folder].into_iter().chain(wheels).collect()
}

/// Compiles the kernels for an architecture, such as `sm_90`, and returns the GPU's machine code. The library is searched in
/// `folders`, in `LD_LIBRARY_PATH` and in the system's folders.
///
/// # Errors
/// There is no NVRTC, or it refuses the architecture or the source: the compiler's message.
pub fn compile(folders: &[PathBuf], architecture: &str) -> Result<Vec<u8>, String> {
    open(folders)?;
    let source = CString::new(source::program()).map_err(|error| error.to_string())?;
    let program = Program(result::create_program(&source, Some(c"kernels.cu")).map_err(|error| error.to_string())?);
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".into()];
    // SAFETY: the program was created above and lives until the end of this function.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    compiled.map_err(|error| format!("NVRTC for {architecture}: {error} {}", program.log()))?;
    program.machine_code()
}

/// Opens the library for the life of the process: cudarc, which looks for it by its name alone, then finds it loaded. So does
/// NVRTC its second library, which it needs from the same folder.
fn open(folders: &[PathBuf]) -> Result<(), String> {
    for folder in folders {
        let Some(builtins) = starts_with(folder, BUILTINS_FILE) else {
            continue;
        };
        for file in [builtins, folder.join(LIBRARY_FILE)] {
            // SAFETY: opening runs the library's initializers. A file of this name is trusted to be NVIDIA's: the folders are
            // libtorch's, or the caller's own.
            if let Ok(library) = unsafe { Library::new(file) } {
                std::mem::forget(library);
            }
        }
    }
    // SAFETY: opens the library in the same way, and closes it again.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(format!(
        "{LIBRARY_FILE} is not found: `pip install nvidia-cuda-nvrtc` beside torch, or add its folder to LD_LIBRARY_PATH"
    ))
}

/// Returns the first file of `folder` whose name starts so.
fn starts_with(folder: &Path, start: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
}

/// A program of NVRTC.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created by NVRTC and is destroyed only here. A failure cannot be handled.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    /// Returns the compiler's messages.
    fn log(&self) -> String {
        // SAFETY: the program is alive.
        let Ok(log) = (unsafe { result::get_program_log(self.0) }) else {
            return String::new();
        };
        let bytes: Vec<u8> = log.iter().map(|byte| *byte as u8).collect();
        CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
    }

    /// Returns the machine code (CUBIN) of a compiled program. Unlike PTX, it needs no compiler in the driver, which may be
    /// older than NVRTC.
    fn machine_code(&self) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program is alive; `size` is a valid pointer.
        let found = unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) };
        found.result().map_err(|error| error.to_string())?;
        let mut code = vec![0_u8; size];
        // SAFETY: the program is alive; `code` has room for the `size` bytes that NVRTC announced.
        let copied = unsafe { sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast::<c_char>()) };
        copied.result().map_err(|error| error.to_string())?;
        Ok(code)
    }
}
