//! Quantised weights, repacked into panels.

use half::f16;

use super::BlockKind;
use super::blocks::SUPER;
use super::isa::{BLOCK, PANEL};

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; LINE]);

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

pub(super) fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 initialised bytes without padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), lines.len() * LINE) }
}

pub(super) fn bytes_of_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as above, and every byte value is valid in a line.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), lines.len() * LINE) }
}

/// A weight `[rows, columns]` in panels of [`PANEL`] rows. A panel holds the quants of all its
/// blocks, then their high bits, scales and minima:
///
/// - quants of a block: for every four columns, four bytes per row. They are stored unsigned (with
///   `BlockKind::offset` added), since the dot-product instructions need one unsigned operand.
///   With less than 8 bits, the low half of a byte holds the low four bits of column `c` and the
///   high half those of column `c + 16`, as in GGUF;
/// - high bits: four bytes per row; byte `b` holds the bits of columns `4n + b`. With 5 bits, bit
///   `n` of byte `b` is the fifth bit of column `4n + b`. With 6 bits there are two such groups,
///   one for each half of the columns, with two bits per column;
/// - scales (and minima): one f16 per row. With two levels, the super-block's f16 of each row, then
///   for each of its blocks (or half blocks) one byte per row, the integer factor.
///
/// Rows that the last panel lacks have scale 0.
#[derive(Debug)]
pub struct PackedMatrix {
    kind: BlockKind,
    rows: usize,
    columns: usize,
    layout: Layout,
    lines: Vec<Line>,
    /// Blocks per chunk: each chunk is summed separately, then added to the sum of those before.
    pub(super) chunk: usize,
}

/// Offsets of a panel's parts, in bytes.
#[derive(Debug, Clone, Copy)]
struct Layout {
    high: usize,
    scales: usize,
    minima: usize,
    /// Cache lines of one panel.
    stride: usize,
}

impl Layout {
    fn new(kind: BlockKind, blocks: usize) -> Self {
        let high = blocks * kind.low_bytes();
        let scales = high + blocks * kind.high_bytes();
        let minima = scales + kind.numbers_bytes(blocks, kind.halves());
        let end = if kind.has_min() { minima + kind.numbers_bytes(blocks, false) } else { minima };
        Self { high, scales, minima, stride: end.div_ceil(LINE) }
    }
}

/// Sizes of the parts of a panel, in bytes.
impl BlockKind {
    /// Bytes of a block's quants without their high bits.
    pub(super) const fn low_bytes(self) -> usize {
        if self.bits() == 8 { BLOCK * PANEL } else { BLOCK / 2 * PANEL }
    }

    /// Bytes of a block's high bits.
    pub(super) const fn high_bytes(self) -> usize {
        if self.bits() == 8 { 0 } else { (self.bits() - 4) * BLOCK / 8 * PANEL }
    }

    /// Bytes from one super-block's scales to the next; `halves`: each half of a block has its own
    /// scale.
    pub(super) const fn super_bytes(halves: bool) -> usize {
        2 * PANEL + SUPER * PANEL * if halves { 2 } else { 1 }
    }

    const fn numbers_bytes(self, blocks: usize, halves: bool) -> usize {
        if self.two_levels() {
            blocks.div_ceil(SUPER) * Self::super_bytes(halves)
        } else {
            blocks * 2 * PANEL
        }
    }

    /// Bytes of a block with its high bits, scales and minima (averaged over a super-block): the
    /// amount of a panel that is read per block.
    pub(super) const fn panel_bytes(self) -> usize {
        (SUPER * (self.low_bytes() + self.high_bytes())
            + self.numbers_bytes(SUPER, self.halves())
            + if self.has_min() { self.numbers_bytes(SUPER, false) } else { 0 })
            / SUPER
    }
}

/// The parts of one panel.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// Low bits of the quants of all blocks.
    pub quants: &'a [u8],
    /// High bits of the quants of all blocks.
    pub high: &'a [u8],
    /// Scales: little-endian f16, and integer factors if there are two levels.
    pub scales: &'a [u8],
    /// Minima, laid out like the scales.
    pub minima: &'a [u8],
}

