//! Memory that held secrets, wiped when it is given back.
//!
//! Seeds, masks and shares pass through many buffers: tensors and temporaries of the engine,
//! frames, vectors that grow and move. Erasing each where it is dropped would miss those that
//! moved, and everything that other libraries copied. So it is the process's allocator that
//! overwrites a block before it goes back, whoever held it: a program that runs an evaluator or a
//! dealer installs [`WipingAllocator`] and calls [`wipe_what_is_freed`]. `marill` does. Without it,
//! what sessions free stays in the memory of the process until it is used again.
//!
//! ```
//! use marill_crypto::wipe::{WipingAllocator, wipe_what_is_freed};
//!
//! #[global_allocator]
//! static ALLOCATOR: WipingAllocator = WipingAllocator::system();
//!
//! wipe_what_is_freed();
//! ```
//!
//! What stays are copies in registers and on stacks; seeds and keys erase theirs where they are
//! dropped.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, Ordering},
};

static WIPES: AtomicBool = AtomicBool::new(false);

/// From now on memory that is given back is wiped, where the program's allocator is a
/// [`WipingAllocator`].
pub fn wipe_what_is_freed() {
    WIPES.store(true, Ordering::Relaxed);
}

/// Whether [`wipe_what_is_freed`] was called.
#[must_use]
pub fn wipes() -> bool {
    WIPES.load(Ordering::Relaxed)
}

/// The allocator `A`, with blocks overwritten before they go back to it once
/// [`wipe_what_is_freed`] was called.
pub struct WipingAllocator<A = System>(A);

impl WipingAllocator {
    /// Around the system's.
    #[must_use]
    pub const fn system() -> Self {
        Self(System)
    }
}

/// Overwrites a block so that the compiler, which knows that nobody reads it again, does not leave
/// that out.
///
/// # Safety
/// The block is valid for writes and nobody refers to it.
#[allow(unsafe_code)]
unsafe fn wipe(block: *mut u8, bytes: usize) {
    // SAFETY: the caller's.
    unsafe { block.write_bytes(0, bytes) };
    // An empty piece of assembly that may read all memory, as far as the compiler knows.
    // SAFETY: it does nothing.
    unsafe { std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags)) };
}

// SAFETY: every call goes to `A` with the layout that it was made with; wiping touches the block's
// own bytes, before it is given back.
#[allow(unsafe_code)]
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one that `A` asks for.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if wipes() {
            // SAFETY: the block has this layout and is given up here.
            unsafe { wipe(block, layout.size()) };
        }
        // SAFETY: as in `alloc`.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !wipes() {
            // SAFETY: as in `alloc`.
            return unsafe { self.0.realloc(block, layout, new_size) };
        }
        // A block that moves must not leave its content behind, so it is copied and wiped here.
        // SAFETY: the caller guarantees that the new size fits the alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: `new_size` is not zero, by the caller's promise.
        let new = unsafe { self.0.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: two blocks of at least this length that do not overlap; the old one is given
            // up.
            unsafe {
                new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        new
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps what blocks held when they came back.
    struct Keeper(Mutex<Vec<Vec<u8>>>);

    // SAFETY: all goes to the system's allocator.
    unsafe impl GlobalAlloc for Keeper {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            self.0.lock().unwrap().push(bytes.to_vec());
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn freed_blocks_are_empty_once_there_are_secrets() {
        let allocator = WipingAllocator(Keeper(Mutex::default()));
        let layout = Layout::from_size_align(100, 8).unwrap();
        let filled = || unsafe {
            let block = allocator.alloc(layout);
            block.write_bytes(7, 100);
            block
        };
        let came_back = || allocator.0.0.lock().unwrap().pop().unwrap();
        let other = filled();
        unsafe { allocator.dealloc(other, layout) };
        assert_eq!(
            came_back(),
            [7; 100],
            "before there are secrets nothing is done"
        );

        wipe_what_is_freed();
        let block = filled();
        unsafe { allocator.dealloc(block, layout) };
        assert_eq!(came_back(), [0; 100]);
        let block = filled();
        unsafe {
            let grown = allocator.realloc(block, layout, 300);
            assert_eq!(came_back(), [0; 100]);
            assert_eq!(std::slice::from_raw_parts(grown, 100), [7; 100]);
            allocator.dealloc(grown, Layout::from_size_align(300, 8).unwrap());
        }
        assert!(came_back().iter().all(|byte| *byte == 0));
    }
}
