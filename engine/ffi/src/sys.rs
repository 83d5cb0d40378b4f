//! Declarations of the functions in `cpp/*.cpp`. `cpp/status.h` has the rules of calls between C++ and Rust.

use std::ffi::{c_char, c_int, c_void};

/// An `at::Tensor` on the C++ heap; a `tch::Tensor` holds a pointer to it.
#[repr(C)]
pub(crate) struct CTensor {
    _private: [u8; 0],
}

macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[repr(C)]
        pub(crate) struct $name { _private: [u8; 0] }
    )* };
}
opaque!(CStore CGroup CWork CEvent);

// The kinds of `neva_status`. Kind 1 is a C++ exception; unknown kinds are treated like it.
pub(crate) const OK: i32 = 0;
pub(crate) const CALLBACK: i32 = 2;
pub(crate) const PANIC: i32 = 3;

/// `neva_status`: the result of a call in either direction. The receiver owns `message`.
#[repr(C)]
#[must_use]
pub(crate) struct Status {
    pub(crate) kind: i32,
    pub(crate) message: *mut c_char,
}

pub(crate) type Tensors = *const *const CTensor;

#[repr(C)]
pub(crate) struct NodeCallbacks {
    pub(crate) backward: unsafe extern "C" fn(*mut c_void, Tensors, usize, *mut *mut CTensor, usize) -> Status,
    pub(crate) release: unsafe extern "C" fn(*mut c_void),
    pub(crate) drop: unsafe extern "C" fn(*mut c_void),
}

#[repr(C)]
pub(crate) struct HookCallbacks {
    pub(crate) call: unsafe extern "C" fn(*mut c_void) -> Status,
    pub(crate) active: unsafe extern "C" fn(*mut c_void) -> bool,
    pub(crate) drop: unsafe extern "C" fn(*mut c_void),
}

#[repr(C)]
pub(crate) struct AdamWOptions {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    pub(crate) maximize: bool,
}

/// `neva_stream`: the fields of a `c10::Stream`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CStream {
    id: i64,
    device: i64,
    kind: i64,
}

