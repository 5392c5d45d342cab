//! GGUF block types and their layout (as defined by ggml's `ggml-quants.c`).

use super::isa::BLOCK;

/// GGUF block types that the kernels support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// 4 bits, one scale per 32 columns.
    Q4_0,
    /// 4 bits, one scale and minimum per 32 columns.
    Q4_1,
    /// 5 bits, one scale per 32 columns.
    Q5_0,
    /// 5 bits, one scale and minimum per 32 columns.
    Q5_1,
    /// 8 bits, one scale per 32 columns.
    Q8_0,
    /// 4 bits, super-blocks of 256 columns with a 6-bit scale and minimum per 32 columns.
    Q4K,
    /// 5 bits, super-blocks of 256 columns with a 6-bit scale and minimum per 32 columns.
    Q5K,
    /// 6 bits, super-blocks of 256 columns with an 8-bit scale per 16 columns.
    Q6K,
}

/// Blocks of [`BLOCK`] columns in a GGUF super-block.
pub(super) const SUPER: usize = 8;

impl BlockKind {
    /// All block types, for tests and benchmarks.
    #[cfg(any(test, feature = "bench"))]
    pub const ALL: [Self; 8] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Columns of one block in a GGUF file.
    pub const fn file_columns(self) -> usize {
        if self.two_levels() { SUPER * BLOCK } else { BLOCK }
    }

    /// Bytes of one block in a GGUF file.
    pub const fn file_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bits per quant.
    pub(super) const fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
        }
    }

    /// Offset subtracted from a stored quant to get its signed value.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => 0,
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6K => 32,
            Self::Q8_0 => 128,
        }
    }

    /// Whether each block has a minimum, which is added to all its values.
    pub const fn has_min(self) -> bool {
        self.offset() == 0
    }

    /// Whether scales have two levels: a block's scale (and minimum) is an integer times the f16 of
    /// its super-block.
    pub(super) const fn two_levels(self) -> bool {
        matches!(self, Self::Q4K | Self::Q5K | Self::Q6K)
    }

    /// Whether each half of a block has its own scale.
    pub(super) const fn halves(self) -> bool {
        matches!(self, Self::Q6K)
    }

    /// Unpacks the block of [`BLOCK`] columns at index `part` of a file's block. The integer
    /// factors of two-level scales are unsigned, except Q6_K's, which are signed.
    pub(super) fn unpack(self, block: &[u8], part: usize) -> Unpacked {
        let pair = |at: usize| [block[at], block[at + 1]];
        let nibble = |byte: u8, high: bool| if high { byte >> 4 } else { byte & 15 };
        let mut out = Unpacked { scale: pair(0), ..Unpacked::default() };
        let quants = &mut out.quants;
        match self {
            Self::Q8_0 => {
                quants.iter_mut().zip(&block[2..]).for_each(|(quant, byte)| *quant = byte ^ 0x80)
            }
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => {
                let start = if self.has_min() { 4 } else { 2 };
                let (fifth, low) = block[start..].split_at(if self.bits() == 5 { 4 } else { 0 });
                for (column, quant) in quants.iter_mut().enumerate() {
                    let high = fifth.get(column / 8).map_or(0, |byte| (byte >> (column % 8)) & 1);
                    *quant = nibble(low[column % 16], column >= 16) | (high << 4);
                }
                if self.has_min() {
                    out.min = pair(2);
                }
            }
            Self::Q4K | Self::Q5K => {
                let fifth = if self == Self::Q5K { &block[16..48] } else { &[] };
                let low = &block[16 + fifth.len()..][part / 2 * BLOCK..];
                for (column, quant) in quants.iter_mut().enumerate() {
                    let high = fifth.get(column).map_or(0, |byte| (byte >> part) & 1);
                    *quant = nibble(low[column], part % 2 == 1) | (high << 4);
                }
                let [scale, min] = six_bits(&block[4..16], part);
                // the format subtracts the minimum, the kernels add it: flip the sign bit of the
                // f16
                out.min = [block[2], block[3] ^ 0x80];
                (out.scale_times, out.min_times) = ([scale; 2], min);
            }
            Self::Q6K => {
                // two halves of 128 columns, in each of which four groups of 32 share bytes
                let (half, quarter) = (part / 4, part % 4);
                let low = &block[half * 64 + quarter % 2 * BLOCK..];
                let high = &block[128 + half * BLOCK..];
                for (column, quant) in quants.iter_mut().enumerate() {
                    *quant = nibble(low[column], quarter >= 2)
                        | (((high[column] >> (2 * quarter)) & 3) << 4);
                }
                out.scale = pair(208);
                out.scale_times = [block[192 + 2 * part], block[192 + 2 * part + 1]];
            }
        }
        out
    }
}

