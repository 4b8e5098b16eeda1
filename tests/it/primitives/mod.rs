//! The primitives against witnesses from outside: central differences, formulas written out, candle's autograd, PyTorch's numbers.

mod attention;
mod convolution;
mod cross_entropy;
mod elementwise;
mod encoder;
mod fp8;
mod linear;
mod norm;
mod oracle;
mod precision;
mod pytorch;
mod rows;
