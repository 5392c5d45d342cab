//! A weight matrix of one shard, for the CPU.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use crate::kernels::{BlockKind, DenseMatrix, PackedMatrix, Rounding};
use crate::weights::Matrix;
use crate::{EngineError, Result};

/// A weight matrix `[out, in]`.
#[derive(Debug)]
pub(super) enum Weight {
    Packed(PackedMatrix),
    Dense(DenseMatrix),
    /// A block type that the CPU kernels do not support: candle computes the product.
    Candle {
        product: QMatMul,
        tensor: Arc<QTensor>,
    },
}

/// The kernel of a block type, if there is one.
fn kind_of(dtype: GgmlDType) -> Option<BlockKind> {
    Some(match dtype {
        GgmlDType::Q4_0 => BlockKind::Q4_0,
        GgmlDType::Q4_1 => BlockKind::Q4_1,
        GgmlDType::Q5_0 => BlockKind::Q5_0,
        GgmlDType::Q5_1 => BlockKind::Q5_1,
        GgmlDType::Q8_0 => BlockKind::Q8_0,
        GgmlDType::Q4K => BlockKind::Q4K,
        GgmlDType::Q5K => BlockKind::Q5K,
        GgmlDType::Q6K => BlockKind::Q6K,
        _ => return None,
    })
}

/// Quantised block types that can be sharded, for error messages.
const SPLIT: &str = "q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k and q6_k";

/// Maximum number of rows per matrix product of candle.
const CANDLE_CHUNK_ROWS: usize = 16;

impl Weight {
    /// Builds the weight from a range of rows and columns of a matrix, with its columns divided
    /// into `chunks` parts.
    ///
    /// # Errors
    /// [`EngineError::Sharding`] when part of a block type without a kernel is requested.
    pub(super) fn new(
        matrix: Matrix,
        rows: Range<usize>,
        columns: Range<usize>,
        chunks: usize,
    ) -> Result<Self> {
        let whole = match &matrix {
            Matrix::Dense(tensor) => tensor.dims2()?,
            Matrix::Quantised(tensor) => tensor.shape().dims2()?,
        };
        let tensor = match matrix.part(rows.clone(), columns.clone(), &Device::Cpu)? {
            Matrix::Dense(tensor) => {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                return Ok(Self::Dense(
                    DenseMatrix::from_f32(rows.len(), columns.len(), &values).in_chunks(chunks),
                ));
            }
            Matrix::Quantised(tensor) => tensor,
        };
        let Some(kind) = kind_of(tensor.dtype()) else {
            if (rows.len(), columns.len()) == whole {
                return Ok(Self::Candle {
                    product: QMatMul::from_arc(Arc::clone(&tensor))?,
                    tensor,
                });
            }
            let reason = format!(
                "its weights are {:?}, expected a block type that can be sharded: {SPLIT}",
                tensor.dtype()
            );
            return Err(EngineError::Sharding { reason });
        };
        Ok(Self::Packed(PackedMatrix::pack(
            kind,
            rows.len(),
            columns.len(),
            &tensor.data()?,
            chunks,
        )))
    }

    /// How the input of a product with this weight is quantised.
    pub(super) fn rounding(&self) -> Rounding {
        if matches!(self, Self::Packed(_)) { Rounding::Once } else { Rounding::None }
    }

