//! Matrix products by cuBLASLt: `d = alpha a b + beta c + bias` over row-major matrices, accumulated in `f32`.
//!
//! cuBLASLt counts columns first, so that a row-major matrix is its transpose there, and `d = a b` is asked for as
//! `d^T = b^T a^T`: its first operand is our `b`.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t;
use candle_core::cuda_backend::cudarc::cublaslt::result;
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use half::bf16;

use crate::ops::cuda::card::Address;
use crate::ops::cuda::card::BLOCK;
use crate::ops::cuda::card::Card;
use crate::ops::cuda::card::arguments;
use crate::ops::cuda::card::int;
use crate::ops::cuda::card::rows_of;
use crate::ops::cuda::watch::Work;
use crate::ops::cuda::watch::late;
use crate::ops::device::WORKSPACE;
use crate::ops::device::note;
use maqam_base::error::Error;

/// Algorithms kept; a batch of another length needs a few dozen new ones.
const KEPT_PLANS: usize = 4096;

/// The best alignment that cuBLASLt distinguishes, in bytes.
const ALIGNED: u64 = 256;

/// A row-major matrix on a card, possibly a transpose or some columns of one.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    place: Address,
    kind: DType,
    /// As it lies in memory.
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
}

impl Matrix {
    /// All of a tensor, its last dimension as columns; one of one dimension is a row.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let cols = tensor.dims().last().copied().unwrap_or(1);
        let rows = if cols == 0 {
            0
        } else {
            tensor.elem_count() / cols
        };
        let kind = tensor.dtype();
        let (place, stride) = rows_of(tensor, kind)?;
        Ok(Self {
            place,
            kind,
            rows,
            cols,
            stride,
            transposed: false,
        })
    }

    /// The same rows with the `room` numbers behind each of them.
    pub fn with_room(self, room: usize) -> Self {
        Self {
            cols: self.cols + room,
            ..self
        }
    }

    /// The same columns with the `rows` rows below them.
    pub fn with_rows_below(self, rows: usize) -> Self {
        Self {
            rows: self.rows + rows,
            ..self
        }
    }

    /// Numbers between two rows.
    pub fn room(self) -> usize {
        self.stride - self.cols
    }

    /// The place of the first number behind the first row.
    pub fn behind(self) -> Address {
        self.moved(self.cols)
    }

    /// The place of the first number.
    pub fn place(self) -> Address {
        self.place
    }

    /// The distance of two rows.
    pub fn stride(self) -> usize {
        self.stride
    }

    /// Some of the rows, of a matrix that is not transposed.
    pub fn rows(self, rows: Range<usize>) -> Self {
        Self {
            place: self.moved(rows.start * self.stride),
            rows: rows.len(),
            ..self
        }
    }

    /// Some of the columns, of a matrix that is not transposed.
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self {
            place: self.moved(columns.start),
            cols: columns.len(),
            ..self
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    fn moved(self, numbers: usize) -> Address {
        match self.kind {
            DType::F32 => self.place.at::<f32>(numbers),
            DType::BF16 => self.place.at::<bf16>(numbers),
            _ => self.place.at::<u8>(numbers),
        }
    }

    /// Rows and columns as they are meant.
    fn dims(self) -> (usize, usize) {
        if self.transposed {
            (self.cols, self.rows)
        } else {
            (self.rows, self.cols)
        }
    }

    fn alignment(self) -> u32 {
        (1 << self.place.0.trailing_zeros().min(ALIGNED.trailing_zeros())) as u32
    }

    fn shape(self) -> Shape {
        Shape {
            kind: kind_of(self.kind),
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            transposed: self.transposed,
            alignment: self.alignment(),
        }
    }
}

/// One product.
#[derive(Clone, Copy)]
pub struct Product {
    /// `[m, k]`.
    pub a: Matrix,
    /// `[k, n]`.
    pub b: Matrix,
    /// Factor of the product.
    pub alpha: f32,
    /// `[m, n]`, what is added; it may be the destination.
    pub c: Option<Matrix>,
    /// `[n]` in bf16, added to every row.
    pub bias: Option<Address>,
    /// Scales of the rows of `a` `[m]` and of the columns of `b` `[n]`, in `f32`, where the two are of 8 bits.
    pub scales: Option<(Address, Address)>,
    /// Whether sums of products of 8 bits may be kept in fewer bits than `f32` has, which is faster.
    pub is_fast: bool,
}

