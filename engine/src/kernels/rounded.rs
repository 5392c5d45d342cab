//! LoRA's two thin matrices in int8, for about half the bytes of f16: a step with many adapters takes as long as reading them does.
//!
//! Sixteen numbers of a row share a scale, held as bf16. It is searched for: the smallest that fits the largest number is seldom the one
//! that rounds all of them best, and some tries a little above it save a fifth of the error. Products are those of the rounded numbers with
//! activations in f32: nothing else is lost.

use super::activations::LEAST;
use super::dense::{Part, SUMS, TILE, put};
use super::lanes::{LANES, Lanes, for_isa};
use super::packed::{LINE, Line, bytes_of};
use super::{Isa, PANEL};

/// Numbers of a row with one scale; the last of a chunk may be fewer.
const GROUP: usize = 16;
/// Scales that are tried, neighbours in bf16: the last ones are 6 to 12 % above the smallest.
const TRIES: u32 = 16;

/// Panels of 16 rows. A panel is all its groups, one after the other: `[width, 16]` in int8, then 16 scales in bf16. No group reaches from
/// one chunk of the columns into the next, so that a shard that has some of the chunks has the same numbers.
#[derive(Debug)]
pub(super) struct Rounded {
    lines: Vec<Line>,
    /// Bytes of a panel.
    stride: usize,
    panels: usize,
}

/// The groups of a row, each where it begins and how many columns it has.
fn groups(columns: usize, chunks: usize) -> impl Iterator<Item = (usize, usize)> {
    let width = columns / chunks;
    (0..chunks).flat_map(move |chunk| {
        let end = (chunk + 1) * width;
        (chunk * width..end).step_by(GROUP).map(move |start| (start, GROUP.min(end - start)))
    })
}

