//! What a case of a kernel needs: buffers in host memory, a launch, and numbers to compare.
//!
//! ```ignore
//! #[test]
//! fn rms_norm_is_the_definition() {
//!     if !is_emulated() {
//!         return;
//!     }
//!     let x = Buffer::<bf16>::input_from(&numbers("x", tokens * dim));
//!     let weight = Buffer::<bf16>::input_from(&numbers("weight", dim));
//!     let y = Buffer::<bf16>::output(tokens * dim);
//!     let inverse = Buffer::<f32>::output(tokens);
//!     launch("rms_norm", tokens, 256, 0, &[&y, &inverse, &x, &weight, &(dim as i32), &(dim as i32), &1e-6f32]);
//!     let (expected, _) = maqam::ops::norm::rms_norm(&x.tensor(&[tokens, dim]), &weight.tensor(&[dim]), 1e-6, 0).unwrap();
//!     assert_near("y", &y.numbers(), &flat(&expected), 2f64.powi(-8));
//! }
//! ```
//!
//! - [`Buffer::input`] is closed to writing, [`Buffer::in_place`] holds values that the kernel
//!   changes, [`Buffer::output`] holds NaN (all bits set) until it is written. `..._from` rounds
//!   `f64` to the buffer's type; what a reference is given comes from [`Buffer::numbers`] or
//!   [`Buffer::tensor`], so that both see the same rounded inputs.
//! - A buffer ends 0 to 15 bytes before a closed page, begins on a multiple of 16 bytes, and what
//!   lies around it is checked: a kernel that reads or writes outside fails with the line that does
//!   it.
//! - Arguments are `&buffer`, [`NULL`], and numbers of exactly the parameter's type
//!   (`&(dim as i32)`, `&1e-6f32`); their number, kinds and sizes are compared with the kernel's. A
//!   pointer inside a struct or an array comes from [`Buffer::address`].
//! - [`launch`] runs the kernel twice, with blocks and threads in ascending and in descending
//!   order, and wants the same bits in every buffer; [`launch_once`] is for cases that take long.
//!   Grids and blocks are `rows`, `(x, y)` or `(x, y, z)`.

#![allow(dead_code, reason = "what the cases of all kernels may need")]

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_long;
use std::ffi::c_uint;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::process::Command;
use std::ptr;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use candle_core::Device;
use candle_core::Tensor;
use half::bf16;
use libloading::Library;

use crate::cuda_kernels::compile;

const PAGE: usize = 4096;
/// Bytes around a buffer inside its pages.
const GUARD: u8 = 0xa5;
/// Bytes of an output that nothing has written: NaN in every floating-point type.
const POISON: u8 = 0xff;
/// Vector loads take up to this many bytes at once.
const ALIGNMENT: usize = 16;

/// A number that a buffer holds.
pub trait Number: Copy {
    /// The nearest number of this type.
    fn rounded(value: f64) -> Self;
    /// The same number, wider.
    fn widened(self) -> f64;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn rounded(value: f64) -> Self {
                value as $type
            }
            fn widened(self) -> f64 {
                self as f64
            }
        }
    )*};
}
numbers!(f32, f64, u8, i32, u32, i64, u64);

impl Number for bf16 {
    fn rounded(value: f64) -> Self {
        bf16::from_f64(value)
    }
    fn widened(self) -> f64 {
        self.to_f64()
    }
}

/// Pages with a closed one on each side, and where in them the buffer lies.
pub struct Memory {
    mapping: *mut u8,
    mapped: usize,
    offset: usize,
    bytes: usize,
    is_input: bool,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let room = bytes.next_multiple_of(ALIGNMENT);
        let open = room.next_multiple_of(PAGE).max(PAGE);
        let mapped = open + 2 * PAGE;
        // Anonymous pages; the outer two are protected right away.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(mapping, libc::MAP_FAILED);
        let mapping = mapping.cast::<u8>();
        unsafe {
            ptr::write_bytes(mapping, GUARD, mapped);
            assert_eq!(libc::mprotect(mapping.cast(), PAGE, libc::PROT_NONE), 0);
            assert_eq!(
                libc::mprotect(mapping.add(PAGE + open).cast(), PAGE, libc::PROT_NONE),
                0
            );
        }
        Self {
            mapping,
            mapped,
            offset: PAGE + open - room,
            bytes,
            is_input: false,
        }
    }

    fn start(&self) -> *mut u8 {
        // Inside the mapping by construction.
        unsafe { self.mapping.add(self.offset) }
    }

    fn close_to_writing(&mut self) {
        assert_eq!(
            unsafe {
                libc::mprotect(
                    self.mapping.add(PAGE).cast(),
                    self.mapped - 2 * PAGE,
                    libc::PROT_READ,
                )
            },
            0
        );
        self.is_input = true;
    }

    fn copy(&self) -> Vec<u8> {
        unsafe { std::slice::from_raw_parts(self.start(), self.bytes) }.to_vec()
    }

    fn restore(&self, bytes: &[u8]) {
        assert!(!self.is_input && bytes.len() == self.bytes);
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start(), bytes.len()) };
    }

    fn is_guard_whole(&self) -> bool {
        let open =
            unsafe { std::slice::from_raw_parts(self.mapping.add(PAGE), self.mapped - 2 * PAGE) };
        let start = self.offset - PAGE;
        open[..start]
            .iter()
            .chain(&open[start + self.bytes..])
            .all(|&byte| byte == GUARD)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        unsafe { libc::munmap(self.mapping.cast(), self.mapped) };
    }
}