impl Product {
    /// `a b` alone.
    pub fn new(a: Matrix, b: Matrix) -> Self {
        Self {
            a,
            b,
            alpha: 1.0,
            c: None,
            bias: None,
            scales: None,
            is_fast: false,
        }
    }

    /// `alpha a b`.
    pub fn scaled(self, alpha: f64) -> Self {
        Self {
            alpha: alpha as f32,
            ..self
        }
    }

    /// `... + c`.
    pub fn plus(self, c: Option<Matrix>) -> Self {
        Self { c, ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    kind: u32,
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
    alignment: u32,
}

/// All that the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Question {
    a: Shape,
    b: Shape,
    c: Option<Shape>,
    d: Shape,
    bias: bool,
    scales: bool,
    is_fast: bool,
}

/// What a product is asked with: whole, or without what a pass of its own then adds, and with which restrictions on the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    adds_bias: bool,
    adds_c: bool,
    /// Whether parts of a sum are added in f32 alone, and the operands' alignment is told.
    is_restricted: bool,
}

/// All forms of a product with a bias and something that it is added to, the best first.
const FORMS: [Form; 8] = {
    const fn form(adds_bias: bool, adds_c: bool, is_restricted: bool) -> Form {
        Form {
            adds_bias,
            adds_c,
            is_restricted,
        }
    }
    [
        form(true, true, true),
        form(false, true, true),
        form(true, false, true),
        form(false, false, true),
        form(true, true, false),
        form(false, true, false),
        form(true, false, false),
        form(false, false, false),
    ]
};

/// Algorithms that the library is asked for; the first that runs is kept.
const CANDIDATES: usize = 8;

/// An algorithm, and the form that it is of.
#[derive(Clone, Copy)]
struct Plan {
    algorithm: sys::cublasLtMatmulAlgo_t,
    form: Form,
}

/// cuBLASLt on one stream.
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    /// `None` where every form was refused.
    plans: Mutex<HashMap<Question, Option<Plan>>>,
    stream: Arc<CudaStream>,
}