impl Rounded {
    /// Rounds `values`, row after row, of which there are whole ones.
    pub(super) fn new(columns: usize, chunks: usize, values: &[f32]) -> Self {
        let isa = Isa::detect();
        let stride = groups(columns, chunks).map(|(_, width)| (width + 2) * LANES).sum();
        let rows = values.len() / columns;
        let panels = rows.div_ceil(PANEL);
        let mut bytes = vec![0; panels * stride];
        for (panel, into) in bytes.chunks_exact_mut(stride).enumerate() {
            let rows = panel * PANEL..rows.min((panel + 1) * PANEL);
            let mut at = 0;
            for (start, width) in groups(columns, chunks) {
                let mut group = Group { values: [[0.0; LANES]; GROUP], width, scales: [0; LANES] };
                for (lane, row) in rows.clone().enumerate() {
                    let values = &values[row * columns + start..][..width];
                    values.iter().zip(&mut group.values).for_each(|(value, column)| column[lane] = *value);
                }
                // SAFETY: `isa` was detected.
                unsafe { round_isa(isa, &mut group) };
                let (quants, scales) = into[at..at + (width + 2) * LANES].split_at_mut(width * LANES);
                quants.iter_mut().zip(group.values.as_flattened()).for_each(|(into, quant)| *into = (*quant as i8).cast_unsigned());
                scales.chunks_exact_mut(2).zip(group.scales).for_each(|(into, scale)| into.copy_from_slice(&scale.to_le_bytes()));
                at += (width + 2) * LANES;
            }
        }
        let mut lines = vec![Line([0; LINE]); bytes.len().div_ceil(LINE)];
        lines.iter_mut().zip(bytes.chunks(LINE)).for_each(|(line, bytes)| line.0[..bytes.len()].copy_from_slice(bytes));
        Self { lines, stride, panels }
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * LINE
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn start(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// One row in f32.
    pub(super) fn row(&self, row: usize, chunks: usize, into: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        debug_assert!(panel < self.panels);
        let panel = &bytes_of(&self.lines)[panel * self.stride..(panel + 1) * self.stride];
        let mut at = 0;
        for (start, width) in groups(into.len(), chunks) {
            let scale = at + width * LANES + 2 * lane;
            let scale = scale_of(u16::from_le_bytes([panel[scale], panel[scale + 1]]));
            for (column, value) in into[start..start + width].iter_mut().enumerate() {
                *value = f32::from(panel[at + column * LANES + lane].cast_signed()) * scale;
            }
            at += (width + 2) * LANES;
        }
    }
}

fn scale_of(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Sixteen rows of a group: numbers that become whole ones, and their scales.
struct Group {
    values: [[f32; LANES]; GROUP],
    width: usize,
    scales: [u16; LANES],
}

for_isa! { unsafe fn round_isa(group: &mut Group) = round_body }

#[inline(always)]
unsafe fn round_body<V: Lanes>(group: &mut Group) {
    // SAFETY: the instruction set is there, and all arrays hold whole lanes.
    unsafe {
        let zero = V::splat(0.0);
        let columns = &mut group.values[..group.width];
        let largest = columns.iter().fold(zero, |most, column| {
            let column = V::load(column.as_ptr());
            most.max(column).max(zero.sub(column))
        });
        let mut most = [0.0_f32; LANES];
        largest.store(most.as_mut_ptr());
        // bf16 that is not below, or nothing where there is nothing to scale
        let least = most.map(|most| if most < LEAST { 0 } else { (most / 127.0).to_bits().div_ceil(1 << 16) as u16 });
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

for_isa! {
    /// Some panels' products with all tokens.
    ///
    /// # Safety
    /// As [`super::dense::multiply`].
    pub(super) unsafe fn rounded_isa(start: *const u8, stride: usize, part: Part) = body
}

#[inline(always)]
unsafe fn body<V: Lanes>(start: *const u8, stride: usize, part: Part) {
    for panel in part.panels.clone() {
        let start = start.wrapping_add(panel * stride);
        for token in (0..part.tokens).step_by(TILE) {
            // SAFETY: as the caller promises; a tile ends within the tokens.
            unsafe {
                match part.tokens - token {
                    1 => tile::<V, 1>(start, &part, panel, token),
                    2 => tile::<V, 2>(start, &part, panel, token),
                    3 => tile::<V, 3>(start, &part, panel, token),
                    _ => tile::<V, TILE>(start, &part, panel, token),
                }
            }
        }
    }
}

/// A group's columns are added in four interleaved sums, whose sum is scaled and added to those of the groups before: the same for every
/// number of tokens.
#[inline(always)]
unsafe fn tile<V: Lanes, const T: usize>(mut group: *const u8, part: &Part, panel: usize, token: usize) {
    let columns = part.columns;
    let rows = (part.rows - panel * LANES).min(LANES);
    // SAFETY: as `dense::multiply` says; lanes of rows that are not there are not written.
    unsafe {
        let x = part.x.add(token * columns);
        let width = columns / part.chunks;
        let mut total = [V::splat(0.0); T];
        let mut column = 0;
        for chunk in 0..part.chunks {
            let end = column + width;
            let mut chunk_sum = [V::splat(0.0); T];
            while column < end {
                if token == 0 {
                    part.ahead.fetch(group, ((GROUP + 2) * LANES).div_ceil(64));
                }
                let mut sums = [[V::splat(0.0); SUMS]; T];
                let width = GROUP.min(end - column);
                if width == GROUP {
                    for c in 0..GROUP {
                        let w = V::load_bytes(group.add(c * LANES).cast());
                        for t in 0..T {
                            sums[t][c % SUMS] = w.mul_add(V::splat(*x.add(t * columns + column + c)), sums[t][c % SUMS]);
                        }
                    }
                } else {
                    for c in 0..width {
                        let w = V::load_bytes(group.add(c * LANES).cast());
                        for t in 0..T {
                            sums[t][c % SUMS] = w.mul_add(V::splat(*x.add(t * columns + column + c)), sums[t][c % SUMS]);
                        }
                    }
                }
                let scale = V::load_bf16(group.add(width * LANES).cast());
                for t in 0..T {
                    let sum = sums[t][0].add(sums[t][1]).add(sums[t][2].add(sums[t][3]));
                    chunk_sum[t] = sum.mul_add(scale, chunk_sum[t]);
                }
                group = group.add((width + 2) * LANES);
                column += width;
            }
            for t in 0..T {
                if part.output.apart > 0 {
                    put(chunk_sum[t], part.output.of_chunk(chunk), panel, token + t, rows, false);
                }
                total[t] = total[t].add(chunk_sum[t]);
            }
        }
        if part.output.apart == 0 {
            for t in 0..T {
                put(total[t], part.output, panel, token + t, rows, part.add);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand::rngs::StdRng;

    use crate::kernels::tests::random;
    use crate::kernels::{DenseMatrix, Isa, Team, matmul_dense, matmul_dense_apart};

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn product(isa: Isa, w: &DenseMatrix, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.5; x.len() / w.columns() * w.rows()];
        matmul_dense(&Team::new(2), isa, w, x, true, &mut y);
        y
    }

    fn uniform(random: &mut StdRng, count: usize, most: f32) -> Vec<f32> {
        (0..count).map(|_| random.random_range(-most..most)).collect()
    }

    /// Box and Muller's.
    fn normal(random: &mut StdRng, count: usize, deviation: f32) -> Vec<f32> {
        let mut one = || {
            let (radius, turn): (f32, f32) = (random.random_range(f32::MIN_POSITIVE..1.0), random.random());
            deviation * (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * turn).cos()
        };
        (0..count).map(|_| one()).collect()
    }

    #[test]
    fn products_have_the_same_bits_on_every_path_batched_or_alone_whole_or_in_chunks() {
        let mut random = random();
        for _ in 0..60 {
            let (rows, chunks, tokens) = (random.random_range(1..50), random.random_range(1..4), random.random_range(1..11));
            let (width, most) = (random.random_range(1..70), [1e-20, 0.02, 1.0, 1e20][random.random_range(0..4)]);
            let columns = chunks * width;
            let mut values = uniform(&mut random, rows * columns, most);
            // some that are nothing
            values[..columns.min(20)].fill(0.0);
            let x = uniform(&mut random, tokens * columns, 1.0);
            let w = DenseMatrix::rounded(rows, columns, chunks, &values);
            let expected = product(Isa::Portable, &w, &x);
            let mut held = vec![0.0; rows * columns];
            held.chunks_exact_mut(columns).enumerate().for_each(|(row, into)| w.row(row, into));
            for (token, y) in expected.chunks_exact(rows).enumerate() {
                for (row, y) in y.iter().enumerate() {
                    let pairs = held[row * columns..].iter().zip(&x[token * columns..(token + 1) * columns]);
                    let dot: f64 = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    assert!((f64::from(*y) - dot - 0.5).abs() <= 1e-5 * (1.0 + f64::from(most)), "{y} for {dot}");
                }
            }
            for (value, held) in values.iter().zip(&held) {
                // half a step of the largest scale that is tried
                assert!((value - held).abs() <= most / 127.0 * 0.57, "{value} is held as {held}");
            }
            for isa in Isa::available() {
                assert_eq!(bits(&product(isa, &w, &x)), bits(&expected), "{isa:?}");
                assert_eq!(bits(&product(isa, &w, &x[..columns])), bits(&expected[..rows]), "{isa:?}");
                let mut apart = vec![f32::NAN; chunks * tokens * rows];
                matmul_dense_apart(&Team::new(2), isa, &w, &x, &mut apart);
                // a shard that has one of the chunks rounds and computes the same
                for (chunk, sums) in apart.chunks_exact(tokens * rows).enumerate() {
                    let part = |values: &[f32]| -> Vec<f32> {
                        values.chunks_exact(columns).flat_map(|row| &row[chunk * width..(chunk + 1) * width]).copied().collect()
                    };
                    let alone = DenseMatrix::rounded(rows, width, 1, &part(&values));
                    let mut y = vec![f32::NAN; tokens * rows];
                    matmul_dense(&Team::new(1), isa, &alone, &part(&x), false, &mut y);
                    assert_eq!(bits(&y), bits(sums), "{isa:?}, chunk {chunk} of {chunks}");
                }
            }
        }
    }

    /// Root mean square of what rounding changes of `x · aᵀ · bᵀ`, over that of the product.
    fn relative_error(random: &mut StdRng, a: &[f32], b: &[f32], shape: [usize; 3]) -> f64 {
        let ([out, rank, columns], tokens) = (shape, 16);
        let x = normal(random, tokens * columns, 1.0);
        let delta = |a: &DenseMatrix, b: &DenseMatrix| {
            let mut low = vec![0.0; tokens * rank];
            matmul_dense(&Team::new(2), Isa::detect(), a, &x, false, &mut low);
            let mut y = vec![0.0; tokens * out];
            matmul_dense(&Team::new(2), Isa::detect(), b, &low, false, &mut y);
            y
        };
        let exact = delta(&DenseMatrix::from_f32(rank, columns, a), &DenseMatrix::from_f32(out, rank, b));
        let rounded = delta(&DenseMatrix::rounded(rank, columns, 1, a), &DenseMatrix::rounded(out, rank, 1, b));
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        (squares(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b)) / squares(&mut exact.iter().copied())).sqrt()
    }

    #[test]
    fn rounding_changes_an_adapters_delta_by_about_half_a_percent() {
        // measured: 0.50 % for A as PEFT begins with it (uniform) and a B of normal numbers, 0.56 % where both are normal
        let most = [("uniform", 0.006), ("normal", 0.0065)];
        let mut random = random();
        for (out, rank, columns) in [(576, 16, 576), (192, 16, 576), (1536, 16, 576), (576, 16, 1536), (576, 8, 576), (576, 64, 576)] {
            let scale = 1.0 / (columns as f32).sqrt();
            let b = normal(&mut random, out * rank, 1e-3);
            let a = [uniform(&mut random, rank * columns, scale), normal(&mut random, rank * columns, scale)];
            for ((what, most), a) in most.into_iter().zip(a) {
                let error = relative_error(&mut random, &a, &b, [out, rank, columns]);
                println!("{out} x {rank} x {columns}, A {what}: {:.3} %", 100.0 * error);
                assert!(error < most, "{out} x {rank} x {columns}, A {what}: {error}");
            }
        }
    }
}