    /// Number of output rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Packed(w) => w.rows(),
            Self::Dense(w) => w.rows(),
            Self::Candle { tensor, .. } => tensor.shape().dims().first().copied().unwrap_or(0),
        }
    }

    /// candle's product of `x` `[rows, columns]` into `y`. candle selects its kernel, and with it
    /// the order of sums, by the number of rows (one, a few, many). It always gets 2 to
    /// [`CANDLE_CHUNK_ROWS`] rows, so that the bits do not depend on the batch.
    pub(super) fn candle_matmul(
        product: &QMatMul,
        x: &[f32],
        columns: usize,
        y: &mut [f32],
    ) -> Result<()> {
        let rows = x.len() / columns;
        let out = y.len() / rows.max(1);
        for (x, y) in
            x.chunks(CANDLE_CHUNK_ROWS * columns).zip(y.chunks_mut(CANDLE_CHUNK_ROWS * out))
        {
            let rows = x.len() / columns;
            let tensor = if rows == 1 {
                Tensor::from_vec([x, x].concat(), (2, columns), &Device::Cpu)?
            } else {
                Tensor::from_slice(x, (rows, columns), &Device::Cpu)?
            };
            let found = product.forward(&tensor)?.flatten_all()?.to_vec1::<f32>()?;
            y.copy_from_slice(&found[..y.len()]);
        }
        Ok(())
    }

    /// Writes one row in f32 to `out`.
    pub(super) fn embed(&self, row: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Packed(w) => w.dequantise_row(row, out),
            Self::Dense(w) => w.row(row, out),
            Self::Candle { tensor, .. } => {
                let found = tensor.embedding(&Tensor::new(&[row as u32], &Device::Cpu)?)?;
                out.copy_from_slice(&found.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Activations, Isa, Product, ThreadPool, matmul, matmul_partial};

    /// A weight `[rows, columns]`, and activations `[tokens, columns]`.
    fn operands(rows: usize, columns: usize, tokens: usize) -> (Tensor, Vec<f32>) {
        let values = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|at| ((at as f32 * step).sin() * 43.7).fract()).collect()
        };
        let dense =
            Tensor::from_vec(values(rows * columns, 0.37), (rows, columns), &Device::Cpu).unwrap();
        (dense, values(tokens * columns, 1.13))
    }

    #[test]
    fn block_types_without_a_kernel_give_the_same_bits_batched_or_alone() {
        let (rows, columns, tokens) = (48, 512, 37);
        let (dense, x) = operands(rows, columns, tokens);
        for kind in [GgmlDType::Q2K, GgmlDType::Q3K] {
            let tensor = Arc::new(QTensor::quantize(&dense, kind).unwrap());
            let weight = Weight::new(Matrix::Quantised(tensor), 0..rows, 0..columns, 2).unwrap();
            let Weight::Candle { product, .. } = weight else { panic!("{kind:?} has a kernel") };
            let product = |x: &[f32]| {
                let mut y = vec![0.0; x.len() / columns * rows];
                Weight::candle_matmul(&product, x, columns, &mut y).unwrap();
                y
            };
            let together = product(&x);
            for (x, y) in x.chunks_exact(columns).zip(together.chunks_exact(rows)) {
                assert_eq!(product(x), y, "{kind:?}");
            }
            assert_eq!(product(&x[columns..4 * columns]), together[rows..4 * rows], "{kind:?}");
        }
    }

    #[test]
    fn packed_weights_match_candle_dequantisation_and_products() {
        let (rows, columns, tokens) = (40, 768, 9);
        let (dense, x) = operands(rows, columns, tokens);
        use GgmlDType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for dtype in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
            let tensor = Arc::new(QTensor::quantize(&dense, dtype).unwrap());
            let plain = tensor.dequantize(&Device::Cpu).unwrap();
            let weight = Weight::new(Matrix::Quantised(tensor), 0..rows, 0..columns, 3).unwrap();
            let Weight::Packed(w) = &weight else { panic!("{dtype:?} has no kernel") };
            let mut row = vec![0.0; columns];
            for (index, expected) in plain.to_vec2::<f32>().unwrap().iter().enumerate() {
                weight.embed(index, &mut row).unwrap();
                assert_eq!(&row, expected, "{dtype:?} row {index}");
            }
            let (threads, mut quants, mut y) =
                (ThreadPool::new(1), Activations::default(), vec![0.0; tokens * rows]);
            quants.quantise(&threads, Isa::detect(), &x, columns, weight.rounding());
            matmul(&threads, Isa::detect(), &mut [Product { w, y: &mut y }], &quants);
            let x = Tensor::from_slice(&x, (tokens, columns), &Device::Cpu).unwrap();
            let expected = x
                .matmul(&plain.t().unwrap())
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            let error: f32 =
                y.iter().zip(&expected).map(|(y, expected)| (y - expected).powi(2)).sum();
            let size: f32 = expected.iter().map(|expected| expected.powi(2)).sum();
            assert!(error < size * 1e-4, "{dtype:?}: relative square {}", error / size);
        }
    }

    #[test]
    fn sharded_partial_sums_match_unsharded() {
        let (rows, columns, tokens) = (24, 768, 3);
        let (dense, x) = operands(rows, columns, tokens);
        let sums = |tensor: &Arc<QTensor>, part: Range<usize>, chunks: usize| {
            let weight =
                Weight::new(Matrix::Quantised(Arc::clone(tensor)), 0..rows, part.clone(), chunks)
                    .unwrap();
            let Weight::Packed(w) = &weight else { panic!("it has a kernel") };
            let x: Vec<f32> =
                x.chunks_exact(columns).flat_map(|x| &x[part.clone()]).copied().collect();
            let (threads, mut quants, mut y) =
                (ThreadPool::new(2), Activations::default(), vec![0.0; chunks * tokens * rows]);
            quants.quantise(&threads, Isa::detect(), &x, part.len(), weight.rounding());
            matmul_partial(
                &threads,
                Isa::detect(),
                Product { w, y: &mut y },
                &quants,
                &[],
                &x,
                &mut [],
            );
            y
        };
        for dtype in [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K] {
            let tensor = Arc::new(QTensor::quantize(&dense, dtype).unwrap());
            let shards: Vec<f32> =
                (0..3).flat_map(|shard| sums(&tensor, shard * 256..(shard + 1) * 256, 1)).collect();
            assert_eq!(sums(&tensor, 0..columns, 3), shards, "{dtype:?}");
            // a super-block cannot be split
            let refused = Weight::new(Matrix::Quantised(tensor), 0..rows, 0..384, 1).unwrap_err();
            assert!(refused.to_string().contains("not whole blocks of 256"), "{refused}");
        }
    }
}
