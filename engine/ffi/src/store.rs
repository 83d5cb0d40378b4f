//! c10d's key-value stores, which ranks use for rendezvous.

use std::ffi::{CString, c_char};
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use crate::error::{Error, Result, c_string, millis};
use crate::sys::{self, CStore};

/// A connection to a key-value store. All ranks of the store have the same keys.
///
/// A blocking call also blocks calls of other threads on the same connection. Create a connection for each waiting thread
/// with [`Store::try_clone`].
#[derive(Debug)]
pub struct Store {
    raw: NonNull<CStore>,
}

// SAFETY: c10d's stores are reference-counted atomically, and each operation takes a lock.
unsafe impl Send for Store {}
// SAFETY: each operation takes the store's own lock.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: `raw` came from C++ and is freed only here. The status is ignored: nothing can be done about it.
        let _status = unsafe { sys::neva_store_free(self.as_ptr()) };
    }
}

impl Store {
    /// Returns a view of this store that prefixes all keys with `prefix/` (c10d's `PrefixStore`).
    pub fn prefixed(&self, prefix: &str) -> Result<Self> {
        let prefix = c_string("prefix", prefix)?;
        Self::created("prefix a store", |out| {
            // SAFETY: `self` and `prefix` live during the call; `out` has room for one pointer.
            unsafe { sys::neva_store_prefixed(self.as_ptr(), prefix.as_ptr(), out) }
        })
    }

    /// Opens another connection to the same store.
    pub fn try_clone(&self) -> Result<Self> {
        Self::created("clone a store", |out| {
            // SAFETY: `self` lives during the call; `out` has room for one pointer.
            unsafe { sys::neva_store_clone(self.as_ptr(), out) }
        })
    }

    /// Sets the value of `key`, and overwrites an earlier value.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = c_string("key", key)?;
        // SAFETY: `key` is a C string and `value` a slice; both live during the call.
        unsafe { sys::neva_store_set(self.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) }.check("store set")
    }

    /// Waits until `key` exists, and returns its value.
    ///
    /// # Errors
    /// Returns [`Error::Deadline`] if no rank sets the key within `deadline`.
    pub fn get(&self, key: &str, deadline: Duration) -> Result<Vec<u8>> {
        let c_key = c_string("key", key)?;
        let (mut value, mut length) = (null_mut(), 0);
        // SAFETY: `c_key` lives during the call; `value` and `length` have room for a pointer and a length.
        let status = unsafe { sys::neva_store_get(self.as_ptr(), c_key.as_ptr(), millis(deadline), &raw mut value, &raw mut length) };
        status
            .check("store get")
            .map_err(|error| error.deadline(deadline, format!("no rank set the key `{key}`")))?;
        // SAFETY: on success, `value` is a malloc'ed block of `length` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(value, length) }.to_vec();
        // SAFETY: the block was allocated by malloc, we own it, and it is not used again.
        unsafe { libc::free(value.cast()) };
        Ok(bytes)
    }

    /// Adds `delta` to the counter `key` (0 at first) and returns the sum. The counter is stored as decimal text, which
    /// [`Store::get`] returns.
    pub fn add(&self, key: &str, delta: i64) -> Result<i64> {
        let key = c_string("key", key)?;
        let mut value = 0;
        // SAFETY: `key` lives during the call; `value` has room for one number.
        unsafe { sys::neva_store_add(self.as_ptr(), key.as_ptr(), delta, &raw mut value) }.check("store add")?;
        Ok(value)
    }

    /// Waits until all `keys` exist.
    ///
    /// # Errors
    /// Returns [`Error::Deadline`] if a key does not exist within `deadline`.
    pub fn wait(&self, keys: &[&str], deadline: Duration) -> Result<()> {
        let list = Keys::new(keys)?;
        // SAFETY: `list` holds `len` C strings that live during the call.
        let status = unsafe { sys::neva_store_wait(self.as_ptr(), list.as_ptr(), list.len(), millis(deadline)) };
        status
            .check("store wait")
            .map_err(|error| error.deadline(deadline, format!("not all of the keys `{}` are set", keys.join("`, `"))))
    }

    /// Returns whether all `keys` exist.
    pub fn check(&self, keys: &[&str]) -> Result<bool> {
        let list = Keys::new(keys)?;
        let mut present = false;
        // SAFETY: `list` holds `len` C strings that live during the call; `present` has room for a bool.
        let status = unsafe { sys::neva_store_check(self.as_ptr(), list.as_ptr(), list.len(), &raw mut present) };
        status.check("store check")?;
        Ok(present)
    }

    /// Deletes `key`. Returns whether it existed.
    pub fn delete(&self, key: &str) -> Result<bool> {
        let key = c_string("key", key)?;
        let mut deleted = false;
        // SAFETY: `key` lives during the call; `deleted` has room for a bool.
        unsafe { sys::neva_store_delete(self.as_ptr(), key.as_ptr(), &raw mut deleted) }.check("store delete")?;
        Ok(deleted)
    }

    pub(crate) fn as_ptr(&self) -> *mut CStore {
        self.raw.as_ptr()
    }

    fn created(op: &'static str, make: impl FnOnce(*mut *mut CStore) -> sys::Status) -> Result<Self> {
        let mut raw = null_mut();
        make(&raw mut raw).check(op)?;
        let raw = NonNull::new(raw).ok_or(Error::Torch {
            op,
            message: "libtorch returned no store".into(),
        })?;
        Ok(Self { raw })
    }
}

