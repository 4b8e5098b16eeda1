//! Page-locked memory of the host: copies that go through it neither wait for what the stream has
//! to do before them, nor does the host.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::NonNull;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::cuda_backend::cudarc::driver::result;

use crate::ops::cuda::address::Plain;

/// Bytes of the smallest block. All copies to a GPU go through page-locked memory: from other
/// memory the driver may return before it has read everything, or wait for the stream.
const LEAST: usize = 64 << 10;

/// Bytes of the largest piece that a copy is divided into: weights, as they are loaded.
pub const PIECE: usize = 32 << 20;

/// Most bytes that are page-locked: beyond it the host waits until the GPU has read what it was
/// given first.
const MOST: usize = 128 << 20;

/// Some page-locked memory.
pub struct Block {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain memory of the process, owned by whoever has the block.
unsafe impl Send for Block {}

impl Block {
    fn new(bytes: usize) -> Result<Self> {
        // SAFETY: nothing is read of it before it was written.
        let start = unsafe { result::malloc_host(bytes, 0).w()? };
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            candle_core::bail!("the driver has no page-locked memory")
        };
        Ok(Self { start, bytes })
    }

    /// The values, copied here.
    pub fn filled<T: Plain>(&mut self, values: &[T]) -> &[T] {
        let place = self.place::<T>(0, values.len());
        // SAFETY: `place` has room for as many values, and both are plain.
        unsafe {
            place.copy_from_nonoverlapping(values.as_ptr(), values.len());
            std::slice::from_raw_parts(place, values.len())
        }
    }

    /// Place of `count` values, `offset` bytes from the start; panics if they do not fit.
    pub fn place<T: Plain>(&self, offset: usize, count: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(align_of::<T>()) && offset + count * size_of::<T>() <= self.bytes,
            "{count} values at {offset} of {}",
            self.bytes
        );
        // SAFETY: inside the block, as was just seen; the driver gives whole pages, so the
        // alignment is the offset's.
        unsafe { self.start.as_ptr().add(offset).cast::<T>() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`. What cannot be given back stays with the process.
        let _ = unsafe { result::free_host(self.start.as_ptr().cast::<c_void>()) };
    }
}

/// Blocks that are used again once the GPU has done with them.
#[derive(Default)]
pub struct Pool {
    idle: Vec<Block>,
    /// In the order in which the GPU has done with them.
    busy: VecDeque<(CudaEvent, Block)>,
}

impl Pool {
    /// A block of at least so many bytes; the calling thread must be bound to the GPU.
    pub fn take(&mut self, bytes: usize) -> Result<Block> {
        let wanted = bytes.next_power_of_two().max(LEAST);

        loop {
            let done = self
                .busy
                .iter()
                .take_while(|(done, _)| done.is_complete())
                .count();
            self.idle
                .extend(self.busy.drain(..done).map(|(_, block)| block));
            let fitting = self
                .idle
                .iter()
                .enumerate()
                .filter(|(_, block)| block.bytes >= wanted);
            if let Some((place, _)) = fitting.min_by_key(|(_, block)| block.bytes) {
                return Ok(self.idle.swap_remove(place));
            }
            let held: usize = self
                .idle
                .iter()
                .chain(self.busy.iter().map(|(_, block)| block))
                .map(|block| block.bytes)
                .sum();
            if held + wanted <= MOST || held == 0 {
                return Block::new(wanted);
            }
            match self.busy.front() {
                Some((done, _)) => done.synchronize().w()?,
                None => self.idle.clear(),
            }
        }
    }

    /// Takes a block back that the GPU needs until `done`.
    pub fn give(&mut self, block: Block, done: CudaEvent) {
        self.busy.push_back((done, block));
    }
}
