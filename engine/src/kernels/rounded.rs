//! The two matrices of a LoRA adapter in int8, with about half the bytes of f16, multiplied by the
//! same instructions as the base weights: a step with many adapters is bound by reading them from
//! memory.
//!
//! Sixteen values of a row share a bf16 scale, which is chosen by search: the smallest scale that
//! represents the largest value rarely has the smallest error, and trying a few slightly larger
//! ones reduces the error by a fifth.

use super::isa::{BLOCK, Isa, PANEL};
use super::lanes::{LANES, Lanes, for_isa};
#[cfg(test)]
use super::packed::bytes_of;
use super::packed::{LINE, Line};
use super::rounding::LEAST;

/// Values of a row that share a scale; the last group may have fewer.
pub(super) const GROUP: usize = BLOCK / 2;
/// Number of candidate scales, consecutive bf16 values: the last one is 6 to 12 % above the
/// smallest.
const TRIES: u32 = 16;

/// A matrix `[rows, columns]` in panels of 16 rows. A panel is the sequence of its groups. A group
/// holds four bytes per row for every four columns, stored with an offset of 128, then 16 scales in
/// bf16.
#[derive(Debug)]
pub struct RoundedMatrix {
    rows: usize,
    columns: usize,
    /// Number of equal column ranges whose sums are added left to right.
    chunks: usize,
    lines: Vec<Line>,
}

/// Bytes of a group of `width` columns.
pub(super) const fn group_bytes(width: usize) -> usize {
    width.div_ceil(4) * 4 * LANES + 2 * LANES
}

/// The groups of a row: first column and number of columns.
fn groups(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns).step_by(GROUP).map(move |start| (start, GROUP.min(columns - start)))
}

impl RoundedMatrix {
    /// Quantises row-major `values`; `chunks` as in
    /// [`PackedMatrix::pack`](super::PackedMatrix::pack).
    ///
    /// # Panics
    /// When `values` does not hold `[rows, columns]`, or there are several chunks and they are not
    /// equal or not of whole blocks.
    pub fn new(rows: usize, columns: usize, chunks: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "size of the matrix");
        assert!(
            chunks == 1 || columns.is_multiple_of(chunks * BLOCK),
            "equal chunks of whole blocks"
        );
        let isa = Isa::detect();
        let stride = panel_bytes(columns);
        let mut bytes = vec![0x80; rows.div_ceil(PANEL) * stride];
        for (panel, mut into) in bytes.chunks_exact_mut(stride).enumerate() {
            let rows = panel * PANEL..rows.min((panel + 1) * PANEL);
            for (start, width) in groups(columns) {
                let mut group = Group { values: [[0.0; LANES]; GROUP], width, scales: [0; LANES] };
                for (lane, row) in rows.clone().enumerate() {
                    let values = &values[row * columns + start..][..width];
                    values
                        .iter()
                        .zip(&mut group.values)
                        .for_each(|(value, column)| column[lane] = *value);
                }
                // SAFETY: `isa` was detected.
                unsafe { round_isa(isa, &mut group) };
                let (own, rest) = into.split_at_mut(group_bytes(width));
                let (quants, scales) = own.split_at_mut(own.len() - 2 * LANES);
                for (column, values) in group.values[..width].iter().enumerate() {
                    for (lane, value) in values.iter().enumerate() {
                        quants[byte_of(column, lane)] = (*value as i8).cast_unsigned() ^ 0x80;
                    }
                }
                scales
                    .chunks_exact_mut(2)
                    .zip(group.scales)
                    .for_each(|(into, scale)| into.copy_from_slice(&scale.to_le_bytes()));
                into = rest;
            }
        }
        let mut lines = vec![Line([0; LINE]); bytes.len().div_ceil(LINE)];
        lines
            .iter_mut()
            .zip(bytes.chunks(LINE))
            .for_each(|(line, bytes)| line.0[..bytes.len()].copy_from_slice(bytes));
        Self { rows, columns, chunks, lines }
    }

    /// Number of equal column ranges that are summed separately.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Number of output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of input columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory of the values in bytes.
    pub fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        panel_bytes(self.columns)
    }

    /// Address of a panel's first byte, or of the end of the last panel.
    pub(super) fn start(&self, panel: usize) -> *const u8 {
        self.lines.as_ptr().cast::<u8>().wrapping_add(panel * self.panel_bytes())
    }

    /// Dequantises one row into `into`, `[columns]`.
    ///
    /// # Panics
    /// When the row does not exist, or `into` has another size.
    #[cfg(test)]
    fn row(&self, row: usize, into: &mut [f32]) {
        assert!(row < self.rows && into.len() == self.columns, "a row of the matrix");
        let (panel, lane) = (row / PANEL, row % PANEL);
        let mut bytes = &bytes_of(&self.lines)[panel * self.panel_bytes()..];
        for (start, width) in groups(self.columns) {
            let (own, rest) = bytes.split_at(group_bytes(width));
            let scale = &own[own.len() - 2 * LANES + 2 * lane..];
            let scale = scale_of(u16::from_le_bytes([scale[0], scale[1]]));
            for (column, value) in into[start..start + width].iter_mut().enumerate() {
                *value = f32::from((own[byte_of(column, lane)] ^ 0x80).cast_signed()) * scale;
            }
            bytes = rest;
        }
    }
}

