//! The compiled kernels of a GPU.

use crate::launch::Launch;
use crate::nvrtc::{compile, nvrtc_folders};
use crate::source;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUcontext, CUdevice_attribute, CUfunction};
use neva_torch_ffi::{Error, Result, Stream};
use std::collections::BTreeMap;
use std::ffi::{CString, c_int, c_void};
use tch::Device;

/// Kernels in the memory of one GPU, in the context that libtorch uses.
#[derive(Debug)]
pub(crate) struct Gpu {
    index: usize,
    context: CUcontext,
    functions: BTreeMap<String, CUfunction>,
}

// SAFETY: CUDA's driver lets any thread use a context and the functions of its modules.
unsafe impl Send for Gpu {}
// SAFETY: as above, at the same time; both are only read here.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Compiles the kernels for GPU `index` and loads them.
    ///
    /// # Errors
    /// There is no driver or no NVRTC, or one of them refuses.
    pub(crate) fn new(index: usize) -> std::result::Result<Self, String> {
        // SAFETY: opens the driver's library and closes it again. Calls of cudarc panic without it.
        if !unsafe { sys::is_culib_present() } {
            return Err("libcuda.so.1, the driver's library, is not found".into());
        }
        result::init().map_err(text)?;
        let number = c_int::try_from(index).map_err(|error| error.to_string())?;
        let device = result::device::get(number).map_err(text)?;
        // SAFETY: the device exists. The context is that of libtorch, and is kept until the process ends.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(text)?;
        // SAFETY: the context was retained above.
        unsafe { result::ctx::set_current(context) }.map_err(text)?;
        let attribute = |attribute| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, attribute) }.map_err(text)
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let code = compile(&nvrtc_folders(), &format!("sm_{major}{minor}"))?;
        // SAFETY: `code` is a complete module, which the driver copies.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }.map_err(text)?;
        let mut functions = BTreeMap::new();
        for name in source::names() {
            let symbol = CString::new(name.clone()).map_err(|error| error.to_string())?;
            // SAFETY: the module was loaded above and is never unloaded.
            let function = unsafe { result::module::get_function(module, symbol) }.map_err(|error| format!("{name}: {}", text(error)))?;
            functions.insert(name, function);
        }
        Ok(Self { index, context, functions })
    }
}

fn text(error: DriverError) -> String {
    format!("CUDA's driver: {error}")
}

impl Launch for Gpu {
    fn device(&self) -> Device {
        Device::Cuda(self.index)
    }

    unsafe fn launch(&self, kernel: &str, blocks: u32, arguments: &mut [*mut c_void]) -> Result<()> {
        let function = self
            .functions
            .get(kernel)
            .ok_or_else(|| Error::Argument(format!("there is no kernel {kernel}")))?;
        let stream = Stream::current(self.index)?.handle()?.cast();
        let refused = |error| Error::Callback(format!("kernel {kernel}: {}", text(error)));
        // SAFETY: the context is never released. A thread of libtorch on this GPU has it already.
        unsafe { result::ctx::set_current(self.context) }.map_err(refused)?;
        let (grid, block) = ((blocks, 1, 1), (source::THREADS, 1, 1));
        // SAFETY: the function's module is loaded; the caller guarantees the arguments, which the driver copies. The stream is
        // libtorch's current one, in whose order its allocator reuses memory.
        unsafe { result::launch_kernel(*function, grid, block, 0, stream, arguments) }.map_err(refused)
    }
}
