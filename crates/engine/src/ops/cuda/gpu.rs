//! A GPU that computes: its kernels by name, launches, copies, and small tables that are uploaded
//! once.

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
use candle_core::Tensor;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::cuda_backend::cudarc::driver::CudaModule;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum;
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use crate::ops::cuda::address::Address;
use crate::ops::cuda::address::Plain;
use crate::ops::cuda::address::address;
use crate::ops::cuda::arguments::Argument;
use crate::ops::cuda::blas::Blas;
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

/// Dynamic shared memory that a kernel may have without asking, in bytes (CUDA programming guide,
/// table of technical specifications).
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// Tables that are cached on the GPU: those of one batch, or of a step of generation in all layers.
const CACHED_TABLES: usize = 256;

/// All bits set are NaN in every type of floating-point number.
const POISON: u8 = 0xff;

/// A table on the GPU; it stays there as long as this exists.
pub struct Table(Arc<CudaSlice<u8>>);

impl Table {
    /// Address of the table.
    pub fn address(&self) -> Address {
        Address(self.0.device_ptr(self.0.stream()).0)
    }
}

/// A table that stays on the GPU in case it is used again.
struct CachedTable {
    bytes: Vec<u8>,
    on_gpu: Arc<CudaSlice<u8>>,
}

/// An opened GPU.
pub struct Gpu {
    device: Device,
    stream: Arc<CudaStream>,
    modules: Vec<Arc<CudaModule>>,
    functions: Mutex<HashMap<&'static str, (CudaFunction, u32)>>,
    tables: Mutex<VecDeque<CachedTable>>,
    pinned: Mutex<pinned::Pool>,
    blas: Blas,
    multiprocessors: usize,
    /// Whether new tensors are filled with NaN.
    is_poisoned: AtomicBool,
    watch: Watch,
}

static GPUS: Mutex<Vec<(DeviceId, Arc<Gpu>)>> = Mutex::new(Vec::new());