const fn panel_bytes(columns: usize) -> usize {
    let rest = columns % GROUP;
    columns / GROUP * group_bytes(GROUP) + if rest > 0 { group_bytes(rest) } else { 0 }
}

/// Byte offset of a value in its group.
fn byte_of(column: usize, lane: usize) -> usize {
    column / 4 * 4 * LANES + lane * 4 + column % 4
}

/// bf16 to f32.
fn scale_of(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A group of sixteen rows: values, which are replaced by their quants, and scales in bf16.
struct Group {
    values: [[f32; LANES]; GROUP],
    width: usize,
    scales: [u16; LANES],
}

for_isa! { unsafe fn round_isa(group: &mut Group) = round_body }

#[inline(always)]
unsafe fn round_body<V: Lanes>(group: &mut Group) {
    // SAFETY: the processor supports the instruction set, and all arrays hold whole lanes.
    unsafe {
        let zero = V::splat(0.0);
        let columns = &mut group.values[..group.width];
        let largest = columns.iter().fold(zero, |most, column| {
            let column = V::load(column.as_ptr());
            most.max(column).max(zero.sub(column))
        });
        let mut most = [0.0_f32; LANES];
        largest.store(most.as_mut_ptr());
        // rounded up to bf16; 0 if all values are 0
        let least = most.map(|most| {
            if most < LEAST { 0 } else { (most / 127.0).to_bits().div_ceil(1 << 16) as u16 }
        });
        let scaled = |bits: &[u16; LANES]| {
            let scales = bits.map(scale_of);
            let inverse = scales.map(|scale| if scale > 0.0 { 1.0 / scale } else { 0.0 });
            (V::load(scales.as_ptr()), V::load(inverse.as_ptr()))
        };
        let (mut best, mut chosen) = ([f32::INFINITY; LANES], least);
        for more in 0..TRIES as u16 {
            let bits = least.map(|least| if least > 0 { least + more } else { 0 });
            let (scale, inverse) = scaled(&bits);
            let mut squares = zero;
            for column in &*columns {
                let value = V::load(column.as_ptr());
                let lost = value.sub(value.mul(inverse).round().mul(scale));
                squares = lost.mul_add(lost, squares);
            }
            let mut errors = [0.0_f32; LANES];
            squares.store(errors.as_mut_ptr());
            for lane in 0..LANES {
                if errors[lane] < best[lane] {
                    (best[lane], chosen[lane]) = (errors[lane], bits[lane]);
                }
            }
        }
        let (_, inverse) = scaled(&chosen);
        for column in columns {
            V::load(column.as_ptr()).mul(inverse).round().store(column.as_mut_ptr());
        }
        group.scales = chosen;
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::kernels::output::Output;
    use crate::kernels::rounded_products::multiply;
    use crate::kernels::tests::random;
    use crate::kernels::{
        Activations, DenseMatrix, LoraActivations, LoraMatrix, LowRank, Rounding, ThreadPool,
        low_rank,
    };

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// `0.5 + x · wᵀ`, or the separate sums of each chunk if `partial`.
    fn product(
        isa: Isa,
        w: &RoundedMatrix,
        x: &[f32],
        rounding: Rounding,
        partial: bool,
    ) -> Vec<f32> {
        let (tokens, padded) = (x.len() / w.columns, w.columns.next_multiple_of(BLOCK));
        let mut filled = vec![0.0; tokens * padded];
        filled
            .chunks_exact_mut(padded)
            .zip(x.chunks_exact(w.columns))
            .for_each(|(filled, x)| filled[..x.len()].copy_from_slice(x));
        let mut quants = Activations::default();
        quants.quantise(&ThreadPool::new(1), isa, &filled, padded, rounding);
        let size = tokens * w.rows;
        let mut y = vec![0.5; if partial { w.chunks * size } else { size }];
        let output = Output {
            start: y.as_mut_ptr(),
            rows: w.rows,
            chunk_stride: if partial { size } else { 0 },
        };
        let view = quants.view(if rounding == Rounding::Twice { 2 } else { 1 });
        // SAFETY: the output has the required size, and no other thread accesses it.
        unsafe {
            multiply(
                isa,
                w,
                view,
                tokens,
                0..w.rows.div_ceil(PANEL),
                !partial,
                output,
                std::ptr::null(),
            )
        };
        y
    }

    fn uniform(random: &mut StdRng, count: usize, most: f32) -> Vec<f32> {
        (0..count).map(|_| random.random_range(-most..most)).collect()
    }

    /// Normally distributed values (Box and Muller 1958).
    fn normal(random: &mut StdRng, count: usize, deviation: f32) -> Vec<f32> {
        let mut one = || {
            let (radius, turn): (f32, f32) =
                (random.random_range(f32::MIN_POSITIVE..1.0), random.random());
            deviation * (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * turn).cos()
        };
        (0..count).map(|_| one()).collect()
    }

    #[test]
    fn products_have_the_same_bits_on_every_path_batched_or_alone_whole_or_in_chunks() {
        let mut random = random();
        for round in 0..80 {
            let (rows, chunks, tokens) =
                (random.random_range(1..50), random.random_range(1..4), random.random_range(1..20));
            let width = if chunks == 1 {
                random.random_range(1..70)
            } else {
                BLOCK * random.random_range(1..4)
            };
            let (rounding, most) = (
                [Rounding::Once, Rounding::Twice][round % 2],
                [1e-20, 0.02, 1.0, 1e20][random.random_range(0..4)],
            );
            let columns = chunks * width;
            let mut values = uniform(&mut random, rows * columns, most);
            // some are 0
            values[..columns.min(20)].fill(0.0);
            let x = uniform(&mut random, tokens * columns, 1.0);
            let w = RoundedMatrix::new(rows, columns, chunks, &values);
            let expected = product(Isa::Portable, &w, &x, rounding, false);
            let mut held = vec![0.0; rows * columns];
            held.chunks_exact_mut(columns).enumerate().for_each(|(row, into)| w.row(row, into));
            let step = if rounding == Rounding::Once { 0.5 / 127.0 } else { 0.5 / 127.0 / 254.0 };
            for (token, y) in expected.chunks_exact(rows).enumerate() {
                for (row, y) in y.iter().enumerate() {
                    let held = &held[row * columns..(row + 1) * columns];
                    let pairs = held.iter().zip(&x[token * columns..(token + 1) * columns]);
                    let dot: f64 = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    let size: f64 = held.iter().map(|w| f64::from(w.abs())).sum();
                    assert!(
                        (f64::from(*y) - dot - 0.5).abs() <= size * (step + 1e-6) + 1e-6,
                        "{y} for {dot}, {rounding:?}"
                    );
                }
            }
            for (value, held) in values.iter().zip(&held) {
                // half a step of the largest candidate scale
                assert!((value - held).abs() <= most / 127.0 * 0.57, "{value} is stored as {held}");
            }
            for isa in Isa::available() {
                assert_eq!(
                    bits(&product(isa, &w, &x, rounding, false)),
                    bits(&expected),
                    "{isa:?}"
                );
                assert_eq!(
                    bits(&product(isa, &w, &x[..columns], rounding, false)),
                    bits(&expected[..rows]),
                    "{isa:?}"
                );
                let partial = product(isa, &w, &x, rounding, true);
                // a shard with one of the chunks quantises and computes the same
                for (chunk, sums) in partial.chunks_exact(tokens * rows).enumerate() {
                    let part = |values: &[f32]| -> Vec<f32> {
                        values
                            .chunks_exact(columns)
                            .flat_map(|row| &row[chunk * width..(chunk + 1) * width])
                            .copied()
                            .collect()
                    };
                    let alone = RoundedMatrix::new(rows, width, 1, &part(&values));
                    assert_eq!(
                        bits(&product(isa, &alone, &part(&x), rounding, true)),
                        bits(sums),
                        "{isa:?}, chunk {chunk} of {chunks}"
                    );
                }
            }
        }
    }

    /// Root mean square of the quantisation error of `x · aᵀ · bᵀ`, divided by that of the product.
    fn relative_error(
        random: &mut StdRng,
        a: &[f32],
        b: &[f32],
        shape: [usize; 3],
        rounding: Rounding,
    ) -> f64 {
        let ([out, rank, columns], tokens) = (shape, 16);
        let x = normal(random, tokens * columns, 1.0);
        let (threads, isa) = (ThreadPool::new(2), Isa::detect());
        let mut quants = Activations::default();
        quants.quantise(&threads, isa, &x, columns, rounding);
        let delta = |a: LoraMatrix, b: LoraMatrix| {
            let mut y = vec![0.0; tokens * out];
            let item = LowRank { a: &a, b: &b, scale: 1.0, row: 0, rows: tokens, output: 0 };
            low_rank(
                &threads,
                isa,
                &[item],
                &x,
                &quants,
                &mut LoraActivations::default(),
                &mut [&mut y],
            );
            y
        };
        let dense = |rows, columns, values: &[f32]| {
            LoraMatrix::Dense(DenseMatrix::from_f32(rows, columns, values))
        };
        let lora_matrix = |rows, columns, values: &[f32]| {
            LoraMatrix::Rounded(RoundedMatrix::new(rows, columns, 1, values))
        };
        let exact = delta(dense(rank, columns, a), dense(out, rank, b));
        let rounded = delta(lora_matrix(rank, columns, a), lora_matrix(out, rank, b));
        let squares = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|value| f64::from(value).powi(2)).sum::<f64>()
        };
        (squares(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b))
            / squares(&mut exact.iter().copied()))
        .sqrt()
    }

    #[test]
    fn rounding_changes_an_adapters_delta_by_less_than_one_percent() {
        // measured with `Rounding::Twice`: 0.50 % for A as initialised by PEFT (uniform) and a
        // normally distributed B, 0.56 % if both are normal; with `Rounding::Once`: 0.75 and 0.79 %
        let most = [("uniform", [0.009, 0.006]), ("normal", [0.0095, 0.0065])];
        let mut random = random();
        for (out, rank, columns) in [
            (576, 16, 576),
            (192, 16, 576),
            (1536, 16, 576),
            (576, 16, 1536),
            (576, 8, 576),
            (576, 64, 576),
        ] {
            let scale = 1.0 / (columns as f32).sqrt();
            let b = normal(&mut random, out * rank, 1e-3);
            let a = [
                uniform(&mut random, rank * columns, scale),
                normal(&mut random, rank * columns, scale),
            ];
            for ((what, most), a) in most.into_iter().zip(a) {
                for (rounding, most) in [Rounding::Once, Rounding::Twice].into_iter().zip(most) {
                    let error = relative_error(&mut random, &a, &b, [out, rank, columns], rounding);
                    println!(
                        "{out} x {rank} x {columns}, A {what}, {rounding:?}: {:.3} %",
                        100.0 * error
                    );
                    assert!(
                        error < most,
                        "{out} x {rank} x {columns}, A {what}, {rounding:?}: {error}"
                    );
                }
            }
        }
    }
}
