//! Matrix products by cuBLASLt: `d = alpha a b + beta c + bias` over row-major matrices,
//! accumulated in `f32`.
//!
//! cuBLASLt counts columns first, so that a row-major matrix is its transpose there, and `d = a b`
//! is asked for as `d^T = b^T a^T`: its first operand is our `b`.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t;
use candle_core::cuda_backend::cudarc::cublaslt::result;
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;

use crate::ops::cuda::address::Address;
use crate::ops::cuda::arguments::BLOCK;
use crate::ops::cuda::arguments::arguments;
use crate::ops::cuda::arguments::int;
use crate::ops::cuda::blas::Blas;
use crate::ops::cuda::blas::ChosenAlgorithm;
use crate::ops::cuda::blas::cuda_kind;
use crate::ops::cuda::blas::failed;
use crate::ops::cuda::blas::shape_of;
use crate::ops::cuda::blas::stored;
use crate::ops::cuda::gpu::Gpu;
use crate::ops::cuda::matrix::Matrix;
use crate::ops::cuda::matrix::Product;
use crate::ops::cuda::timing;
use crate::ops::cuda::watch::Work;
use crate::ops::cuda::watch::late;
use crate::ops::notes::note;
use crate::ops::products::Choice;
use crate::ops::products::FORMS;
use crate::ops::products::Form;
use crate::ops::products::Signature;
use crate::ops::products::fastest;
use crate::ops::workspace::WORKSPACE;

/// Algorithms that the library is asked for: the fastest is kept, or the first that runs where they
/// are not timed.
const CANDIDATES: usize = 8;

impl Gpu {
    /// Computes a product into `d`, `[m, n]`.
    ///
    /// # Errors
    /// If the dimensions do not fit each other, or the library has no algorithm.
    pub fn product(&self, d: Matrix, product: Product) -> Result<()> {
        let Product { a, b, c, .. } = product;
        let (m, k) = a.dims();
        let (inner, n) = b.dims();

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

        let signature = Signature {
            a: shape_of(a),
            b: shape_of(b),
            c: c.map(shape_of),
            d: shape_of(d),
            bias: product.bias.is_some(),
            scales: product.scales.is_some(),
            is_fast: product.is_fast,
        };

        match self.blas().chosen(&signature) {
            Some(Some(chosen)) if self.tried(d, &product, &chosen)? => Ok(()),
            Some(None) => Err(refused(d, &product)),
            _ => self.choose(d, &product, signature),
        }
    }

    /// Computes a product for whose signature nothing is remembered, and remembers how: by the
    /// stored choice, else by the first form that runs.
    fn choose(&self, d: Matrix, product: &Product, signature: Signature) -> Result<()> {
        let key = signature.key();
        let known = self.blas().store().find(&key);
        if let Some(choice) = &known {
            let chosen = ChosenAlgorithm::of(choice);
            let call = Call::new(d, &product.in_form(chosen.form))?;
            if call.fits(self.blas(), &chosen.algorithm)?
                && self.is_kept(d, product, signature, &chosen)?
            {
                return Ok(());
            }
            note(&format!(
                "cuBLASLt refuses the stored algorithm of the product {}: the library chooses another",
                described(d, product)
            ));
        }
        self.find_form(
            d,
            product,
            signature,
            known.is_none().then_some(key.as_str()),
        )
    }

    /// Tries the forms of a product in their order until one runs. Where there is a key, the
    /// algorithms of the form are timed, and the choice is stored under it.
    fn find_form(
        &self,
        d: Matrix,
        product: &Product,
        signature: Signature,
        key: Option<&str>,
    ) -> Result<()> {
        for form in FORMS.iter().filter(|form| product.has_form(form)) {
            let call = Call::new(d, &product.in_form(*form))?;
            let candidates = call.algorithms(self.blas(), &signature, form.is_restricted)?;

            // Without a choice the library's own is the same in every process.
            let timed = match key {
                Some(key) if candidates.len() > 1 && self.blas().store().is_timing() => {
                    self.timed(d, product, *form, &candidates, key)?
                }
                _ => None,
            };

            let candidates = candidates.into_iter().map(|algorithm| ChosenAlgorithm {
                algorithm,
                form: *form,
            });
            for chosen in timed.into_iter().chain(candidates) {
                if self.is_kept(d, product, signature, &chosen)? {
                    return Ok(());
                }
            }
        }
        self.blas().remember(signature, None);
        Err(refused(d, product))
    }

