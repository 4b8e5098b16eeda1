//! A card that is computed on: its kernels by name, launches, addresses of tensors, and small tables that are uploaded once.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Storage;
use candle_core::Tensor;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::cuda_backend::cudarc::driver::CudaModule;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum;
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use half::bf16;

use crate::ops::cuda::gemm::Blas;
use crate::ops::cuda::pinned;
use crate::ops::cuda::pool::trim;
use crate::ops::cuda::watch;
use crate::ops::cuda::watch::Watch;
use crate::ops::cuda::watch::Work;
use crate::ops::cuda::watch::late;
use crate::ops::cuda::watch::late_of_candle;
use maqam_base::error::Error;

/// The compiled kernels, a fatbin for each source file.
const FATBINS: &[&[u8]] = &include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Dynamic shared memory that a kernel may have without asking, in bytes (CUDA programming guide, table of technical specifications).
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// Tables kept on the card in case they are asked for again: those of one batch, or of a step of generation in all layers.
const KEPT_TABLES: usize = 256;

/// All bits set are NaN in every type of floating-point number.
const POISON: u8 = 0xff;

/// Threads of a block in all kernels that do not say otherwise.
pub const BLOCK: u32 = 256;

/// Numbers that a block of such threads handles where a kernel sees no rows: 8 a thread.
pub const STRETCH: usize = 8 * BLOCK as usize;

/// A place in the card's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// Where nothing is.
    pub const NULL: Self = Self(0);

    /// The place `count` numbers of type `T` further on.
    pub fn at<T>(self, count: usize) -> Self {
        Self(self.0 + (count * size_of::<T>()) as u64)
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A pointer.
    Pointer(u64),
    /// An `int`.
    Int(i32),
    /// A `long long`, or unsigned.
    Long(u64),
    /// A `float`.
    Float(f32),
    /// A `double`.
    Double(f64),
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Self::Pointer(address.0)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::Long(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// A list of arguments for [`Card::launch`], each of the type that the kernel has.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => {
        &[$($crate::ops::cuda::card::Argument::from($argument)),*]
    };
}
pub(crate) use arguments;

/// What may be copied to a card byte by byte.
///
/// # Safety
/// No padding, and every pattern of bits is a value.
pub unsafe trait Plain: Copy {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for bf16 {}
// SAFETY: an array has no padding of its own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A table on the card; it stays there as long as this exists.
pub struct Table(Arc<CudaSlice<u8>>);

impl Table {
    /// Where it begins.
    pub fn address(&self) -> Address {
        Address(self.0.device_ptr(self.0.stream()).0)
    }
}

struct Kept {
    bytes: Vec<u8>,
    on_card: Arc<CudaSlice<u8>>,
}

/// An opened card.
pub struct Card {
    device: Device,
    stream: Arc<CudaStream>,
    modules: Vec<Arc<CudaModule>>,
    functions: Mutex<HashMap<&'static str, (CudaFunction, u32)>>,
    tables: Mutex<VecDeque<Kept>>,
    pinned: Mutex<pinned::Pool>,
    blas: Blas,
    /// Whether new tensors are filled with NaN.
    is_poisoned: AtomicBool,
    watch: Watch,
}

static CARDS: Mutex<Vec<(DeviceId, Arc<Card>)>> = Mutex::new(Vec::new());

impl Card {
    /// The card behind a device, its kernels loaded when it is first asked for.
    pub fn of(device: &Device) -> Result<Arc<Self>> {
        let cuda = device.as_cuda_device()?;
        let mut cards = locked(&CARDS);
        if let Some((_, card)) = cards.iter().find(|(id, _)| *id == cuda.id()) {
            return Ok(card.clone());
        }
        let card = Arc::new(Self::load(cuda, device)?);
        cards.push((cuda.id(), card.clone()));
        Ok(card)
    }

    fn load(cuda: &CudaDevice, device: &Device) -> Result<Self> {
        let stream = cuda.cuda_stream();
        let load = |fatbin: &&[u8]| {
            stream
                .context()
                .load_module(Ptx::from_binary(fatbin.to_vec()))
                .w()
        };
        let modules = FATBINS.iter().map(load).collect::<Result<_>>()?;
        let blas = Blas::new(&stream)?;
        Ok(Self {
            device: device.clone(),
            stream,
            modules,
            functions: Mutex::default(),
            tables: Mutex::default(),
            pinned: Mutex::default(),
            blas,
            is_poisoned: AtomicBool::new(false),
            watch: Watch::new(),
        })
    }