/// Unpacks the scale and minimum of a block of Q4_K or Q5_K: twelve bytes hold eight of each, with
/// 6 bits.
fn six_bits(bytes: &[u8], part: usize) -> [u8; 2] {
    if part < 4 {
        [bytes[part] & 63, bytes[part + 4] & 63]
    } else {
        let both = bytes[part + 4];
        [(both & 15) | (bytes[part - 4] >> 6 << 4), (both >> 4) | (bytes[part] >> 6 << 4)]
    }
}

/// An unpacked block of [`BLOCK`] columns of one row.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Unsigned quants, before [`BlockKind::offset`] is subtracted.
    pub quants: [u8; BLOCK],
    /// Scale in f16, little endian.
    pub scale: [u8; 2],
    /// Minimum in f16, little endian.
    pub min: [u8; 2],
    /// Integer factor of the super-block's scale for each half.
    pub scale_times: [u8; 2],
    /// Integer factor of the super-block's minimum.
    pub min_times: u8,
}

/// A block type as a compile-time parameter of a kernel.
pub(super) trait Kind {
    const KIND: BlockKind;
    const BITS: usize = Self::KIND.bits();
    const OFFSET: i32 = Self::KIND.offset();
    const MIN: bool = Self::KIND.has_min();
    const TWO_LEVELS: bool = Self::KIND.two_levels();
    const HALVES: bool = Self::KIND.halves();
}

/// One marker type per block type.
pub(super) mod known {
    macro_rules! known {
        ($($kind:ident)*) => {$(
            #[allow(non_camel_case_types, reason = "names of the GGUF format")]
            pub(in super::super) struct $kind;

            impl super::Kind for $kind {
                const KIND: super::BlockKind = super::BlockKind::$kind;
            }
        )*};
    }
    known!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4K Q5K Q6K);
}

/// Evaluates `$body` with `$K` as the marker type of `$kind`.
macro_rules! for_kind {
    ($kind:expr, $K:ident => $body:expr) => {
        for_kind!(@ $kind, $K => $body, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4K Q5K Q6K)
    };
    (@ $kind:expr, $K:ident => $body:expr, $($each:ident)*) => {
        match $kind {
            $($crate::kernels::blocks::BlockKind::$each => {
                type $K = $crate::kernels::blocks::known::$each;
                $body
            })*
        }
    };
}
pub(super) use for_kind;

/// Random blocks for tests, and a reference dequantisation.
#[cfg(test)]
pub(super) mod samples {
    use half::f16;
    use rand::Rng;
    use rand::rngs::StdRng;

    use super::BlockKind;