impl PackedMatrix {
    /// Repacks the blocks of a GGUF tensor, in row-major order.
    ///
    /// `chunks` is the number of equal column ranges whose sums are added left to right: a
    /// row-parallel layer then returns bit-identical sums whether one shard computes it or several.
    ///
    /// # Panics
    /// When `blocks` does not hold `[rows, columns]`, or `chunks` does not divide the blocks of a
    /// row.
    pub fn pack(
        kind: BlockKind,
        rows: usize,
        columns: usize,
        blocks: &[u8],
        chunks: usize,
    ) -> Self {
        assert!(columns.is_multiple_of(kind.file_columns()), "whole blocks");
        let (per_row, size) = (columns / BLOCK, kind.file_bytes());
        let row_bytes = columns / kind.file_columns() * size;
        assert_eq!(blocks.len(), rows * row_bytes, "bytes of the tensor");
        assert!(chunks > 0 && per_row.is_multiple_of(chunks), "equal chunks");
        let layout = Layout::new(kind, per_row);
        let mut lines = vec![Line([0; LINE]); layout.stride * rows.div_ceil(PANEL)];
        let parts = kind.file_columns() / BLOCK;
        for (row, file) in blocks.chunks_exact(row_bytes.max(1)).enumerate() {
            let panel = &mut lines[row / PANEL * layout.stride..][..layout.stride];
            let mut panel =
                PanelMut { kind, layout, bytes: bytes_of_mut(panel), lane: row % PANEL };
            for (at, file) in file.chunks_exact(size).enumerate() {
                (0..parts).for_each(|part| panel.put(at * parts + part, file, part));
            }
        }
        Self { kind, rows, columns, layout, lines, chunk: per_row / chunks }
    }

    /// Block type of the weight.
    pub fn kind(&self) -> BlockKind {
        self.kind
    }

    /// Number of output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of input columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    /// Number of equal column ranges that are summed separately.
    pub fn chunks(&self) -> usize {
        self.blocks() / self.chunk
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.layout.stride * LINE
    }

    /// Address of a panel's first byte, or of the end of the last panel.
    pub(super) fn start(&self, panel: usize) -> *const u8 {
        self.lines.as_ptr().wrapping_add(panel * self.layout.stride).cast()
    }

    /// Number of existing output rows of a panel.
    pub(super) fn rows_of(&self, panel: usize) -> usize {
        (self.rows - panel * PANEL).min(PANEL)
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let Layout { high, scales, minima, stride } = self.layout;
        let bytes = bytes_of(&self.lines[panel * stride..(panel + 1) * stride]);
        Panel {
            quants: &bytes[..high],
            high: &bytes[high..scales],
            scales: &bytes[scales..minima],
            minima: &bytes[minima..],
        }
    }

    /// Dequantises one row into `into`, `[columns]`: for embedding lookup.
    ///
    /// # Panics
    /// When the row does not exist, or `into` has another size.
    pub fn dequantise_row(&self, row: usize, into: &mut [f32]) {
        assert!(row < self.rows && into.len() == self.columns, "a row of the matrix");
        let (panel, lane, kind) = (self.panel(row / PANEL), row % PANEL, self.kind);
        for (block, into) in into.chunks_exact_mut(BLOCK).enumerate() {
            let scales = panel.scales(kind, block, lane);
            let min = panel.min(kind, block, lane);
            for (column, (value, quant)) in
                into.iter_mut().zip(panel.quants_of(kind, block, lane)).enumerate()
            {
                *value =
                    (i32::from(quant) - kind.offset()) as f32 * scales[column / (BLOCK / 2)] + min;
            }
        }
    }
}

/// Position of the high bits of a block's column: the byte offset (for lane 0), and the shift
/// within the byte.
#[inline(always)]
fn high_place(kind: BlockKind, column: usize) -> (usize, usize) {
    let (four, bits) = (column / 4, kind.bits() - 4);
    // groups of four columns that share a byte
    let room = 8 / bits;
    (four / room * PANEL * 4 + column % 4, four % room * bits)
}

/// Byte offsets of a super-block's f16 and of a block's integer factor, both for lane 0.
pub(super) const fn two_levels_at(block: usize, halves: bool, half: usize) -> (usize, usize) {
    let start = block / SUPER * BlockKind::super_bytes(halves);
    let per_block = if halves { 2 } else { 1 };
    (start, start + 2 * PANEL + (block % SUPER * per_block + half) * PANEL)
}

/// One row of a panel that is being written.
struct PanelMut<'a> {
    kind: BlockKind,
    layout: Layout,
    bytes: &'a mut [u8],
    lane: usize,
}

