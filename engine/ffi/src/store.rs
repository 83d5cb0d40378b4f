//! c10d's key-value stores: how ranks find each other before they can talk.

use std::ffi::{CString, c_char};
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use crate::error::{Error, Result, c_string, millis};
use crate::sys::{self, CStore};

/// A connection to a key-value store. All ranks that share it see the same keys.
///
/// A blocking call holds the connection, also against other threads: give each thread that waits its
/// own with [`Store::try_clone`].
#[derive(Debug)]
pub struct Store {
    raw: NonNull<CStore>,
}

// SAFETY: c10d's stores are reference-counted atomically and lock around each operation.
unsafe impl Send for Store {}
// SAFETY: as above: every operation takes the store's own lock.
unsafe impl Sync for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: `raw` came from C++, is freed only here. A failing destructor leaves nothing to be done.
        let _status = unsafe { sys::neva_store_free(self.as_ptr()) };
    }
}

impl Store {
    /// A view of this store whose keys all begin with `prefix/` (c10d's `PrefixStore`).
    pub fn prefixed(&self, prefix: &str) -> Result<Self> {
        let prefix = c_string("prefix", prefix)?;
        Self::created("prefix a store", |out| {
            // SAFETY: `self` and `prefix` live during the call; `out` is a place for one pointer.
            unsafe { sys::neva_store_prefixed(self.as_ptr(), prefix.as_ptr(), out) }
        })
    }

    /// A second connection to the same store.
    pub fn try_clone(&self) -> Result<Self> {
        Self::created("clone a store", |out| {
            // SAFETY: `self` lives during the call; `out` is a place for one pointer.
            unsafe { sys::neva_store_clone(self.as_ptr(), out) }
        })
    }

    /// Writes `key`, over what was there.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = c_string("key", key)?;
        // SAFETY: `key` is a C string and `value` a slice; both live during the call.
        unsafe { sys::neva_store_set(self.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) }.check("store set")
    }

    /// Waits until `key` exists, and reads it.
    ///
    /// # Errors
    /// [`Error::Deadline`] if nobody has set it after `deadline`.
    pub fn get(&self, key: &str, deadline: Duration) -> Result<Vec<u8>> {
        let c_key = c_string("key", key)?;
        let (mut value, mut length) = (null_mut(), 0);
        // SAFETY: `c_key` lives during the call; the last two are places for a pointer and its length.
        let status = unsafe { sys::neva_store_get(self.as_ptr(), c_key.as_ptr(), millis(deadline), &raw mut value, &raw mut length) };
        status
            .check("store get")
            .map_err(|error| error.deadline(deadline, format!("nobody set `{key}`")))?;
        // SAFETY: on success C++ stored a malloc'ed block of `length` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(value, length) }.to_vec();
        // SAFETY: the block is malloc'ed, ours, and not used again.
        unsafe { libc::free(value.cast()) };
        Ok(bytes)
    }

    /// Adds `delta` to the counter `key` (0 at first) and returns the sum. The counter is stored as
    /// decimal text: that is what [`Store::get`] returns for it.
    pub fn add(&self, key: &str, delta: i64) -> Result<i64> {
        let key = c_string("key", key)?;
        let mut value = 0;
        // SAFETY: `key` lives during the call; `value` is a place for one number.
        unsafe { sys::neva_store_add(self.as_ptr(), key.as_ptr(), delta, &raw mut value) }.check("store add")?;
        Ok(value)
    }

    /// Waits until all `keys` exist.
    ///
    /// # Errors
    /// [`Error::Deadline`] if they do not after `deadline`.
    pub fn wait(&self, keys: &[&str], deadline: Duration) -> Result<()> {
        let list = Keys::new(keys)?;
        // SAFETY: `list` holds `len` C strings that live during the call.
        let status = unsafe { sys::neva_store_wait(self.as_ptr(), list.as_ptr(), list.len(), millis(deadline)) };
        status
            .check("store wait")
            .map_err(|error| error.deadline(deadline, format!("not all of `{}` are set", keys.join("`, `"))))
    }

    /// Whether all `keys` exist now.
    pub fn check(&self, keys: &[&str]) -> Result<bool> {
        let list = Keys::new(keys)?;
        let mut present = false;
        // SAFETY: `list` holds `len` C strings that live during the call; `present` is a place for a bool.
        let status = unsafe { sys::neva_store_check(self.as_ptr(), list.as_ptr(), list.len(), &raw mut present) };
        status.check("store check")?;
        Ok(present)
    }

    /// Removes `key`; whether it existed.
    pub fn delete(&self, key: &str) -> Result<bool> {
        let key = c_string("key", key)?;
        let mut deleted = false;
        // SAFETY: `key` lives during the call; `deleted` is a place for a bool.
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
            message: "no store came back".into(),
        })?;
        Ok(Self { raw })
    }
}

/// A store served by one process over TCP (c10d's `TCPStore`); every member, the server too, is a client.
///
/// The keys live in the server's process and die with its `TcpStore`: it leaves last.
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
    /// Serves a store for `world` members on `port` of all interfaces (0 picks a free one, see
    /// [`TcpStore::port`]) and connects to it as `host`. Waits for nobody: that is [`TcpStore::join`].
    ///
    /// # Errors
    /// [`Error::Connect`], for example when the port is in use.
    pub fn server(host: &str, port: u16, world: usize, timeout: Duration) -> Result<Self> {
        Self::open("serve", host, port, world, timeout)
    }

    /// Connects to the store that another process serves, trying again until `timeout`.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody answers.
    pub fn client(host: &str, port: u16, world: usize, timeout: Duration) -> Result<Self> {
        if port == 0 {
            return Err(Error::Argument(format!(
                "a store client needs the port of its server on {host}, not 0"
            )));
        }
        Self::open("reach", host, port, world, timeout)
    }

    fn open(action: &'static str, host: &str, port: u16, world: usize, timeout: Duration) -> Result<Self> {
        let c_host = c_string("host", host)?;
        if world == 0 {
            return Err(Error::Argument("a store needs a world of at least one member".into()));
        }
        let mut bound = 0;
        let store = Store::created(action, |out| {
            let serve = action == "serve";
            // SAFETY: `c_host` lives during the call; `out` and `bound` are places for what they receive.
            unsafe { sys::neva_store_tcp(c_host.as_ptr(), port, serve, world, millis(timeout), out, &raw mut bound) }
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

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Checks in. The server returns when all members have, clients at once; call it once for each member.
    ///
    /// # Errors
    /// [`Error::Connect`] with the number of members that came, after the store's timeout.
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

/// Keys as C strings, and the array of pointers to them.
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