    /// Random blocks of a GGUF tensor `[rows, columns]`.
    pub(in super::super) fn blocks(
        random: &mut StdRng,
        kind: BlockKind,
        rows: usize,
        columns: usize,
    ) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..rows * columns / kind.file_columns() * kind.file_bytes())
            .map(|_| random.random::<u8>())
            .collect();
        for block in bytes.chunks_exact_mut(kind.file_bytes()) {
            let mut number = |at: usize| {
                block[at..at + 2]
                    .copy_from_slice(&f16::from_f32(random.random_range(-0.1..0.1)).to_le_bytes())
            };
            number(if kind == BlockKind::Q6K { 208 } else { 0 });
            if kind.has_min() {
                number(2);
            }
        }
        bytes
    }

    /// Dequantises blocks in the way of ggml's `dequantize_row_*`.
    pub(in super::super) fn plain(kind: BlockKind, blocks: &[u8]) -> Vec<f32> {
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let nibbles = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4)).collect()
        };
        let one = |block: &[u8]| -> Vec<f32> {
            let scale = half(block);
            match kind {
                BlockKind::Q8_0 => {
                    block[2..].iter().map(|quant| f32::from(*quant as i8) * scale).collect()
                }
                BlockKind::Q4_0 => nibbles(&block[2..])
                    .iter()
                    .map(|quant| (f32::from(*quant) - 8.0) * scale)
                    .collect(),
                BlockKind::Q4_1 => nibbles(&block[4..])
                    .iter()
                    .map(|quant| f32::from(*quant) * scale + half(&block[2..]))
                    .collect(),
                BlockKind::Q5_0 | BlockKind::Q5_1 => {
                    let start = if kind == BlockKind::Q5_1 { 4 } else { 2 };
                    let fifth = u32::from_le_bytes(block[start..start + 4].try_into().unwrap());
                    let quants = nibbles(&block[start + 4..]).into_iter().enumerate();
                    let quants = quants
                        .map(|(column, low)| f32::from(low | ((fifth >> column & 1) as u8) << 4));
                    quants
                        .map(|quant| {
                            if kind == BlockKind::Q5_1 {
                                quant * scale + half(&block[2..])
                            } else {
                                (quant - 16.0) * scale
                            }
                        })
                        .collect()
                }
                BlockKind::Q4K | BlockKind::Q5K => {
                    let (packed, mut values) = (&block[4..16], Vec::new());
                    for part in 0..8 {
                        // get_scale_min_k4
                        let (times, least) = if part < 4 {
                            (packed[part] & 63, packed[part + 4] & 63)
                        } else {
                            (
                                (packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4,
                                (packed[part + 4] >> 4) | (packed[part] >> 6) << 4,
                            )
                        };
                        let (scale, least) =
                            (scale * f32::from(times), half(&block[2..]) * f32::from(least));
                        let low = &block[if kind == BlockKind::Q5K { 48 } else { 16 }..]
                            [part / 2 * 32..][..32];
                        for (column, byte) in low.iter().enumerate() {
                            let low = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
                            let fifth = if kind == BlockKind::Q5K {
                                block[16 + column] >> part & 1
                            } else {
                                0
                            };
                            values.push(scale * f32::from(low + 16 * fifth) - least);
                        }
                    }
                    values
                }
                BlockKind::Q6K => {
                    let mut values = vec![0.0; 256];
                    for half_block in 0..2 {
                        let (low, high) =
                            (&block[64 * half_block..], &block[128 + 32 * half_block..]);
                        let times = &block[192 + 8 * half_block..];
                        for at in 0..32 {
                            let quants = [
                                (low[at] & 15) | (high[at] & 3) << 4,
                                (low[at + 32] & 15) | (high[at] >> 2 & 3) << 4,
                                (low[at] >> 4) | (high[at] >> 4 & 3) << 4,
                                (low[at + 32] >> 4) | (high[at] >> 6 & 3) << 4,
                            ];
                            for (quarter, quant) in quants.into_iter().enumerate() {
                                let scale = half(&block[208..])
                                    * f32::from(times[2 * quarter + at / 16] as i8);
                                values[128 * half_block + 32 * quarter + at] =
                                    scale * (f32::from(quant) - 32.0);
                            }
                        }
                    }
                    values
                }
            }
        };
        blocks.chunks_exact(kind.file_bytes()).flat_map(one).collect()
    }
}
