//! The tests of the program and of the root package, in one program: it is linked once.
//!
//! Programs of their own stay `tidy`, which reads sources and links nothing, and `cuda_ops`,
//! `cuda_train` and `cuda_commands`: they are built with the feature `cuda` alone, packed up and
//! run by themselves on a machine with a GPU or on an emulated driver.

mod affinity;
mod audio;
mod audio_gap;
mod audio_tokens;
mod augment;
mod average;
mod build;
mod build_endpoints;
mod build_local;
mod candle_faults;
mod checkpoints;
mod cli;
mod command;
mod cuda_kernels;
mod data_check;
mod data_formats;
mod compose;
mod ctc_loss;
mod curricula;
mod device;
mod difficulty;
mod encoder;
mod endpoint;
mod errors;
mod errors_model;
mod eval;
mod experiment;
mod fp8;
mod full_training;
mod golden;
mod gpu_check;
mod gradients;
mod hub;
mod instructions;
mod judge;
mod kills;
mod layers;
mod long_runs;
mod manual;
mod merge;
mod metrics;
mod metrics_command;
mod msft;
mod neftune;
mod old_run;
mod online;
mod parity;
mod plan;
mod primitives;
mod process;
mod prompts;
mod qwen2_audio;
mod qwen3_asr;
mod real_base;
mod report;
mod resume;
mod sample;
mod schema;
mod speech_encoder;
mod support;
mod training_rows;
mod uds;