// SAFETY: the handle may be used by all threads (cuBLAS manual, section 1.3.1), the workspace is used in the stream's order.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    /// Opens the library.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread().w()?;
        let handle = result::create_handle().map_err(failed)?;
        // SAFETY: scratch memory, which nobody reads before it was written.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE).w()? };
        Ok(Self {
            handle,
            workspace,
            plans: Mutex::default(),
            stream: stream.clone(),
        })
    }

    fn plans(&self) -> MutexGuard<'_, HashMap<Question, Option<Plan>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Card {
    /// Computes a product into `d`, `[m, n]`.
    ///
    /// # Errors
    /// Where the dimensions do not fit each other, or the library has no algorithm.
    pub fn product(&self, d: Matrix, product: Product) -> Result<()> {
        let Product { a, b, c, .. } = product;
        let ((m, k), (inner, n)) = (a.dims(), b.dims());
        if k != inner
            || (d.rows, d.cols) != (m, n)
            || d.transposed
            || c.is_some_and(|c| (c.rows, c.cols) != (m, n) || c.transposed)
        {
            candle_core::bail!("cannot multiply {a:?} and {b:?} into {d:?}, adding {c:?}");
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        if k == 0 && c.is_some_and(|c| c.place == d.place) {
            return Ok(());
        }
        let question = Question {
            a: a.shape(),
            b: b.shape(),
            c: c.map(Matrix::shape),
            d: d.shape(),
            bias: product.bias.is_some(),
            scales: product.scales.is_some(),
            is_fast: product.is_fast,
        };
        let known = self.blas().plans().get(&question).copied();
        match known {
            Some(Some(plan)) if self.tried(d, &product, &plan)? => Ok(()),
            Some(None) => Err(refused(d, &product)),
            _ => self.find(d, &product, question),
        }
    }

    /// Walks down the forms of a product until one runs, and keeps it. What is fallen back to is said once for each question.
    fn find(&self, d: Matrix, product: &Product, question: Question) -> Result<()> {
        let is_asked = |form: &&Form| {
            (form.adds_bias || product.bias.is_some()) && (form.adds_c || product.c.is_some())
        };
        for form in FORMS.iter().filter(is_asked) {
            let call = Call::new(d, &product.in_form(*form))?;
            for algorithm in call.algorithms(self.blas(), &question, form.is_restricted)? {
                let plan = Plan {
                    algorithm,
                    form: *form,
                };
                if !self.tried(d, product, &plan)? {
                    continue;
                }
                if *form != FORMS[0] {
                    note(&fallback(d, product, *form));
                }
                self.keep(question, Some(plan));
                return Ok(());
            }
        }
        self.keep(question, None);
        Err(refused(d, product))
    }

    fn keep(&self, question: Question, plan: Option<Plan>) {
        let mut plans = self.blas().plans();
        if plans.len() >= KEPT_PLANS {
            plans.clear();
        }
        plans.insert(question, plan);
    }

    /// Computes a product by a plan; false where the library refuses the algorithm, which it says before it begins.
    fn tried(&self, d: Matrix, product: &Product, plan: &Plan) -> Result<bool> {
        let asked = product.in_form(plan.form);
        let is_done = match product.c.filter(|_| !plan.form.adds_c) {
            None => Call::new(d, &asked)?.run(self, plan, &asked, d)?,
            Some(c) => self.add_apart(d, c, &asked, plan)?,
        };
        match product.bias.filter(|_| !plan.form.adds_bias) {
            Some(bias) if is_done => self.add_bias(d, bias)?,
            _ => {}
        }
        Ok(is_done)
    }

    /// A product that is added in a pass of its own.
    fn add_apart(&self, d: Matrix, c: Matrix, product: &Product, plan: &Plan) -> Result<bool> {
        let apart = self.empty((d.rows, d.cols), d.kind)?;
        let to = Matrix::of(&apart)?;
        if !Call::new(to, product)?.run(self, plan, product, to)? {
            return Ok(false);
        }
        let (width, stride) = (int(d.cols)?, d.stride as u64);
        if c.place != d.place {
            if d.kind != DType::BF16 {
                candle_core::bail!("no algorithm adds {c:?} to a product in {d:?}");
            }
            let arguments = arguments![d.place, stride, c.place, c.stride as u64, width];
            self.launch("copy_columns", (d.rows, 1), (BLOCK, 1), 0, arguments)?;
        }
        let kernel = match d.kind {
            DType::F32 => "add_rows_f32",
            _ => "add_rows_bf16",
        };
        let arguments = arguments![d.place, stride, to.place, width];
        self.launch(kernel, (d.rows, 1), (BLOCK, 1), 0, arguments)?;
        Ok(true)
    }

    fn add_bias(&self, d: Matrix, bias: Address) -> Result<()> {
        if d.stride != d.cols || d.kind != DType::BF16 {
            candle_core::bail!("no algorithm adds a bias to {d:?}");
        }
        self.launch(
            "add_bias",
            (d.rows, 1),
            (BLOCK, 1),
            0,
            arguments![d.place, bias, int(d.cols)?],
        )
    }
}

impl Product {
    /// The same without what a pass of its own adds.
    fn in_form(&self, form: Form) -> Self {
        Self {
            bias: self.bias.filter(|_| form.adds_bias),
            c: self.c.filter(|_| form.adds_c),
            ..*self
        }
    }
}

/// Dimensions and types of a product, for a person.
fn described(d: Matrix, product: &Product) -> String {
    let ((m, k), n) = (product.a.dims(), d.cols);
    let kind = |matrix: Matrix| match matrix.kind {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        _ => "fp8",
    };
    let transposed = |matrix: Matrix| if matrix.transposed { "^T" } else { "" };
    format!(
        "{m} x {k} x {n}, {}{} {}{} -> {}{}{}",
        kind(product.a),
        transposed(product.a),
        kind(product.b),
        transposed(product.b),
        kind(d),
        if product.c.is_some() { " + c" } else { "" },
        if product.bias.is_some() {
            " + bias"
        } else {
            ""
        },
    )
}

