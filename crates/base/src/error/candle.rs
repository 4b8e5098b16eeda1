//! Errors that come through candle: those of the system and of the GPU keep who has to act, those
//! of maqam come out as they went in.

use std::error::Error as StdError;
use std::io;

use candle_core::Error as Candle;

use crate::error::Error;
use crate::error::Kind;
use crate::error::kind_of_io;

/// What frees the memory of a GPU.
const FULL_GPU_HINT: &str =
    "lower `memory.pack_tokens` or the batch, or use a GPU with more memory that is free";

/// Errors of CUDA that say that the GPU has no more memory. Their types exist only where candle is
/// built for CUDA, their names are fixed.
const NO_GPU_MEMORY: [&str; 2] = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];

impl From<Candle> for Error {
    fn from(error: Candle) -> Self {
        match error {
            Candle::Io(error) => Self::system(error.to_string(), error),
            Candle::Cuda(source) => match source.downcast::<Self>() {
                Ok(carried) => *carried,
                Err(source) => Self::of_library(source),
            },

            // Layers of text around an error. A backtrace is of use to developers alone.
            Candle::Context { inner, context } => {
                Self::from(*inner).reworded(|found| format!("{context}\n{found}"))
            }
            Candle::WithPath { inner, path } => {
                Self::from(*inner).reworded(|found| format!("path: {path:?} {found}"))
            }
            Candle::WithBacktrace { inner, backtrace } => {
                let found = Self::from(*inner);
                match found.kind {
                    Kind::Bug => found.reworded(|found| format!("{found}\n{backtrace}")),
                    _ => found,
                }
            }

            other => Self::of_library(other),
        }
    }
}

/// Lets an error pass through functions whose errors are candle's. Only `Cuda` of candle's errors
/// holds an error of any type.
impl From<Error> for Candle {
    fn from(error: Error) -> Self {
        Self::Cuda(Box::new(error))
    }
}

impl Error {
    /// The error that a library's stands for: a bug, unless the system or the GPU failed.
    pub fn of_library(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        let found = Self::new(kind_of(source.as_ref()), &source);
        let found = match is_no_gpu_memory(source.as_ref()) {
            true => found.hint(FULL_GPU_HINT),
            false => found,
        };
        found.caused_by(source)
    }

    /// Returns whether the error says that a GPU has no more memory.
    pub fn is_full_gpu(&self) -> bool {
        self.kind == Kind::Resource && NO_GPU_MEMORY.iter().any(|name| self.message.contains(name))
    }

    /// The same error with the first line of its message: candle appends a backtrace where one is
    /// asked for.
    #[must_use]
    pub fn first_line(self) -> Self {
        self.reworded(|found| found.lines().next().unwrap_or_default().to_owned())
    }

    fn reworded(mut self, words: impl FnOnce(&str) -> String) -> Self {
        self.message = words(&self.message);
        self
    }
}

/// Who has to act on a library's error, by the first error below it that says so.
fn kind_of(error: &(dyn StdError + 'static)) -> Kind {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return kind_of_io(error);
        }
        if let Some(error) = error.downcast_ref::<Error>() {
            return error.kind;
        }
        if is_no_gpu_memory(error) {
            return Kind::Resource;
        }
        next = error.source();
    }
    Kind::Bug
}

fn is_no_gpu_memory(error: &dyn StdError) -> bool {
    let text = error.to_string();
    NO_GPU_MEMORY.iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    /// An error of the driver, as cudarc prints it.
    #[derive(Debug)]
    struct Driver(&'static str);

    impl fmt::Display for Driver {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "DriverError({}, \"a text\")", self.0)
        }
    }

    impl StdError for Driver {}

    /// The last error of a chain.
    fn root(error: &Error) -> &(dyn StdError + 'static) {
        let mut last: &(dyn StdError + 'static) = error;
        while let Some(source) = last.source() {
            last = source;
        }
        last
    }

    #[test]
    fn a_full_gpu_is_a_resource() {
        for name in NO_GPU_MEMORY {
            let error = Error::from(Candle::Cuda(Box::new(Driver(name))).context("a context"));
            assert_eq!(error.exit_code(), 4, "{error}");
            assert!(error.is_full_gpu());
            assert_eq!(
                error.message(),
                format!("a context\nDriverError({name}, \"a text\")")
            );
            assert!(error.hint_text().unwrap().contains("memory"));
            assert_eq!(root(&error).downcast_ref::<Driver>().unwrap().0, name);
        }

        let broken = Candle::Cuda(Box::new(Driver("CUDA_ERROR_ILLEGAL_ADDRESS")));
        let broken = Error::from(broken);
        assert_eq!((broken.exit_code(), broken.hint_text()), (1, None));
        assert!(!broken.is_full_gpu());
    }

    #[test]
    fn system_errors_keep_their_exit_code() {
        for (code, expected) in [
            (libc::ENOSPC, 4),
            (libc::EIO, 4),
            (libc::EMFILE, 4),
            (libc::ENOENT, 2),
        ] {
            let system = || io::Error::from_raw_os_error(code);
            let safetensors = safetensors::SafeTensorError::IoError(system());
            for candle in [
                Candle::Io(system()),
                Candle::Io(system()).with_path("a.safetensors"),
                Candle::SafeTensor(safetensors),
            ] {
                let error = Error::from(candle);
                assert_eq!(error.exit_code(), expected, "{error}");
                let found = root(&error).downcast_ref::<io::Error>().unwrap();
                assert_eq!(found.raw_os_error(), Some(code));
            }
        }

        let full = Error::from(Candle::Io(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(full.hint_text().unwrap().starts_with("free some space"));
    }

    #[test]
    fn errors_of_maqam_pass_through_unchanged() {
        let system = io::Error::from_raw_os_error(libc::EIO);
        let error = Error::input("no GPU").hint("buy one").caused_by(system);
        let candle = Candle::from(error.clone());
        assert_eq!(candle.to_string(), "no GPU\nhint: buy one");

        let found = Error::from(candle.with_path("a"));
        assert_eq!(found.message(), "path: \"a\" no GPU");
        assert_eq!(found.hint_text(), Some("buy one"));
        assert_eq!(found.exit_code(), 2);
        assert!(root(&found).is::<io::Error>());
    }

    #[test]
    fn other_errors_of_candle_are_bugs() {
        let error = Error::from(Candle::Msg("two shapes".into()));
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.to_string(), "two shapes");
        assert!(error.source().unwrap().is::<Candle>());
    }
}
