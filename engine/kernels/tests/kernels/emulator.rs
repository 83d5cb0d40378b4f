//! The kernels, compiled for the CPU by g++.

use neva_kernels::launch::Launch;
use neva_kernels::{Kernels, source};
use neva_torch_ffi::{Error, Result};
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tch::Device;

/// `int neva_launch(const char* kernel, unsigned blocks, void** arguments)`: 0, or 1 without a kernel of that name.
type LaunchFunction = unsafe extern "C" fn(*const c_char, u32, *mut *mut c_void) -> c_int;

/// A library with all kernels and the emulator.
#[derive(Debug)]
struct Emulator {
    library: libloading::Library,
    /// It has one block at a time.
    running: Mutex<()>,
}

/// Returns the emulated kernels.
pub(crate) fn kernels() -> &'static Kernels {
    static KERNELS: LazyLock<Kernels> = LazyLock::new(|| Kernels::new(Arc::new(Emulator::new())));
    &KERNELS
}

impl Emulator {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = format!("#include \"emulator.h\"\n{}\n#line 1 \"table\"\n", source::program());
        text.push_str("extern \"C\" int neva_launch(const char* kernel, unsigned blocks, void** arguments) {\n");
        for name in source::names() {
            writeln!(
                text,
                "if (!strcmp(kernel, \"{name}\")) emulator::entry = emulator::entry_of<{name}>; else"
            )
            .unwrap();
        }
        text.push_str("return 1;\nemulator::entry_arguments = arguments;\ngridDim = {blocks, 1, 1};\n");
        text.push_str("for (unsigned i = 0; i < blocks; i++) { blockIdx = {i, 0, 0}; emulator::run_block(); }\nreturn 0;\n}\n");
        let (file, library) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        std::fs::write(&file, text).unwrap();
        std::fs::write(folder.path().join("emulator.h"), include_str!("emulator.h")).unwrap();
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "g++".into());
        let mut command = Command::new(&compiler);
        command.args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
        ]);
        command.arg(&file).arg("-o").arg(&library);
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: the library was just built from our own source.
        let library = unsafe { libloading::Library::new(&library) }.unwrap();
        Self {
            library,
            running: Mutex::new(()),
        }
    }
}

impl Launch for Emulator {
    fn device(&self) -> Device {
        Device::Cpu
    }

    unsafe fn launch(&self, kernel: &str, blocks: u32, arguments: &mut [*mut c_void]) -> Result<()> {
        let _one_at_a_time = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the type is that of the definition above.
        let launch = unsafe { self.library.get::<LaunchFunction>(b"neva_launch") }.unwrap();
        let name = CString::new(kernel).unwrap();
        // SAFETY: the name is a C string; the caller guarantees the arguments.
        match unsafe { launch(name.as_ptr(), blocks, arguments.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::Argument(format!("there is no kernel {kernel}"))),
        }
    }
}
