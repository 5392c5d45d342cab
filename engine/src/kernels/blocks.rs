//! GGUF's block types, and what their blocks hold (as ggml's `ggml-quants.c` lays them out).

use super::isa::BLOCK;

/// GGUF's block types that the kernels multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Blocks of [`BLOCK`] columns in one of GGUF's super-blocks.
pub(super) const SUPER: usize = 8;

impl BlockKind {
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

    /// Of a quant.
    pub(super) const fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
            Self::Q8_0 => 8,
        }
    }

    /// What is subtracted from a stored quant to get its value.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => 0,
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6K => 32,
            Self::Q8_0 => 128,
        }
    }

    /// Whether each block has a number that is added to all its values.
    pub const fn has_min(self) -> bool {
        self.offset() == 0
    }

    /// A block's scale is a whole number times its super-block's f16; its minimum likewise.
    pub(super) const fn two_levels(self) -> bool {
        matches!(self, Self::Q4K | Self::Q5K | Self::Q6K)
    }

    /// A block's halves have a scale each.
    pub(super) const fn halves(self) -> bool {
        matches!(self, Self::Q6K)
    }

    /// Takes the block of [`BLOCK`] columns at `part` out of a file's block. Scales may be
    /// multiplied with whole numbers that Q6_K alone has negative, so that its are signed.
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
                // what is subtracted here is added by the kernels
                out.min = [block[2], block[3] ^ 0x80];
                (out.scale_times, out.min_times) = ([scale; 2], min);
            }
            Self::Q6K => {
                // two times 128 columns, of which each four 32 share bytes
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

/// A scale and a minimum of Q4_K and Q5_K: eight of each, of 6 bits, in twelve bytes.
fn six_bits(bytes: &[u8], part: usize) -> [u8; 2] {
    if part < 4 {
        [bytes[part] & 63, bytes[part + 4] & 63]
    } else {
        let both = bytes[part + 4];
        [(both & 15) | (bytes[part - 4] >> 6 << 4), (both >> 4) | (bytes[part] >> 6 << 4)]
    }
}

/// A block of [`BLOCK`] columns of one row.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Not negative: [`BlockKind::offset`] is to be subtracted.
    pub quants: [u8; BLOCK],
    /// f16, little endian, as is the minimum
    pub scale: [u8; 2],
    pub min: [u8; 2],
    /// What the super-block's scale is multiplied with for each half, and its minimum.
    pub scale_times: [u8; 2],
    pub min_times: u8,
}

/// A block type that is known when a kernel is compiled.
pub(super) trait Kind {
    const KIND: BlockKind;
    const BITS: usize = Self::KIND.bits();
    const OFFSET: i32 = Self::KIND.offset();
    const MIN: bool = Self::KIND.has_min();
    const TWO_LEVELS: bool = Self::KIND.two_levels();
    const HALVES: bool = Self::KIND.halves();
}

/// Each block type as a type.
pub(super) mod known {
    macro_rules! known {
        ($($kind:ident)*) => {$(
            #[allow(non_camel_case_types, reason = "GGUF's names")]
            pub(in super::super) struct $kind;

            impl super::Kind for $kind {
                const KIND: super::BlockKind = super::BlockKind::$kind;
            }
        )*};
    }
    known!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4K Q5K Q6K);
}

/// `$body` with `$K` as the type of `$kind`.
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

/// Blocks for tests, and what they stand for.
#[cfg(test)]
pub(super) mod samples {
    use half::f16;
    use rand::Rng;
    use rand::rngs::StdRng;

    use super::BlockKind;

    /// Blocks of a GGUF tensor.
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

    /// What blocks stand for, one by one as ggml's `dequantize_row_*` have them.
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
