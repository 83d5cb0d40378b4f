//! Buffers of pixels that a thread uses again.
//!
//! Each image needs about a megabyte several times. The allocator returns such memory to the system and gets it back page
//! by page, which takes about as long as the resize.

use std::cell::RefCell;

/// Number of buffers that a thread keeps.
const KEPT: usize = 4;

/// Maximum size of a buffer that is kept, in bytes.
const MAX_BYTES: usize = 8 << 20;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Returns a buffer of `len` bytes, whose contents are arbitrary.
pub(super) fn take(len: usize) -> Vec<u8> {
    let spare = SPARE.try_with(|spare| {
        let mut spare = spare.try_borrow_mut().ok()?;
        let fitting = spare.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= len);
        let (index, _) = fitting.min_by_key(|(_, buffer)| buffer.capacity())?;
        Some(spare.swap_remove(index))
    });
    match spare.ok().flatten() {
        Some(mut buffer) => {
            buffer.resize(len, 0);
            buffer
        }
        None => vec![0; len],
    }
}

/// Keeps a buffer for a later [`take`] of this thread, or frees it: the smallest ones, and very large ones.
pub(super) fn give(buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > MAX_BYTES {
        return;
    }
    // An error means that the thread is ending.
    let _ = SPARE.try_with(|spare| {
        if let Ok(mut spare) = spare.try_borrow_mut() {
            spare.push(buffer);
            if spare.len() > KEPT {
                let smallest = spare.iter().enumerate().min_by_key(|(_, buffer)| buffer.capacity());
                let smallest = smallest.map(|(index, _)| index);
                smallest.map(|index| spare.swap_remove(index));
            }
        }
    });
}