fn refused(d: Matrix, product: &Product) -> candle_core::Error {
    candle_core::Error::Msg(format!(
        "cuBLASLt has no algorithm for the product {}: rows are {}, {} and {} apart",
        described(d, product),
        product.a.stride,
        product.b.stride,
        d.stride
    ))
}

fn fallback(d: Matrix, product: &Product, form: Form) -> String {
    let mut without = Vec::new();
    if !form.adds_bias && product.bias.is_some() {
        without.push("the bias is added apart");
    }
    if !form.adds_c && product.c.is_some() {
        without.push("the sum is made apart");
    }
    if !form.is_restricted {
        without.push("parts of sums may be kept in the output's type");
    }
    format!(
        "cuBLASLt refuses the product {}: {}",
        described(d, product),
        without.join(", ")
    )
}

/// A product in the library's terms.
struct Call {
    description: sys::cublasLtMatmulDesc_t,
    /// Of its operands in its order: our `b`, our `a`, what is added, the destination.
    layouts: [sys::cublasLtMatrixLayout_t; 4],
    places: [Address; 4],
    alpha: f32,
    beta: f32,
}

impl Call {
    fn new(d: Matrix, product: &Product) -> Result<Self> {
        let Product {
            a,
            b,
            alpha,
            c,
            bias,
            scales,
            is_fast,
        } = *product;
        let added = c.unwrap_or(d);
        let description = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        )
        .map_err(failed)?;
        let mut call = Self {
            description,
            layouts: [std::ptr::null_mut(); 4],
            places: [b.place, a.place, added.place, d.place],
            alpha,
            beta: if c.is_some() { 1.0 } else { 0.0 },
        };
        for (layout, matrix) in call.layouts.iter_mut().zip([b, a, added, d]) {
            // A single row has no distance to the next, but the library wants one that a row fits in.
            let stride = matrix.stride.max(matrix.cols) as i64;
            *layout = result::create_matrix_layout(
                cuda_kind(matrix.kind)?,
                matrix.cols as u64,
                matrix.rows as u64,
                stride,
            )
            .map_err(failed)?;
        }
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        call.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, operation(b))?;
        call.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, operation(a))?;
        if let Some(bias) = bias {
            call.set(
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            )?;
            call.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.0)?;
            call.set(
                Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                sys::cudaDataType_t::CUDA_R_16BF,
            )?;
        }
        if let Some((of_a, of_b)) = scales {
            let outer =
                sys::cublasLtMatmulMatrixScale_t::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
            call.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, outer)?;
            call.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, outer)?;
            call.set(Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, of_b.0)?;
            call.set(Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, of_a.0)?;
            call.set(
                Attribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                u8::from(is_fast),
            )?;
        }
        Ok(call)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: T) -> Result<()> {
        // SAFETY: the description exists as long as this; the value is read before the call returns, in its own size.
        unsafe {
            result::set_matmul_desc_attribute(
                self.description,
                attribute,
                (&raw const value).cast::<c_void>(),
                size_of::<T>(),
            )
            .map_err(failed)
        }
    }

    /// The library's candidates, the one that it expects to be fastest first; none where it has no algorithm.
    fn algorithms(
        &self,
        blas: &Blas,
        question: &Question,
        is_restricted: bool,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        blas.stream.context().bind_to_thread().w()?;
        let preference = Preference(result::create_matmul_pref().map_err(failed)?);
        preference.set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            WORKSPACE,
        )?;
        if is_restricted {
            // Parts of a sum that is divided are added in f32, never in the destination's type.
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                question.b.alignment,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                question.a.alignment,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                question.c.unwrap_or(question.d).alignment,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                question.d.alignment,
            )?;
        }
        let [a, b, c, d] = self.layouts;
        let mut found = [MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); CANDIDATES];
        let mut count = 0;
        // SAFETY: everything named here exists, and there is room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                blas.handle,
                self.description,
                a,
                b,
                c,
                d,
                preference.0,
                CANDIDATES as i32,
                found.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        match status.result() {
            Err(error) if is_refusal(&error) => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        }
        // SAFETY: the library has written the first `count` results.
        let results = found[..(count.max(0) as usize).min(CANDIDATES)]
            .iter()
            .map(|result| unsafe { result.assume_init_ref() });
        Ok(results
            .filter(|result| result.state.result().is_ok())
            .map(|result| result.algo)
            .collect())
    }

    /// Whether the product was computed: false where the library refuses the algorithm.
    fn run(&self, card: &Card, plan: &Plan, product: &Product, to: Matrix) -> Result<bool> {
        let blas = card.blas();
        blas.stream
            .context()
            .bind_to_thread()
            .map_err(|error| late(&error))?;
        let ([a, b, c, d], layouts) = (
            self.places.map(|place| place.0 as *const c_void),
            self.layouts,
        );
        let (workspace, _) = blas.workspace.device_ptr(&blas.stream);
        let mut is_refused = false;
        let ask = || {
            // SAFETY: the places are those of tensors of the layouts' sizes, freed in the stream's order; the library reads the
            // factors before it returns.
            let asked = unsafe {
                result::matmul(
                    blas.handle,
                    self.description,
                    (&raw const self.alpha).cast::<c_void>(),
                    (&raw const self.beta).cast::<c_void>(),
                    a,
                    layouts[0],
                    b,
                    layouts[1],
                    c,
                    layouts[2],
                    d.cast_mut(),
                    layouts[3],
                    &raw const plan.algorithm,
                    workspace as *mut c_void,
                    WORKSPACE,
                    blas.stream.cu_stream().cast(),
                )
            };
            match asked {
                Err(error) if is_refusal(&error) => {
                    is_refused = true;
                    Ok(())
                }
                other => other.map_err(failed),
            }
        };
        card.watched(|| work(product, to), ask)?;
        Ok(!is_refused)
    }
}