    /// The compute capability.
    pub fn capability(&self) -> Result<(i32, i32)> {
        self.stream.context().compute_capability().w()
    }

    /// The stream that everything runs on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// What is watched of everything that is asked.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Waits for the stream.
    pub fn synchronise(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| late(&error))
    }

    /// Allocates; where there is no memory, once more after the pool has given back what lies between tensors.
    fn retried<T>(&self, allocate: impl Fn() -> Result<T>) -> Result<T> {
        allocate()
            .or_else(|error| {
                if !error.to_string().contains("OUT_OF_MEMORY") {
                    return Err(error);
                }
                trim(&self.stream)?;
                allocate()
            })
            .map_err(late_of_candle)
    }

    /// Matrix products.
    pub fn blas(&self) -> &Blas {
        &self.blas
    }

    /// A new contiguous tensor whose numbers are whatever was there; whoever asks writes all of them.
    pub fn empty(&self, shape: impl Into<Shape>, kind: DType) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        // SAFETY: on a card any bits are numbers; nothing on the host reads them before they were written.
        let flat = self.retried(|| unsafe { Tensor::empty(count.max(1), kind, &self.device) })?;
        if self.is_poisoned.load(Ordering::Relaxed) {
            let bytes = count.max(1) * kind.size_in_bytes();
            self.set_bytes(address(&flat, kind)?, POISON, bytes)?;
        }
        flat.narrow(0, 0, count)?.reshape(shape)
    }

    /// The same of bf16 rows with `room` more numbers behind each, which are not the tensor's: see [`crate::ops::linear::Linear::room`].
    pub fn empty_rows(&self, rows: usize, width: usize, room: usize) -> Result<Tensor> {
        self.empty((rows, width + room), DType::BF16)?
            .narrow(1, 0, width)
    }

    /// Runs a kernel; one of no blocks does nothing.
    ///
    /// # Errors
    /// Where there is no such kernel, or it cannot be launched with such a grid.
    pub fn launch(
        &self,
        name: &'static str,
        grid: (usize, usize),
        block: (u32, u32),
        shared: u32,
        arguments: &[Argument],
    ) -> Result<()> {
        self.launch_counted(name, [grid.0, grid.1, 1], block, shared, arguments, 0.0)
    }

    /// As [`Card::launch`], with a third dimension of blocks, and the floating-point operations that are counted for the profile.
    pub fn launch_counted(
        &self,
        name: &'static str,
        grid: [usize; 3],
        block: (u32, u32),
        shared: u32,
        arguments: &[Argument],
        operations: f64,
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let [Ok(x), Ok(y), Ok(z)] = grid.map(u32::try_from) else {
            candle_core::bail!("{name} cannot have {grid:?} blocks")
        };
        let function = self.function(name, shared)?;
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Pointer(value) | Argument::Long(value) => {
                    std::ptr::from_ref(value).cast::<c_void>().cast_mut()
                }
                Argument::Int(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
                Argument::Float(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
                Argument::Double(value) => std::ptr::from_ref(value).cast::<c_void>().cast_mut(),
            })
            .collect();
        let stream = self.stream.cu_stream();
        self.bind()?;
        let ask = || {
            // SAFETY: each caller gives the arguments that the kernel's comment names, in their types, over memory of the sizes it
            // names; the memory is freed in the stream's order, so not before the kernel ran.
            unsafe {
                result::launch_kernel(
                    function.cu_function(),
                    (x, y, z),
                    (block.0, block.1, 1),
                    shared,
                    stream,
                    &mut pointers,
                )
            }
            .map_err(|error| {
                let place = format!("the kernel {name} with {grid:?} blocks");
                candle_core::Error::from(Error::from(late(&error)).at(place))
            })
        };
        self.watched(
            || watch::launch(name, grid, block, shared, arguments, operations),
            ask,
        )
    }

    /// Has the calling thread work in the card's context; an error is one of an earlier call.
    fn bind(&self) -> Result<()> {
        self.stream
            .context()
            .bind_to_thread()
            .map_err(|error| late(&error))
    }

    /// A kernel by its name, allowed as much dynamic shared memory as it was ever launched with.
    fn function(&self, name: &'static str, shared: u32) -> Result<CudaFunction> {
        let mut functions = locked(&self.functions);
        if let Some((function, allowed)) = functions.get(name)
            && *allowed >= shared
        {
            return Ok(function.clone());
        }
        let Some(function) = self
            .modules
            .iter()
            .find_map(|module| module.load_function(name).ok())
        else {
            candle_core::bail!("this build has no kernel `{name}`")
        };
        if shared > SHARED_WITHOUT_ASKING {
            function
                .set_attribute(
                    CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    shared as i32,
                )
                .w()?;
        }
        functions.insert(name, (function.clone(), shared.max(SHARED_WITHOUT_ASKING)));
        Ok(function)
    }

    /// A table of the host on the card: the one that is there already, where the same was asked for a short while ago.
    ///
    /// Layers ask one after the other for the same boundaries and rows, so one batch costs one upload.
    pub fn table<T: Plain>(&self, values: &[T]) -> Result<Table> {
        // SAFETY: the type's promise: all bytes of the values are initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        let mut tables = locked(&self.tables);
        if let Some(found) = tables.iter().position(|kept| kept.bytes == bytes) {
            if let Some(kept) = tables.remove(found) {
                tables.push_front(kept);
            }
        } else {
            let bytes = if bytes.is_empty() {
                vec![0]
            } else {
                bytes.to_vec()
            };
            // SAFETY: all of it is written before anything reads it.
            let on_card = self.retried(|| unsafe { self.stream.alloc::<u8>(bytes.len()).w() })?;
            self.write(Address(on_card.device_ptr(&self.stream).0), &bytes)?;
            tables.push_front(Kept {
                bytes,
                on_card: Arc::new(on_card),
            });
            tables.truncate(KEPT_TABLES);
        }
        tables
            .front()
            .map(|kept| Table(kept.on_card.clone()))
            .ok_or_else(|| candle_core::Error::Msg("a table was lost".into()))
    }

    /// Copies numbers of the host over what is at `to`; waits for nothing but where they are very many.
    pub fn write<T: Plain>(&self, to: Address, values: &[T]) -> Result<()> {
        self.bind()?;
        if !pinned::is_staged(size_of_val(values)) {
            // SAFETY: callers name memory of a tensor with room for the values, which are waited for: the driver does not promise that it
            // has read memory that is not page-locked when it returns.
            unsafe {
                result::memcpy_htod_async(to.0, values, self.stream.cu_stream())
                    .map_err(|error| late(&error))?
            };
            return self.synchronise();
        }
        let mut block = self.pinned()?.take(size_of_val(values))?;
        // SAFETY: as above; the block is used again once the card has read it.
        unsafe {
            result::memcpy_htod_async(to.0, block.filled(values), self.stream.cu_stream())
                .map_err(|error| late(&error))?
        };
        self.pinned()?.give(block, self.event()?);
        Ok(())
    }

    /// Page-locked memory to copy through.
    pub fn pinned(&self) -> Result<MutexGuard<'_, pinned::Pool>> {
        self.bind()?;
        Ok(locked(&self.pinned))
    }

    /// Says when all that was asked for so far is done.
    pub fn event(&self) -> Result<CudaEvent> {
        self.stream.record_event(None).map_err(|error| late(&error))
    }

    /// Begins to copy `count` numbers into page-locked memory.
    pub fn download_to<T: Plain>(&self, to: *mut T, from: Address, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: callers name a place of a block with room for the values, which they keep until an event says that they are there,
        // and memory of a tensor with as many.
        unsafe {
            result::memcpy_dtoh_async(
                std::slice::from_raw_parts_mut(to, count),
                from.0,
                self.stream.cu_stream(),
            )
            .map_err(|error| late(&error))
        }
    }

    /// Waits for `count` numbers and copies them to the host.
    pub fn download<T: Plain>(&self, from: Address, count: usize) -> Result<Vec<T>> {
        let mut values: Vec<T> = Vec::with_capacity(count);
        if count == 0 {
            return Ok(values);
        }
        self.bind()?;
        // SAFETY: callers name memory of a tensor with as many values; all of them are written before the stream is idle, and
        // any bits are values of a plain type.
        unsafe {
            let room = std::slice::from_raw_parts_mut(values.as_mut_ptr(), count);
            result::memcpy_dtoh_async(room, from.0, self.stream.cu_stream())
                .map_err(|error| late(&error))?;
            self.synchronise()?;
            values.set_len(count);
        }
        Ok(values)
    }

    /// Copies bytes from one place on the card to another.
    pub fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: callers name memory of tensors with as many bytes.
        let ask = || unsafe {
            result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.cu_stream())
                .map_err(|error| late(&error))
        };
        self.watched(|| moved("copy", bytes, 2.0), ask)
    }

    /// Fills new tensors with NaN from now on, or no longer.
    pub fn poison(&self, is_poisoned: bool) {
        self.is_poisoned.store(is_poisoned, Ordering::Relaxed);
    }

    /// Sets bytes to zero.
    pub fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.set_bytes(at, 0, bytes)
    }

    fn set_bytes(&self, at: Address, byte: u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: as above.
        let ask = || unsafe {
            result::memset_d8_async(at.0, byte, bytes, self.stream.cu_stream())
                .map_err(|error| late(&error))
        };
        self.watched(|| moved("clear", bytes, 1.0), ask)
    }
}