/// Device memory of a case: `T` is a number, or any struct that a kernel reads (`#[repr(C)]`).
pub struct Buffer<T> {
    memory: Memory,
    len: usize,
    holds: PhantomData<T>,
}

impl<T: Copy> Buffer<T> {
    /// Values that the kernel reads and must not write.
    pub fn input(values: &[T]) -> Self {
        let mut buffer = Self::in_place(values);
        buffer.memory.close_to_writing();
        buffer
    }

    /// Values that the kernel reads and writes.
    pub fn in_place(values: &[T]) -> Self {
        let buffer = Self::output(values.len());
        unsafe {
            ptr::copy_nonoverlapping(
                values.as_ptr(),
                buffer.memory.start().cast::<T>(),
                values.len(),
            )
        };
        buffer
    }

    /// A buffer for values that the kernel writes, each of them NaN until then.
    pub fn output(len: usize) -> Self {
        let memory = Memory::new(len * size_of::<T>());
        unsafe { ptr::write_bytes(memory.start(), POISON, memory.bytes) };
        Self {
            memory,
            len,
            holds: PhantomData,
        }
    }

    /// Values of the buffer.
    pub fn values(&self) -> Vec<T> {
        unsafe { std::slice::from_raw_parts(self.memory.start().cast::<T>(), self.len) }.to_vec()
    }

    /// The pointer as a number, for structs and arrays of pointers.
    pub fn address(&self) -> u64 {
        self.memory.start() as u64
    }
}

impl<T: Number> Buffer<T> {
    /// [`Buffer::input`] of the nearest numbers.
    pub fn input_from(values: &[f64]) -> Self {
        Self::input(
            &values
                .iter()
                .map(|&value| T::rounded(value))
                .collect::<Vec<_>>(),
        )
    }

    /// [`Buffer::in_place`] of the nearest numbers.
    pub fn in_place_from(values: &[f64]) -> Self {
        Self::in_place(
            &values
                .iter()
                .map(|&value| T::rounded(value))
                .collect::<Vec<_>>(),
        )
    }

    /// Values of the buffer, widened.
    pub fn numbers(&self) -> Vec<f64> {
        self.values().into_iter().map(T::widened).collect()
    }

    /// Values of the buffer as an `f64` tensor on the CPU.
    pub fn tensor(&self, shape: &[usize]) -> Tensor {
        Tensor::from_vec(self.numbers(), shape, &Device::Cpu).unwrap()
    }
}

impl Buffer<bf16> {
    /// [`Buffer::input_from`] of rows with a stride of `stride`, and NaN between them.
    pub fn input_rows(values: &[f64], width: usize, stride: usize) -> Self {
        let gap = vec![bf16::from_bits(u16::from_ne_bytes([POISON; 2])); stride - width];
        let rows = values.chunks(width).flat_map(|row| {
            row.iter()
                .map(|&value| bf16::from_f64(value))
                .chain(gap.iter().copied())
        });
        Self::input(&rows.collect::<Vec<_>>())
    }

    /// The values of rows with a stride of `stride`; values between the rows must be unwritten.
    pub fn rows(&self, width: usize, stride: usize) -> Vec<f64> {
        let values = self.values();
        let gaps = values.chunks(stride).flat_map(|row| &row[width..]);
        assert!(
            gaps.into_iter()
                .all(|value| value.to_bits() == u16::from_ne_bytes([POISON; 2])),
            "something was written between rows"
        );
        values
            .chunks(stride)
            .flat_map(|row| &row[..width])
            .map(|value| value.to_f64())
            .collect()
    }
}

/// An argument of a kernel.
pub trait Argument {
    /// The value's bytes, from the first.
    fn value(&self) -> [u8; 8];
    /// The emulator's letter for the kind: `p` pointer, `f` floating point, `i` integer.
    fn kind(&self) -> char;
    fn size(&self) -> usize;
    fn memory(&self) -> Option<&Memory> {
        None
    }
}