unsafe extern "C" {
    pub(crate) safe fn neva_grad_enabled() -> bool;

    pub(crate) fn neva_node_record(
        context: *mut c_void,
        callbacks: NodeCallbacks,
        name: *const c_char,
        inputs: Tensors,
        input_count: usize,
        outputs: Tensors,
        output_count: usize,
    ) -> Status;

    pub(crate) fn neva_backward(outputs: Tensors, gradients: Tensors, count: usize, keep_graph: bool) -> Status;
    pub(crate) fn neva_grad(
        outputs: Tensors,
        gradients: Tensors,
        count: usize,
        inputs: Tensors,
        results: *mut *mut CTensor,
        input_count: usize,
        keep_graph: bool,
    ) -> Status;

    pub(crate) fn neva_take_grad(leaf: *const CTensor, grad: *mut *mut CTensor) -> Status;
    pub(crate) fn neva_owns_memory(tensor: *const CTensor, owns: *mut bool) -> Status;

    pub(crate) fn neva_view_e8m0(bytes: *const CTensor, out: *mut *mut CTensor) -> Status;

    pub(crate) fn neva_operators_start(handle: *mut u64) -> Status;
    pub(crate) fn neva_operators_stop(handle: u64, counted: *mut u64) -> Status;

    pub(crate) fn neva_hook_install(
        parameter: *const CTensor,
        context: *mut c_void,
        callbacks: HookCallbacks,
        occupied: *mut bool,
    ) -> Status;

    pub(crate) fn neva_store_tcp(
        host: *const c_char,
        port: u16,
        server: bool,
        world_size: usize,
        timeout_ms: i64,
        out: *mut *mut CStore,
        bound: *mut u16,
    ) -> Status;
    pub(crate) fn neva_store_join(store: *mut CStore) -> Status;
    pub(crate) fn neva_store_prefixed(store: *mut CStore, prefix: *const c_char, out: *mut *mut CStore) -> Status;
    pub(crate) fn neva_store_clone(store: *mut CStore, out: *mut *mut CStore) -> Status;
    pub(crate) fn neva_store_free(store: *mut CStore) -> Status;
    pub(crate) fn neva_store_set(store: *mut CStore, key: *const c_char, value: *const u8, length: usize) -> Status;
    pub(crate) fn neva_store_get(
        store: *mut CStore,
        key: *const c_char,
        timeout_ms: i64,
        value: *mut *mut u8,
        length: *mut usize,
    ) -> Status;
    pub(crate) fn neva_store_add(store: *mut CStore, key: *const c_char, delta: i64, value: *mut i64) -> Status;
    pub(crate) fn neva_store_wait(store: *mut CStore, keys: *const *const c_char, count: usize, timeout_ms: i64) -> Status;
    pub(crate) fn neva_store_check(store: *mut CStore, keys: *const *const c_char, count: usize, present: *mut bool) -> Status;
    pub(crate) fn neva_store_delete(store: *mut CStore, key: *const c_char, deleted: *mut bool) -> Status;

    pub(crate) fn neva_gloo_new(
        store: *mut CStore,
        name: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        bind: i32,
        address: *const c_char,
        out: *mut *mut CGroup,
    ) -> Status;
    pub(crate) fn neva_gloo_free(group: *mut CGroup) -> Status;
    pub(crate) fn neva_gloo_abort(group: *mut CGroup, peer: c_int) -> Status;
    pub(crate) fn neva_gloo_all_reduce(group: *mut CGroup, tensor: *const CTensor, op: i32, out: *mut *mut CWork) -> Status;
    pub(crate) fn neva_gloo_all_gather(group: *mut CGroup, output: *const CTensor, input: *const CTensor, out: *mut *mut CWork) -> Status;
    pub(crate) fn neva_gloo_broadcast(group: *mut CGroup, tensor: *const CTensor, root: c_int, out: *mut *mut CWork) -> Status;
    pub(crate) fn neva_gloo_all_to_all(
        group: *mut CGroup,
        output: *const CTensor,
        input: *const CTensor,
        output_rows: *const i64,
        input_rows: *const i64,
        count: usize,
        out: *mut *mut CWork,
    ) -> Status;
    pub(crate) fn neva_gloo_send(group: *mut CGroup, tensor: *const CTensor, peer: c_int, tag: c_int, out: *mut *mut CWork) -> Status;
    pub(crate) fn neva_gloo_recv(group: *mut CGroup, tensor: *const CTensor, peer: c_int, tag: c_int, out: *mut *mut CWork) -> Status;
    pub(crate) fn neva_gloo_barrier(group: *mut CGroup, out: *mut *mut CWork) -> Status;
    pub(crate) fn neva_work_wait(work: *mut CWork, timeout_ms: i64) -> Status;
    pub(crate) fn neva_work_is_completed(work: *mut CWork, completed: *mut bool) -> Status;
    pub(crate) fn neva_work_free(work: *mut CWork) -> Status;

    pub(crate) fn neva_fused_adamw(
        params: Tensors,
        grads: Tensors,
        averages: Tensors,
        square_averages: Tensors,
        steps: Tensors,
        count: usize,
        options: *const AdamWOptions,
        grad_scale: *const CTensor,
        found_inf: *const CTensor,
    ) -> Status;
    pub(crate) fn neva_foreach_norm(tensors: Tensors, count: usize, order: f64, dtype: i32, results: *mut *mut CTensor) -> Status;
    pub(crate) fn neva_foreach_mul_scalar(tensors: Tensors, count: usize, factor: f64) -> Status;
    pub(crate) fn neva_foreach_mul_tensor(tensors: Tensors, count: usize, factor: *const CTensor) -> Status;
    pub(crate) fn neva_foreach_add(tensors: Tensors, others: Tensors, count: usize, alpha: f64) -> Status;
    pub(crate) fn neva_foreach_copy(tensors: Tensors, others: Tensors, count: usize) -> Status;
    pub(crate) fn neva_foreach_zero(tensors: Tensors, count: usize) -> Status;

    pub(crate) fn neva_set_float32_matmul_precision(name: *const c_char) -> Status;
    pub(crate) fn neva_forbid_tf32() -> Status;
    pub(crate) fn neva_allows_tf32(allows: *mut bool) -> Status;
    pub(crate) fn neva_set_deterministic_algorithms(on: bool) -> Status;
    pub(crate) fn neva_set_attention_kernels(flash: bool, efficient: bool, cudnn: bool, math: bool) -> Status;
    pub(crate) safe fn neva_set_log_level(level: c_int);
    pub(crate) fn neva_show_config(text: *mut *mut c_char) -> Status;
    pub(crate) fn neva_load_cuda(loaded: *mut bool) -> Status;
    pub(crate) fn neva_libtorch_file(path: *mut *mut c_char) -> Status;

    pub(crate) fn neva_set_cuda_device(index: i32) -> Status;
    pub(crate) fn neva_stream_current(index: i32, out: *mut CStream) -> Status;
    pub(crate) fn neva_stream_from_pool(index: i32, out: *mut CStream) -> Status;
    pub(crate) fn neva_stream_handle(stream: CStream, out: *mut *mut c_void) -> Status;
    pub(crate) fn neva_stream_record_tensor(stream: CStream, tensor: *const CTensor) -> Status;
    pub(crate) fn neva_event_record(stream: CStream, out: *mut *mut CEvent) -> Status;
    pub(crate) fn neva_event_block(event: *mut CEvent, stream: CStream) -> Status;
    pub(crate) fn neva_event_query(event: *mut CEvent, done: *mut bool) -> Status;
    pub(crate) fn neva_event_free(event: *mut CEvent) -> Status;

    pub(crate) fn neva_allocator_install() -> Status;
    pub(crate) fn neva_allocator_reuse() -> Status;
    pub(crate) safe fn neva_allocator_live() -> i64;
    pub(crate) safe fn neva_allocator_peak() -> i64;
    pub(crate) safe fn neva_allocator_reset_peak();
}
