//! The primitives against witnesses from outside: central differences, formulas written out,
//! candle's autograd, PyTorch's numbers.

mod attention;
mod convolution;
mod convolution2d;
mod cross_entropy;
mod elementwise;
mod encoder;
mod fp8;
mod head_norms;
mod linear;
mod norm;
mod oracle;
mod precision;
mod pytorch;
mod rows;
