//! CPU kernels: the only non-test module of the crate that contains `unsafe` code.
//!
//! Weights are repacked losslessly at load for the processor's dot-product instructions: 16 output
//! rows are interleaved (a *panel*), so that one vector register holds the same four columns of all
//! 16 rows, and the four activation bytes that it is multiplied with are broadcast to all lanes.
//! Activations are quantised to int8 in blocks of 32, like llama.cpp's Q8_1, with an f32 scale.
//!
//! Every path (AVX-512 VNNI, AVX2, NEON, portable) returns bit-identical results: dot products of a
//! block are exact in i32, and blocks are accumulated in f32 by the same fused multiply-adds in the
//! same order, whatever the number of rows and threads. Threads split output rows, never columns.

#![allow(
    unsafe_code,
    reason = "vector instructions, and disjoint writes by several threads; each use states why it is sound"
)]
#![allow(clippy::needless_range_loop, reason = "one index for the registers of several arrays")]
#![allow(
    clippy::too_many_arguments,
    reason = "kernel parameters are passed in registers, not in a struct"
)]

mod activations;
mod attention;
mod attention_train;
mod attention_tree;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod dense;
mod gemm;
mod gemm_bf16;
mod gradients;
mod isa;
mod lanes;
mod lora;
mod lora_matrix;
mod lora_shares;
mod low_rank;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_ops;
mod ops;
mod output;
mod packed;
#[cfg(test)]
mod perf_regression;
mod portable;
mod products;
mod rounded;
mod rounded_products;
mod rounding;
#[cfg(test)]
mod tests;
mod thread_pool;

pub use activations::{Activations, Residual};
pub use attention::{AttentionShape, KV_BLOCK_SIZE, KvSlice, Span, attention};
pub use attention_train::{attend, attend_backward};
pub use attention_tree::{Attended, Heads, Tree};
pub use blocks::BlockKind;
pub use dense::{DenseMatrix, matmul_dense, matmul_dense_partial};
pub use gemm::{Left, Right, Scaled, gemm};
pub use gemm_bf16::{
    PairedPanels, bf16_is_faster, gemm_bf16, has_bf16, pack_pairs, to_bf16, transposed, widen,
};
pub use gradients::{rms_norm_backward, softmax_scaled, swiglu, swiglu_backward};
pub use isa::{BLOCK, Isa, PANEL};
pub use lora::{
    LoraActivations, add_low, low_rank, low_rank_partial, matmul_low_rank, matmul_partial,
};
pub use lora_matrix::LoraMatrix;
pub use low_rank::LowRank;
pub use ops::{
    SoftmaxSums, add, exp_shifted, most_of, rms_norm, rotate, silu_mul, softmax_sums, to_half,
};
pub use packed::PackedMatrix;
pub use products::{Product, matmul};
pub use rounded::RoundedMatrix;
pub use rounding::Rounding;
pub use thread_pool::ThreadPool;
