//! The emulated driver and cuBLASLt, which run a whole training step without a GPU: memory,
//! launches, and products against `f64`.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use half::bf16;
use libloading::os::unix::Library;
use libloading::os::unix::RTLD_GLOBAL;
use libloading::os::unix::RTLD_NOW;

use crate::cuda_kernels::compile;
use crate::cuda_kernels::harness::Number;
use crate::cuda_kernels::harness::assert_near;
use crate::support::numbers;

type Address = u64;
type Handle = *mut c_void;

/// The driver, its products, and values on its GPU.
struct Gpu {
    driver: Library,
    products: Library,
}

/// Calls a function of a library by its name; all of them return a status.
macro_rules! call {
    ($library:expr, $name:ident($($type:ty: $value:expr),*)) => {
        unsafe { $library.get::<unsafe extern "C" fn($($type),*) -> c_int>(stringify!($name)).unwrap()($($value),*) }
    };
}

fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || {
        let folder = compile::driver()?;
        let load = |name: &str| {
            unsafe { Library::open(Some(folder.join(name)), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
        };
        let gpu = Gpu {
            driver: load("libcuda.so.1"),
            products: load("libcublasLt.so.13"),
        };
        Some(gpu)
    };
    GPU.get_or_init(open).as_ref()
}

impl Gpu {
    fn allocate(&self, bytes: usize) -> Address {
        let mut address = 0;
        assert_eq!(
            call!(self.driver, cuMemAllocAsync(*mut Address: &mut address, usize: bytes, Handle: ptr::null_mut())),
            0
        );
        address
    }

    fn upload<T: Copy>(&self, values: &[T]) -> Address {
        let address = self.allocate(size_of_val(values));
        let from = values.as_ptr().cast::<c_void>();
        assert_eq!(
            call!(self.driver, cuMemcpyHtoDAsync_v2(Address: address, *const c_void: from, usize: size_of_val(values), Handle: ptr::null_mut())),
            0
        );
        address
    }

    fn download<T: Number>(&self, from: Address, len: usize) -> Vec<f64> {
        let mut values = vec![T::rounded(0.0); len];
        let to = values.as_mut_ptr().cast::<c_void>();
        assert_eq!(
            call!(self.driver, cuMemcpyDtoHAsync_v2(*mut c_void: to, Address: from, usize: len * size_of::<T>(), Handle: ptr::null_mut())),
            0
        );
        values.into_iter().map(T::widened).collect()
    }

    fn free(&self, address: Address) {
        assert_eq!(
            call!(self.driver, cuMemFreeAsync(Address: address, Handle: ptr::null_mut())),
            0
        );
    }

    fn pool(&self, attribute: c_int) -> u64 {
        let mut value = 0u64;
        assert_eq!(
            call!(self.driver, cuMemPoolGetAttribute(Handle: ptr::null_mut(), c_int: attribute, *mut u64: &mut value)),
            0
        );
        value
    }

    /// A function of a module, or the driver's error.
    fn function(&self, image: &[u8], name: &str) -> Result<Handle, c_int> {
        let mut module = ptr::null_mut();
        let mut function = ptr::null_mut();
        assert_eq!(
            call!(self.driver, cuModuleLoadData(*mut Handle: &mut module, *const u8: image.as_ptr())),
            0
        );
        let name = std::ffi::CString::new(name).unwrap();
        match call!(self.driver, cuModuleGetFunction(*mut Handle: &mut function, Handle: module, *const c_char: name.as_ptr()))
        {
            0 => Ok(function),
            error => Err(error),
        }
    }

    fn launch(&self, function: Handle, grid: u32, block: u32, arguments: &[u64]) -> c_int {
        assert_eq!(
            call!(self.driver, cuCtxSetCurrent(Handle: ptr::dangling_mut())),
            0
        );
        let mut pointers: Vec<*const u64> = arguments.iter().map(ptr::from_ref).collect();
        let no = ptr::null_mut();
        call!(
            self.driver,
            cuLaunchKernel(Handle: function, u32: grid, u32: 1, u32: 1, u32: block, u32: 1, u32: 1, u32: 0, Handle: no, *mut *const u64: pointers.as_mut_ptr(), Handle: no)
        )
    }
}

/// The first bytes of a fatbin.
const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

#[test]
fn memory_is_counted_and_a_full_gpu_is_reported() {
    let Some(gpu) = gpu() else { return };
    let mut address = 0;
    // Eight GiB and no more, whatever other tests hold; and nothing is not an amount.
    assert_eq!(
        call!(gpu.driver, cuMemAllocAsync(*mut Address: &mut address, usize: (8 << 30) + 1, Handle: ptr::null_mut())),
        2
    );
    assert_eq!(
        call!(gpu.driver, cuMemAllocAsync(*mut Address: &mut address, usize: 0, Handle: ptr::null_mut())),
        1
    );
    let held = gpu.upload(&[1.5f32; 3 << 20]);
    assert!(gpu.pool(7) >= 12 << 20 && gpu.pool(8) >= gpu.pool(7));
    assert_eq!(
        call!(gpu.driver, cuMemsetD8Async(Address: held + 4, u8: 0, usize: 8, Handle: ptr::null_mut())),
        0
    );
    assert_eq!(gpu.download::<f32>(held, 4), [1.5, 0.0, 0.0, 1.5]);
    gpu.free(held);
    let fresh = gpu.allocate(64);
    assert!(
        gpu.download::<f32>(fresh, 16)
            .iter()
            .all(|value| value.is_nan())
    );
    gpu.free(fresh);
}

#[test]
fn a_page_locked_copy_is_visible_after_a_wait() {
    let Some(gpu) = gpu() else { return };
    let held = gpu.upload(&[1.5f32, 2.5]);
    let mut locked = ptr::null_mut::<c_void>();
    let no = ptr::null_mut();
    assert_eq!(
        call!(gpu.driver, cuMemHostAlloc(*mut Handle: &mut locked, usize: 16, c_int: 0)),
        0
    );
    let seen = || unsafe { std::slice::from_raw_parts(locked.cast::<f32>().add(1), 2) }.to_vec();
    let to = locked.wrapping_byte_add(4);
    assert_eq!(
        call!(gpu.driver, cuMemcpyDtoHAsync_v2(Handle: to, Address: held, usize: 8, Handle: no)),
        0
    );
    // Later work of the GPU comes after the copy.
    assert_eq!(
        call!(gpu.driver, cuMemsetD8Async(Address: held, u8: 0, usize: 8, Handle: no)),
        0
    );
    assert!(seen().iter().all(|value| value.is_nan()));
    assert_eq!(call!(gpu.driver, cuEventSynchronize(Handle: no)), 0);
    assert_eq!(seen(), [1.5, 2.5]);
    assert_eq!(call!(gpu.driver, cuMemFreeHost(Handle: locked)), 0);
    gpu.free(held);
}

#[test]
fn kernels_are_launched_by_name() {
    let Some(gpu) = gpu() else { return };
    let x = gpu.upload(&[0.5f32; 300]);
    let sums = gpu.allocate(8);
    let function = gpu.function(&FATBIN, "sample_block_sum").unwrap();
    let arguments = [sums, x, 300];
    assert_eq!(gpu.launch(function, 2, 256, &arguments), 0);
    assert_eq!(gpu.download::<f32>(sums, 2), [128.0, 22.0]);
    // One block too many writes after its result.
    assert_eq!(gpu.launch(function, 6000, 256, &arguments), 719);
    assert_eq!(gpu.function(&FATBIN, "no_such_kernel"), Err(500));
    gpu.free(x);
    // The failed launch wrote around the result, so freeing it would end the process.
}

#[test]
fn kernels_of_candle_are_known_by_name() {
    let Some(gpu) = gpu() else { return };
    let ptx =
        b".visible .entry ucopy_bf16(\n.visible .entry cast_f32_bf16(\n.visible .entry usin_f32(\0";
    let values: Vec<bf16> = (0..6).map(|i| bf16::from_f32(i as f32)).collect();
    let x = gpu.upload(&values);
    let y = gpu.allocate(12);
    // A transpose: dimensions [3, 2] at strides [1, 3].
    let info = gpu.upload(&[3u64, 2, 1, 3]);
    let arguments = [6, 2, info, x, y];
    assert_eq!(
        gpu.launch(
            gpu.function(ptx, "ucopy_bf16").unwrap(),
            1,
            1024,
            &arguments
        ),
        0
    );
    assert_eq!(gpu.download::<bf16>(y, 6), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let wide = gpu.upload(&[
        1.0f32,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        -3.0,
        1e30,
        7.0,
    ]);
    let arguments = [6, 1, 0, wide, y];
    assert_eq!(
        gpu.launch(
            gpu.function(ptx, "cast_f32_bf16").unwrap(),
            1,
            1024,
            &arguments
        ),
        0
    );
    assert_eq!(gpu.download::<bf16>(y, 4), [1.0, 1.0, 1.015625, -3.0]);
    assert_eq!(gpu.function(ptx, "usin_f32"), Err(500));
    assert_eq!(gpu.function(ptx, "ucopy_f32"), Err(500));
}

/// A row-major matrix `[rows, cols]` as cuBLASLt sees it: transposed, with a distance between rows.
struct Stored {
    kind: c_int,
    rows: usize,
    cols: usize,
    stride: usize,
    address: Address,
    values: Vec<f64>,
}

impl Stored {
    fn new<T: Number>(
        gpu: &Gpu,
        kind: c_int,
        name: &str,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Self {
        let rounded: Vec<T> = numbers(name, rows * stride)
            .into_iter()
            .map(T::rounded)
            .collect();
        let values = rounded.iter().map(|value| value.widened()).collect();
        Self {
            kind,
            rows,
            cols,
            stride,
            address: gpu.upload(&rounded),
            values,
        }
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        self.values[row * self.stride + col]
    }

    fn layout(&self, gpu: &Gpu) -> Handle {
        let mut layout = ptr::null_mut();
        let rows = self.cols as u64;
        let cols = self.rows as u64;
        let status = call!(gpu.products, cublasLtMatrixLayoutCreate(*mut Handle: &mut layout, c_int: self.kind, u64: rows, u64: cols, i64: self.stride as i64));
        assert_eq!(status, 0);
        layout
    }
}

const F32: c_int = 0;
const BF16: c_int = 14;
const E4M3: c_int = 28;

/// `d = alpha op(b) op(a) + beta c` in the library's order of operands, with attributes of the
/// description.
fn product(
    gpu: &Gpu,
    operands: [&Stored; 4],
    alpha: f32,
    beta: f32,
    attributes: &[(c_int, &[u8])],
) -> c_int {
    let mut description = ptr::null_mut();
    let mut preference = ptr::null_mut();
    assert_eq!(
        call!(gpu.products, cublasLtMatmulDescCreate(*mut Handle: &mut description, c_int: 68, c_int: F32)),
        0
    );
    assert_eq!(
        call!(gpu.products, cublasLtMatmulPreferenceCreate(*mut Handle: &mut preference)),
        0
    );
    for (attribute, value) in attributes {
        let set = call!(gpu.products, cublasLtMatmulDescSetAttribute(Handle: description, c_int: *attribute, *const u8: value.as_ptr(), usize: value.len()));
        assert_eq!(set, 0);
    }
    let [a, b, c, d] = operands.map(|operand| operand.layout(gpu));
    let mut found = 0;
    // An algorithm of eight words, a workspace, a status, waves and four reserved numbers.
    let mut heuristic = [0u64; 16];
    let no = ptr::null_mut();
    let status = call!(
        gpu.products,
        cublasLtMatmulAlgoGetHeuristic(Handle: no, Handle: description, Handle: a, Handle: b, Handle: c, Handle: d, Handle: preference, c_int: 1, *mut u64: heuristic.as_mut_ptr(), *mut c_int: &mut found)
    );
    if status != 0 {
        return status;
    }
    let [of_a, of_b, of_c, of_d] = operands.map(|operand| operand.address);
    call!(
        gpu.products,
        cublasLtMatmul(Handle: no, Handle: description, *const f32: &alpha, Address: of_a, Handle: a, Address: of_b, Handle: b, *const f32: &beta, Address: of_c, Handle: c, Address: of_d, Handle: d, *const u64: heuristic.as_ptr(), Handle: no, usize: 0, Handle: no)
    )
}

#[test]
fn products_are_those_of_f64() {
    let Some(gpu) = gpu() else { return };
    let m = 13;
    let n = 10;
    let k = 37;
    let bias: Vec<bf16> = numbers("bias", n).into_iter().map(bf16::from_f64).collect();
    let bias_at = gpu.upload(&bias);
    for (transposes_a, transposes_b, is_wide) in [
        (false, false, false),
        (false, true, false),
        (true, false, true),
        (true, true, true),
        (false, true, true),
    ] {
        let matrix = |name: &str, rows: usize, cols: usize, is_transposed: bool| {
            let (rows, cols) = if is_transposed {
                (cols, rows)
            } else {
                (rows, cols)
            };
            Stored::new::<bf16>(gpu, BF16, name, rows, cols, cols + 3)
        };
        let a = matrix("a", m, k, transposes_a);
        let b = matrix("b", k, n, transposes_b);
        let (c, d) = if is_wide {
            (
                Stored::new::<f32>(gpu, F32, "c", m, n, n + 5),
                Stored::new::<f32>(gpu, F32, "d", m, n, n),
            )
        } else {
            (
                Stored::new::<bf16>(gpu, BF16, "c", m, n, n + 5),
                Stored::new::<bf16>(gpu, BF16, "d", m, n, n),
            )
        };
        let operation = |is_transposed: bool| i32::from(is_transposed).to_ne_bytes();
        let of_a = operation(transposes_b);
        let of_b = operation(transposes_a);
        let address = bias_at.to_ne_bytes();
        let epilogue = 4i32.to_ne_bytes();
        let mut attributes: Vec<(c_int, &[u8])> = vec![(3, &of_a), (4, &of_b)];
        if !is_wide {
            attributes.extend([(7, epilogue.as_slice()), (8, &address)]);
        }
        assert_eq!(product(gpu, [&b, &a, &c, &d], 0.75, 0.5, &attributes), 0);
        let mut expected = Vec::new();
        for i in 0..m {
            for (j, bias) in bias.iter().enumerate().take(n) {
                let left = |k: usize| if transposes_a { a.at(k, i) } else { a.at(i, k) };
                let right = |k: usize| if transposes_b { b.at(j, k) } else { b.at(k, j) };
                let sum: f64 = (0..k).map(|k| left(k) * right(k)).sum();
                expected.push(
                    0.75 * sum + 0.5 * c.at(i, j) + if is_wide { 0.0 } else { bias.to_f64() },
                );
            }
        }
        let found = if is_wide {
            gpu.download::<f32>(d.address, m * n)
        } else {
            gpu.download::<bf16>(d.address, m * n)
        };
        assert_near(
            "product",
            &found,
            &expected,
            if is_wide { 1e-6 } else { 2f64.powi(-8) },
        );
    }
}

#[test]
fn fp8_products_have_row_and_column_scales() {
    let Some(gpu) = gpu() else { return };
    let m = 16;
    let n = 32;
    let k = 48;
    // Codes below 0x7f, both signs: any of them is a number.
    let codes = |name: &str, len: usize| {
        numbers(name, len)
            .into_iter()
            .map(|x| (x.abs() * 90.0) as u8 | if x < 0.0 { 0x80 } else { 0 })
            .collect::<Vec<u8>>()
    };
    let number = |code: u8| {
        let exponent = i32::from(code >> 3 & 15);
        let mantissa = f64::from(code & 7);
        let size = if exponent == 0 {
            mantissa * 2f64.powi(-9)
        } else {
            (8.0 + mantissa) * 2f64.powi(exponent - 10)
        };
        if code & 0x80 == 0 { size } else { -size }
    };
    let stored = |name: &str, rows: usize| {
        let codes = codes(name, rows * k);
        Stored {
            kind: E4M3,
            rows,
            cols: k,
            stride: k,
            address: gpu.upload(&codes),
            values: codes.into_iter().map(number).collect(),
        }
    };
    let a = stored("a", m);
    let weight = stored("weight", n);
    let d = Stored::new::<bf16>(gpu, BF16, "d", m, n, n);
    let scales = |name: &str, len: usize| {
        numbers(name, len)
            .into_iter()
            .map(|x| (1.5 + x) as f32)
            .collect::<Vec<f32>>()
    };
    let of_rows = scales("rows", m);
    let of_columns = scales("columns", n);
    let addresses = [gpu.upload(&of_columns), gpu.upload(&of_rows)].map(u64::to_ne_bytes);
    let yes = 1i32.to_ne_bytes();
    let no = 0i32.to_ne_bytes();
    let outer = 3i32.to_ne_bytes();
    let attributes: [(c_int, &[u8]); 7] = [
        (3, &yes),
        (4, &no),
        (17, &addresses[0]),
        (18, &addresses[1]),
        (31, &outer),
        (32, &outer),
        (25, &[1]),
    ];
    assert_eq!(
        product(gpu, [&weight, &a, &d, &d], 1.0, 0.0, &attributes),
        0
    );
    let entry = |i: usize, j: usize| {
        (0..k).map(|k| a.at(i, k) * weight.at(j, k)).sum::<f64>()
            * f64::from(of_rows[i])
            * f64::from(of_columns[j])
    };
    let expected: Vec<f64> = (0..m * n).map(|at| entry(at / n, at % n)).collect();
    assert_near(
        "product",
        &gpu.download::<bf16>(d.address, m * n),
        &expected,
        2f64.powi(-8),
    );
    // Unsupported arguments of a GPU: the other layout, and a result of another type.
    assert_eq!(
        product(gpu, [&weight, &a, &d, &d], 1.0, 0.0, &[(3, &no), (4, &no)]),
        15
    );
}