/// A null pointer, for parameters that allow it.
pub struct Null;
pub const NULL: &dyn Argument = &Null;

impl Argument for Null {
    fn value(&self) -> [u8; 8] {
        [0; 8]
    }
    fn kind(&self) -> char {
        'p'
    }
    fn size(&self) -> usize {
        8
    }
}

impl<T: Copy> Argument for Buffer<T> {
    fn value(&self) -> [u8; 8] {
        self.address().to_ne_bytes()
    }
    fn kind(&self) -> char {
        'p'
    }
    fn size(&self) -> usize {
        8
    }
    fn memory(&self) -> Option<&Memory> {
        Some(&self.memory)
    }
}

macro_rules! scalars {
    ($($type:ty: $kind:literal),*) => {$(
        impl Argument for $type {
            fn value(&self) -> [u8; 8] {
                let mut value = [0; 8];
                value[..size_of::<$type>()].copy_from_slice(&self.to_ne_bytes());
                value
            }
            fn kind(&self) -> char {
                $kind
            }
            fn size(&self) -> usize {
                size_of::<$type>()
            }
        }
    )*};
}
scalars!(i32: 'i', u32: 'i', i64: 'i', u64: 'i', f32: 'f', f64: 'f');

/// The extent of a grid or a block.
pub trait Extent {
    fn xyz(self) -> [usize; 3];
}

impl Extent for usize {
    fn xyz(self) -> [usize; 3] {
        [self, 1, 1]
    }
}

impl Extent for (usize, usize) {
    fn xyz(self) -> [usize; 3] {
        [self.0, self.1, 1]
    }
}

impl Extent for (usize, usize, usize) {
    fn xyz(self) -> [usize; 3] {
        [self.0, self.1, self.2]
    }
}

type Run = unsafe extern "C" fn(
    *const c_char,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    usize,
    *mut *mut c_void,
) -> c_int;
type Parameters =
    unsafe extern "C" fn(*const c_char, *mut *const c_char, *mut *const usize) -> c_long;

/// The library of the emulated kernels.
struct Emulator {
    path: PathBuf,
    library: Library,
    /// Allows one launch at a time, with its message.
    turn: Mutex<()>,
}

fn emulator() -> Option<&'static Emulator> {
    static EMULATOR: OnceLock<Option<Emulator>> = OnceLock::new();
    let load = || {
        let path = compile::library()?;
        let library = unsafe { Library::new(&path) }.unwrap();
        Some(Emulator {
            path,
            library,
            turn: Mutex::new(()),
        })
    };
    EMULATOR.get_or_init(load).as_ref()
}

/// Returns whether there is a compiler to build the kernels with; a test without returns.
pub fn is_emulated() -> bool {
    emulator().is_some()
}

impl Emulator {
    fn check(&self, kernel: &CStr, arguments: &[&dyn Argument]) -> Result<(), String> {
        let mut kinds = ptr::null();
        let mut sizes = ptr::null();
        let count = unsafe {
            self.library
                .get::<Parameters>("maqam_emulate_parameters")
                .unwrap()(kernel.as_ptr(), &mut kinds, &mut sizes)
        };
        let count = usize::try_from(count)
            .map_err(|_| format!("no kernel {kernel:?} in tests/cuda/registry.inc"))?;
        if count != arguments.len() {
            return Err(format!(
                "kernel {kernel:?} takes {count} arguments, not {}",
                arguments.len()
            ));
        }
        for (i, argument) in arguments.iter().enumerate() {
            let (kind, size) = unsafe { (*kinds.add(i) as u8 as char, *sizes.add(i)) };
            if (kind, size) != (argument.kind(), argument.size()) {
                let found = (argument.kind(), argument.size());
                return Err(format!(
                    "kernel {kernel:?}, argument {i}: the kernel takes {:?}, the case gives {found:?} (kind, bytes)",
                    (kind, size)
                ));
            }
        }
        Ok(())
    }

    fn run(
        &self,
        kernel: &CStr,
        grid: [usize; 3],
        block: [usize; 3],
        shared: usize,
        arguments: &[&dyn Argument],
        reversed: bool,
    ) -> Result<(), String> {
        let mut values: Vec<[u8; 8]> = arguments.iter().map(|argument| argument.value()).collect();
        let mut pointers: Vec<*mut c_void> = values
            .iter_mut()
            .map(|value| value.as_mut_ptr().cast())
            .collect();
        let [[gx, gy, gz], [bx, by, bz]] =
            [grid, block].map(|extent| extent.map(|size| c_uint::try_from(size).unwrap()));
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = if reversed {
            "maqam_emulate_reversed"
        } else {
            "maqam_emulate"
        };
        let code = unsafe {
            self.library.get::<Run>(name).unwrap()(
                kernel.as_ptr(),
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared,
                pointers.as_mut_ptr(),
            )
        };
        if code != 0 {
            let message = unsafe {
                CStr::from_ptr(self
                    .library
                    .get::<unsafe extern "C" fn() -> *const c_char>("maqam_emulate_error")
                    .unwrap()())
            };
            return Err(self.with_line(&message.to_string_lossy()));
        }
        let broken = |argument: &&dyn Argument| {
            argument
                .memory()
                .is_some_and(|memory| !memory.is_guard_whole())
        };
        match arguments.iter().position(broken) {
            Some(i) => Err(format!(
                "kernel {kernel:?} writes just outside of argument {i}"
            )),
            None => Ok(()),
        }
    }