    /// Computes a product by an algorithm and remembers it; false where the library refuses it. A
    /// fallback is noted once per signature.
    fn is_kept(
        &self,
        d: Matrix,
        product: &Product,
        signature: Signature,
        chosen: &ChosenAlgorithm,
    ) -> Result<bool> {
        if !self.tried(d, product, chosen)? {
            return Ok(false);
        }
        if chosen.form != FORMS[0] {
            note(&fallback(d, product, chosen.form));
        }
        self.blas().remember(signature, Some(*chosen));
        Ok(true)
    }

    /// Times the candidates of a form and stores the fastest. `None` where all of them are refused,
    /// or the choice cannot be stored.
    fn timed(
        &self,
        d: Matrix,
        product: &Product,
        form: Form,
        candidates: &[sys::cublasLtMatmulAlgo_t],
        key: &str,
    ) -> Result<Option<ChosenAlgorithm>> {
        let asked = product.in_form(form);
        let mut microseconds = Vec::new();
        let candidate = match self.destination(d, product)? {
            Some((to, _held)) => {
                let call = Call::new(to, &asked)?;
                let seconds = timing::seconds(self, candidates.len(), |candidate| {
                    call.launch(self.blas(), &candidates[candidate])
                })?;
                microseconds.extend(seconds.iter().map(|time| time.map(in_microseconds)));
                fastest(&seconds)
            }
            None => Call::new(d, &asked)?.first_that_fits(self.blas(), candidates)?,
        };
        let Some(candidate) = candidate else {
            return Ok(None);
        };
        let choice = Choice {
            candidate,
            microseconds,
            form,
            algorithm: stored(candidates[candidate]),
        };
        let settled = self.blas().store().settle(key, choice);
        Ok(settled.as_ref().map(ChosenAlgorithm::of))
    }