impl Gpu {
    /// The GPU behind a device, its kernels loaded on the first call.
    pub fn of(device: &Device) -> Result<Arc<Self>> {
        let cuda = device.as_cuda_device()?;
        let mut gpus = locked(&GPUS);
        if let Some((_, gpu)) = gpus.iter().find(|(id, _)| *id == cuda.id()) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Self::load(cuda, device)?);
        gpus.push((cuda.id(), gpu.clone()));
        Ok(gpu)
    }

    fn load(cuda: &CudaDevice, device: &Device) -> Result<Self> {
        let stream = cuda.cuda_stream();
        let modules = FATBINS
            .iter()
            .map(|fatbin| Ptx::from_binary(fatbin.to_vec()))
            .map(|fatbin| stream.context().load_module(fatbin).w())
            .collect::<Result<_>>()?;
        let blas = Blas::new(&stream)?;
        let multiprocessors = stream
            .context()
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .w()?;
        Ok(Self {
            device: device.clone(),
            stream,
            modules,
            functions: Mutex::default(),
            tables: Mutex::default(),
            pinned: Mutex::default(),
            blas,
            multiprocessors: multiprocessors.max(1) as usize,
            is_poisoned: AtomicBool::new(false),
            watch: Watch::new(),
        })
    }

    /// Number of multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// The compute capability.
    pub fn capability(&self) -> Result<(i32, i32)> {
        self.stream.context().compute_capability().w()
    }

    /// The stream that everything runs on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Watch over everything that is queued.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Waits for the stream.
    pub fn synchronise(&self) -> Result<()> {
        self.stream.synchronize().map_err(|error| late(&error))
    }

    /// Allocates; where there is no memory, once more after the pool has given back what lies
    /// between tensors.
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

    /// A new contiguous tensor whose numbers are whatever was there; whoever asks writes all of
    /// them.
    pub fn empty(&self, shape: impl Into<Shape>, kind: DType) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        // SAFETY: on a GPU any bits are numbers; nothing on the host reads them before they were
        // written.
        let flat = self.retried(|| unsafe { Tensor::empty(count.max(1), kind, &self.device) })?;
        if self.is_poisoned.load(Ordering::Relaxed) {
            let bytes = count.max(1) * kind.size_in_bytes();
            self.set_bytes(address(&flat, kind)?, POISON, bytes)?;
        }
        flat.narrow(0, 0, count)?.reshape(shape)
    }

    /// The same of bf16 rows with `padding` more numbers behind each, which are not the tensor's:
    /// see [`crate::ops::linear::Linear::padding`].
    pub fn empty_rows(&self, rows: usize, width: usize, padding: usize) -> Result<Tensor> {
        self.empty((rows, width + padding), DType::BF16)?
            .narrow(1, 0, width)
    }

    /// Runs a kernel; one of no blocks does nothing.
    ///
    /// # Errors
    /// If there is no such kernel, or it cannot be launched with such a grid.
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

    /// As [`Gpu::launch`], with a third dimension of blocks, and the floating-point operations that
    /// are counted for the profile.
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
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let stream = self.stream.cu_stream();
        self.bind()?;
        let ask = || {
            // SAFETY: each caller gives the arguments that the kernel's comment names, in their
            // types, over memory of the sizes it names; the memory is freed in the stream's order,
            // so not before the kernel ran.
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
        self.watch.watched(
            &self.stream,
            || watch::launch(name, grid, block, shared, arguments, operations),
            ask,
        )
    }

    /// Has the calling thread work in the GPU's context; an error is one of an earlier call.
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

    /// A table of the host on the GPU: the cached one if the same was uploaded a short while ago.
    ///
    /// Layers use the same boundaries and rows one after the other, so one batch costs one upload.
    pub fn table<T: Plain>(&self, values: &[T]) -> Result<Table> {
        // SAFETY: the type's promise: all bytes of the values are initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values))
        };
        let mut tables = locked(&self.tables);
        if let Some(found) = tables.iter().position(|cached| cached.bytes == bytes) {
            if let Some(cached) = tables.remove(found) {
                tables.push_front(cached);
            }
        } else {
            let bytes = if bytes.is_empty() {
                vec![0]
            } else {
                bytes.to_vec()
            };
            // SAFETY: all of it is written before anything reads it.
            let on_gpu = self.retried(|| unsafe { self.stream.alloc::<u8>(bytes.len()).w() })?;
            self.write(Address(on_gpu.device_ptr(&self.stream).0), &bytes)?;
            tables.push_front(CachedTable {
                bytes,
                on_gpu: Arc::new(on_gpu),
            });
            tables.truncate(CACHED_TABLES);
        }
        tables
            .front()
            .map(|cached| Table(cached.on_gpu.clone()))
            .ok_or_else(|| candle_core::Error::Msg("a table was lost".into()))
    }

    /// Copies numbers of the host over what is at `to`, in pieces through page-locked memory; waits
    /// only where all of that is still to be read by the GPU.
    pub fn write<T: Plain>(&self, to: Address, values: &[T]) -> Result<()> {
        let most = (pinned::PIECE / size_of::<T>()).max(1);
        for (i, piece) in values.chunks(most).enumerate() {
            let mut block = self.pinned()?.take(size_of_val(piece))?;
            let to = to.at::<T>(i * most);
            // SAFETY: callers name memory of a tensor with room for the values; the block is used
            // again once the GPU has read it.
            unsafe {
                result::memcpy_htod_async(to.0, block.filled(piece), self.stream.cu_stream())
                    .map_err(|error| late(&error))?
            };
            self.pinned()?.give(block, self.event()?);
        }
        Ok(())
    }

    /// Page-locked memory to copy through.
    pub fn pinned(&self) -> Result<MutexGuard<'_, pinned::Pool>> {
        self.bind()?;
        Ok(locked(&self.pinned))
    }

    /// Event that is complete when all that was queued so far is done.
    pub fn event(&self) -> Result<CudaEvent> {
        self.stream.record_event(None).map_err(|error| late(&error))
    }

    /// Begins to copy `count` numbers into page-locked memory.
    pub fn download_to<T: Plain>(&self, to: *mut T, from: Address, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: callers name a place of a block with room for the values, which they keep until
        // an event says that they are there, and memory of a tensor with as many.
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
        // SAFETY: callers name memory of a tensor with as many values; all of them are written
        // before the stream is idle, and any bits are values of a plain type.
        unsafe {
            let to = std::slice::from_raw_parts_mut(values.as_mut_ptr(), count);
            result::memcpy_dtoh_async(to, from.0, self.stream.cu_stream())
                .map_err(|error| late(&error))?;
            self.synchronise()?;
            values.set_len(count);
        }
        Ok(values)
    }

    /// Copies bytes from one place on the GPU to another.
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
        self.watch
            .watched(&self.stream, || moved("copy", bytes, 2.0), ask)
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
        self.watch
            .watched(&self.stream, || moved("clear", bytes, 1.0), ask)
    }
}

/// A tensor of zeros, possibly of none: a driver allocates no memory of no bytes.
pub fn zeros(shape: impl Into<Shape>, kind: DType, device: &Device) -> Result<Tensor> {
    let gpu = Gpu::of(device)?;
    let zeros = gpu.empty(shape, kind)?;
    gpu.clear(
        address(&zeros, kind)?,
        zeros.elem_count() * kind.size_in_bytes(),
    )?;
    Ok(zeros)
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