    /// A message that ends with an instruction's place gets its source line.
    fn with_line(&self, message: &str) -> String {
        let Some((said, place)) = message.rsplit_once(" @") else {
            return message.to_string();
        };
        let found = Command::new("addr2line")
            .arg("-Cfpie")
            .arg(&self.path)
            .arg(place)
            .output();
        let line = found
            .map(|found| String::from_utf8_lossy(&found.stdout).trim().to_string())
            .unwrap_or_default();
        format!("{said}\nat {line}")
    }
}

/// Runs a kernel in both orders of blocks and threads; what went wrong, where something did.
pub fn try_launch(
    kernel: &str,
    grid: impl Extent,
    block: impl Extent,
    shared: usize,
    arguments: &[&dyn Argument],
) -> Result<(), String> {
    let grid = grid.xyz();
    let block = block.xyz();
    let name = CString::new(kernel).unwrap();
    let emulator = emulator().unwrap();
    emulator.check(&name, arguments)?;
    let written: Vec<(usize, &Memory)> = arguments
        .iter()
        .enumerate()
        .filter_map(|(i, argument)| Some((i, argument.memory()?)))
        .filter(|(_, memory)| !memory.is_input)
        .collect();
    let before: Vec<Vec<u8>> = written.iter().map(|(_, memory)| memory.copy()).collect();
    emulator.run(&name, grid, block, shared, arguments, true)?;
    let reversed: Vec<Vec<u8>> = written.iter().map(|(_, memory)| memory.copy()).collect();
    written
        .iter()
        .zip(&before)
        .for_each(|((_, memory), bytes)| memory.restore(bytes));
    emulator.run(&name, grid, block, shared, arguments, false)?;
    for ((i, memory), reversed) in written.iter().zip(&reversed) {
        if let Some(at) = memory.copy().iter().zip(reversed).position(|(a, b)| a != b) {
            return Err(format!(
                "kernel {kernel}: byte {at} of argument {i} depends on the order of threads and blocks"
            ));
        }
    }
    Ok(())
}

/// [`try_launch`] that has to succeed.
pub fn launch(
    kernel: &str,
    grid: impl Extent,
    block: impl Extent,
    shared: usize,
    arguments: &[&dyn Argument],
) {
    try_launch(kernel, grid, block, shared, arguments)
        .unwrap_or_else(|message| panic!("{message}"));
}

/// [`launch`] in the ascending order alone.
pub fn launch_once(
    kernel: &str,
    grid: impl Extent,
    block: impl Extent,
    shared: usize,
    arguments: &[&dyn Argument],
) {
    let emulator = emulator().unwrap();
    let name = CString::new(kernel).unwrap();
    let run = || {
        emulator.check(&name, arguments)?;
        emulator.run(&name, grid.xyz(), block.xyz(), shared, arguments, false)
    };
    run().unwrap_or_else(|message: String| panic!("{message}"));
}

/// Largest distance relative to the largest expected value; infinite where anything is NaN.
pub fn error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(1e-30, |a: f64, b| a.max(b.abs()));
    let far = |(a, b): (&f64, &f64)| {
        if a.is_nan() || b.is_nan() {
            f64::INFINITY
        } else {
            (a - b).abs()
        }
    };
    found.iter().zip(expected).map(far).fold(0.0, f64::max) / size
}

/// Fails unless [`error`] is at most `bar`.
pub fn assert_near(what: &str, found: &[f64], expected: &[f64], bar: f64) {
    let error = error(found, expected);
    assert!(error <= bar, "{what}: {error:e} is more than {bar:e}");
}

/// Fails unless every number is within `relative` of its own expected value, or within `absolute`:
/// for outputs that are one rounding away from exact, `relative` is 2^-8 for bf16 and 2^-24 for
/// f32, half a unit in the last place of a number just above a power of two.
pub fn assert_each(what: &str, found: &[f64], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let is_near = (a - b).abs() <= (relative * b.abs()).max(absolute);
        assert!(is_near, "{what}, number {i}: {a:e} where {b:e} is expected");
    }
}