    /// A destination that may be written several times, and the tensor that holds it: the product's
    /// own, but where what is added lies there. `None` where there is no memory for another.
    fn destination(
        &self,
        d: Matrix,
        product: &Product,
    ) -> Result<Option<(Matrix, Option<Tensor>)>> {
        if product.c.is_none_or(|c| c.place != d.place) {
            return Ok(Some((d, None)));
        }
        match self.empty((d.rows, d.stride.max(d.cols)), d.kind) {
            Ok(held) => {
                let place = Matrix::of(&held)?.place;
                Ok(Some((Matrix { place, ..d }, Some(held))))
            }
            Err(error) if error.to_string().contains("OUT_OF_MEMORY") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Computes a product by a chosen algorithm; false where the library refuses the algorithm,
    /// which it says before it begins.
    fn tried(&self, d: Matrix, product: &Product, chosen: &ChosenAlgorithm) -> Result<bool> {
        let asked = product.in_form(chosen.form);
        let is_done = match product.c.filter(|_| !chosen.form.adds_c) {
            None => Call::new(d, &asked)?.run(self, chosen, &asked, d)?,
            Some(c) => self.add_apart(d, c, &asked, chosen)?,
        };
        match product.bias.filter(|_| !chosen.form.adds_bias) {
            Some(bias) if is_done => self.add_bias(d, bias)?,
            _ => {}
        }
        Ok(is_done)
    }

    /// A product that is added in a pass of its own.
    fn add_apart(
        &self,
        d: Matrix,
        c: Matrix,
        product: &Product,
        chosen: &ChosenAlgorithm,
    ) -> Result<bool> {
        let apart = self.empty((d.rows, d.cols), d.kind)?;
        let to = Matrix::of(&apart)?;
        if !Call::new(to, product)?.run(self, chosen, product, to)? {
            return Ok(false);
        }
        let width = int(d.cols)?;
        let stride = d.stride as u64;
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
    /// Whether a form divides this product: a pass of its own adds nothing that is not there.
    fn has_form(&self, form: &Form) -> bool {
        (form.adds_bias || self.bias.is_some()) && (form.adds_c || self.c.is_some())
    }

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
    let (m, k) = product.a.dims();
    let n = d.cols;
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
    /// Layouts of the operands in the library's order: our `b`, our `a`, what is added, the
    /// destination.
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
            // A single row has no distance to the next, but the library wants one that a row fits
            // in.
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
        // SAFETY: the description exists as long as this; the value is read before the call
        // returns, in its own size.
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

    /// The library's candidates, the one that it expects to be fastest first; none where it has no
    /// algorithm.
    fn algorithms(
        &self,
        blas: &Blas,
        signature: &Signature,
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
                signature.b.alignment,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                signature.a.alignment,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                signature.c.unwrap_or(signature.d).alignment,
            )?;
            preference.set(
                Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                signature.d.alignment,
            )?;
        }

        let [a, b, c, d] = self.layouts;
        let mut found = [MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); CANDIDATES];
        let mut count = 0;

        // SAFETY: everything named here exists, and there is room for as many results as are asked
        // for.
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
    fn run(
        &self,
        gpu: &Gpu,
        chosen: &ChosenAlgorithm,
        product: &Product,
        to: Matrix,
    ) -> Result<bool> {
        let mut is_done = false;
        let ask = || {
            let asked = self.launch(gpu.blas(), &chosen.algorithm);
            asked.map(|done| is_done = done)
        };
        gpu.watch()
            .watched(gpu.stream(), || work(product, to), ask)?;
        Ok(is_done)
    }

    /// As [`Call::run`], unseen by the watch over the GPU.
    fn launch(&self, blas: &Blas, algorithm: &sys::cublasLtMatmulAlgo_t) -> Result<bool> {
        blas.stream
            .context()
            .bind_to_thread()
            .map_err(|error| late(&error))?;
        let [a, b, c, d] = self.places.map(|place| place.0 as *const c_void);
        let layouts = self.layouts;
        let (workspace, _) = blas.workspace.device_ptr(&blas.stream);
        // SAFETY: the places are those of tensors of the layouts' sizes, freed in the stream's
        // order; the library reads the factors before it returns.
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
                &raw const *algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                blas.stream.cu_stream().cast(),
            )
        };
        match asked {
            Err(error) if is_refusal(&error) => Ok(false),
            other => other.map(|()| true).map_err(failed),
        }
    }

    /// Whether an algorithm that was chosen for other numbers of rows, or by another process, can
    /// compute this product within the scratch memory.
    fn fits(&self, blas: &Blas, algorithm: &sys::cublasLtMatmulAlgo_t) -> Result<bool> {
        blas.stream.context().bind_to_thread().w()?;
        let [a, b, c, d] = self.layouts;
        let mut found = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();

        // SAFETY: everything named here exists; the library writes one result.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                blas.handle,
                self.description,
                a,
                b,
                c,
                d,
                &raw const *algorithm,
                found.as_mut_ptr(),
            )
        };

        match status.result() {
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(failed(error)),
            Ok(()) => {
                // SAFETY: the library has written the result where it succeeds.
                let found = unsafe { found.assume_init() };
                Ok(found.state.result().is_ok() && found.workspaceSize <= WORKSPACE)
            }
        }
    }

    /// Place of the first candidate that can compute this product.
    fn first_that_fits(
        &self,
        blas: &Blas,
        candidates: &[sys::cublasLtMatmulAlgo_t],
    ) -> Result<Option<usize>> {
        for (place, candidate) in candidates.iter().enumerate() {
            if self.fits(blas, candidate)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// Seconds as a person reads them, to the hundredth of a microsecond.
fn in_microseconds(seconds: f64) -> f64 {
    (seconds * 1e8).round() / 1e2
}

/// A product as the profile counts it: every operand is read or written once.
fn work(product: &Product, d: Matrix) -> Work {
    let (m, k) = product.a.dims();
    let n = d.cols;
    let bytes = |matrix: Matrix| (matrix.rows * matrix.cols * matrix.kind.size_in_bytes()) as f64;
    let added = product.c.map_or(0.0, bytes);
    Work {
        name: "product",
        shape: described(d, product),
        bytes: Some(bytes(product.a) + bytes(product.b) + bytes(d) + added),
        operations: 2.0 * m as f64 * k as f64 * n as f64,
    }
}

/// Whether an error says that the library will not do what it is asked, as opposed to one of the
/// GPU.
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
        // SAFETY: the preference exists as long as this; the value is read before the call returns,
        // in its own size.
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