impl PanelMut<'_> {
    /// Writes the block at index `part` of a file's block.
    fn put(&mut self, block: usize, file: &[u8], part: usize) {
        let (kind, lane, Layout { high, scales, minima, .. }) = (self.kind, self.lane, self.layout);
        let unpacked = kind.unpack(file, part);
        let stored = kind.low_bytes() / PANEL;
        for (column, quant) in unpacked.quants.iter().enumerate() {
            let at =
                block * kind.low_bytes() + column % stored / 4 * PANEL * 4 + lane * 4 + column % 4;
            self.bytes[at] |= match (kind.bits(), column < stored) {
                (8, _) => *quant,
                (_, true) => quant & 15,
                (_, false) => quant << 4,
            };
            if kind.high_bytes() > 0 {
                let (at, shift) = high_place(kind, column);
                self.bytes_at(high + block * kind.high_bytes() + at + lane * 4)[0] |=
                    quant >> 4 << shift;
            }
        }
        if !kind.two_levels() {
            self.bytes_at(scales + (block * PANEL + lane) * 2)[..2]
                .copy_from_slice(&unpacked.scale);
            if kind.has_min() {
                self.bytes_at(minima + (block * PANEL + lane) * 2)[..2]
                    .copy_from_slice(&unpacked.min);
            }
            return;
        }
        for (half, times) in
            unpacked.scale_times[..if kind.halves() { 2 } else { 1 }].iter().enumerate()
        {
            let (whole, byte) = two_levels_at(block, kind.halves(), half);
            self.bytes_at(scales + whole + lane * 2)[..2].copy_from_slice(&unpacked.scale);
            self.bytes_at(scales + byte + lane)[0] = *times;
        }
        if kind.has_min() {
            let (whole, byte) = two_levels_at(block, false, 0);
            self.bytes_at(minima + whole + lane * 2)[..2].copy_from_slice(&unpacked.min);
            self.bytes_at(minima + byte + lane)[0] = unpacked.min_times;
        }
    }

    fn bytes_at(&mut self, at: usize) -> &mut [u8] {
        &mut self.bytes[at..]
    }
}

impl Panel<'_> {
    /// A row's stored (unsigned) quants of a block, before the offset is subtracted.
    #[inline(always)]
    pub(super) fn quants_of(&self, kind: BlockKind, block: usize, lane: usize) -> [u8; BLOCK] {
        let mut quants = [0; BLOCK];
        let own = &self.quants[block * kind.low_bytes()..(block + 1) * kind.low_bytes()];
        let high = &self.high[block * kind.high_bytes()..(block + 1) * kind.high_bytes()];
        let fours = own.chunks_exact(PANEL * 4).map(|four| &four[lane * 4..lane * 4 + 4]);
        if kind.bits() == 8 {
            fours
                .zip(quants.chunks_exact_mut(4))
                .for_each(|(four, quants)| quants.copy_from_slice(four));
            return quants;
        }
        let (first, second) = quants.split_at_mut(BLOCK / 2);
        for (four, (first, second)) in
            fours.zip(first.chunks_exact_mut(4).zip(second.chunks_exact_mut(4)))
        {
            for (byte, (first, second)) in four.iter().zip(first.iter_mut().zip(second)) {
                (*first, *second) = (byte & 15, byte >> 4);
            }
        }
        if kind.high_bytes() > 0 {
            let mask = (1 << (kind.bits() - 4)) - 1;
            for (column, quant) in quants.iter_mut().enumerate() {
                let (at, shift) = high_place(kind, column);
                *quant |= (high[at + lane * 4] >> shift & mask) << 4;
            }
        }
        quants
    }

    /// The scales of a block's two halves.
    pub(super) fn scales(&self, kind: BlockKind, block: usize, lane: usize) -> [f32; 2] {
        if !kind.two_levels() {
            return [half_at(self.scales, block * PANEL + lane); 2];
        }
        [0, 1].map(|half| {
            let (whole, byte) =
                two_levels_at(block, kind.halves(), if kind.halves() { half } else { 0 });
            let times = self.scales[byte + lane];
            let times =
                if kind.halves() { f32::from(times.cast_signed()) } else { f32::from(times) };
            half_at(&self.scales[whole..], lane) * times
        })
    }

    /// The minimum of a block, which is added to each of its values; 0 if there is none.
    pub(super) fn min(&self, kind: BlockKind, block: usize, lane: usize) -> f32 {
        match (kind.has_min(), kind.two_levels()) {
            (false, _) => 0.0,
            (true, false) => half_at(self.minima, block * PANEL + lane),
            (true, true) => {
                let (whole, byte) = two_levels_at(block, false, 0);
                half_at(&self.minima[whole..], lane) * f32::from(self.minima[byte + lane])
            }
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32()
}