/// A copy or a fill of so many bytes, each touched so many times.
fn moved(name: &'static str, bytes: usize, times: f64) -> Work {
    Work {
        name,
        shape: format!("{bytes} B"),
        bytes: Some(times * bytes as f64),
        operations: 0.0,
    }
}

/// The place of a contiguous tensor of a given type on a card.
///
/// # Errors
/// Where the tensor is strided, elsewhere, or of another type.
pub fn address(tensor: &Tensor, kind: DType) -> Result<Address> {
    let layout = tensor.layout();
    if !layout.is_contiguous() {
        candle_core::bail!("expected a contiguous tensor, found {layout:?}");
    }
    place(tensor, kind)
}

/// The place of a matrix on a card, and the distance of its rows, which may be more than their width.
///
/// # Errors
/// Where the numbers of a row do not follow each other, or the tensor is elsewhere or of another type.
pub fn rows_of(tensor: &Tensor, kind: DType) -> Result<(Address, usize)> {
    let layout = tensor.layout();
    match (layout.dims(), layout.stride()) {
        _ if layout.is_contiguous() => Ok((
            place(tensor, kind)?,
            layout.dims().last().copied().unwrap_or(1),
        )),
        (&[_, width], &[stride, 1]) if stride >= width => Ok((place(tensor, kind)?, stride)),
        _ => {
            candle_core::bail!("expected rows of numbers that follow each other, found {layout:?}")
        }
    }
}