/// A store that one process serves over TCP (c10d's `TCPStore`). Every worker, including the server, is a client.
///
/// The keys are in the memory of the server's process and are lost when its `TcpStore` is dropped: drop it last.
#[derive(Debug)]
pub struct TcpStore {
    store: Store,
    host: String,
    port: u16,
    timeout: Duration,
}

impl Deref for TcpStore {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl TcpStore {
    /// Serves a store for `world_size` workers on `port` of all interfaces (0 selects a free port, see
    /// [`TcpStore::port`]) and connects to it as `host`. It does not wait for other workers: see [`TcpStore::join`].
    ///
    /// # Errors
    /// Returns [`Error::Connect`], for example if the port is in use.
    pub fn server(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self> {
        Self::open("serve", host, port, world_size, timeout)
    }

    /// Connects to the store of another process, and retries until `timeout`.
    ///
    /// # Errors
    /// Returns [`Error::Connect`] if there is no server at this address.
    pub fn client(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self> {
        if port == 0 {
            return Err(Error::Argument(format!(
                "a store client needs the port of its server on {host}, not 0"
            )));
        }
        Self::open("reach", host, port, world_size, timeout)
    }

    fn open(action: &'static str, host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self> {
        let c_host = c_string("host", host)?;
        if world_size == 0 {
            return Err(Error::Argument("a store needs a world size of at least 1".into()));
        }
        let mut bound = 0;
        let store = Store::created(action, |out| {
            let serve = action == "serve";
            // SAFETY: `c_host` lives during the call; `out` and `bound` have room for a pointer and a port.
            unsafe { sys::neva_store_tcp(c_host.as_ptr(), port, serve, world_size, millis(timeout), out, &raw mut bound) }
        });
        let connect = |message| Error::Connect {
            action,
            host: host.to_owned(),
            port,
            timeout,
            message,
        };
        let store = store.map_err(|error| match error {
            Error::Torch { message, .. } => connect(message),
            other => other,
        })?;
        Ok(Self {
            store,
            host: host.to_owned(),
            port: bound,
            timeout,
        })
    }

    /// Returns the port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Registers this worker. The server returns when all workers have registered, a client immediately. Call it once per
    /// worker.
    ///
    /// # Errors
    /// After the store's timeout, returns [`Error::Connect`] with the number of workers that registered.
    pub fn join(&self) -> Result<()> {
        // SAFETY: the store lives during the call.
        unsafe { sys::neva_store_join(self.as_ptr()) }
            .check("join")
            .map_err(|error| match error {
                Error::Torch { message, .. } => Error::Connect {
                    action: "join",
                    host: self.host.clone(),
                    port: self.port,
                    timeout: self.timeout,
                    message,
                },
                other => other,
            })
    }
}

/// Keys as C strings, with the array of pointers to them.
struct Keys {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Keys {
    fn new(keys: &[&str]) -> Result<Self> {
        let strings: Vec<CString> = keys.iter().map(|key| c_string("key", key)).collect::<Result<_>>()?;
        let pointers = strings.iter().map(|key| key.as_ptr()).collect();
        Ok(Self {
            _strings: strings,
            pointers,
        })
    }
    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
    fn len(&self) -> usize {
        self.pointers.len()
    }
}