/// A product as the profile counts it: every operand is read or written once.
fn work(product: &Product, d: Matrix) -> Work {
    let ((m, k), n) = (product.a.dims(), d.cols);
    let bytes = |matrix: Matrix| (matrix.rows * matrix.cols * matrix.kind.size_in_bytes()) as f64;
    let added = product.c.map_or(0.0, bytes);
    Work {
        name: "product",
        shape: described(d, product),
        bytes: Some(bytes(product.a) + bytes(product.b) + bytes(d) + added),
        operations: 2.0 * m as f64 * k as f64 * n as f64,
    }
}

/// Whether an error says that the library will not do what it is asked, as opposed to one of the card.
fn is_refusal(error: &result::CublasError) -> bool {
    matches!(
        error.0,
        sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
            | sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE
            | sys::cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH
    )
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; what fails leaves a few bytes behind.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.description);
        }
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Result<()> {
        // SAFETY: the preference exists as long as this; the value is read before the call returns, in its own size.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                (&raw const value).cast::<c_void>(),
                size_of::<T>(),
            )
            .map_err(failed)
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn operation(matrix: Matrix) -> cublasOperation_t {
    if matrix.transposed {
        cublasOperation_t::CUBLAS_OP_T
    } else {
        cublasOperation_t::CUBLAS_OP_N
    }
}

fn kind_of(kind: DType) -> u32 {
    cuda_kind(kind).map_or(u32::MAX, |kind| kind as u32)
}

fn cuda_kind(kind: DType) -> Result<sys::cudaDataType_t> {
    match kind {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        DType::F8E4M3 => Ok(sys::cudaDataType_t::CUDA_R_8F_E4M3),
        _ => candle_core::bail!("a card multiplies bf16, f32 and 8 bits here, found {kind:?}"),
    }
}

fn failed(error: result::CublasError) -> candle_core::Error {
    let found = Error::of_library(error).at("cuBLASLt");
    let found = match error.0 {
        sys::cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED
        | sys::cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR => found.hint(
            "run again with MAQAM_CUDA_CHECK=1, which names the kernel or product that failed",
        ),
        _ => found,
    };
    found.into()
}