/// Where a tensor's first number lies.
fn place(tensor: &Tensor, kind: DType) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    let start = layout.start_offset();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!(
            "expected a tensor on a card, found one on {:?}",
            tensor.device().location()
        )
    };
    macro_rules! place {
        ($values:expr, $T:ty) => {
            Address($values.device_ptr($values.stream()).0).at::<$T>(start)
        };
    }
    let place = match (&storage.slice, kind) {
        (CudaStorageSlice::BF16(values), DType::BF16) => place!(values, bf16),
        (CudaStorageSlice::F32(values), DType::F32) => place!(values, f32),
        (CudaStorageSlice::F64(values), DType::F64) => place!(values, f64),
        (CudaStorageSlice::F8E4M3(values), DType::F8E4M3) => place!(values, u8),
        _ => candle_core::bail!("expected {kind:?} on a card, found {:?}", tensor.dtype()),
    };
    Ok(place)
}

/// [`address`] of a tensor of bf16.
pub fn bf16_of(tensor: &Tensor) -> Result<Address> {
    address(tensor, DType::BF16)
}

/// [`address`] of a tensor of f32.
pub fn f32_of(tensor: &Tensor) -> Result<Address> {
    address(tensor, DType::F32)
}

/// A count as a kernel's `int`.
pub fn int(count: usize) -> Result<i32> {
    i32::try_from(count)
        .map_err(|_| candle_core::Error::Msg(format!("{count} is more than a kernel can count")))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
