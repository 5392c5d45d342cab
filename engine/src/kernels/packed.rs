//! Weights, repacked.

use half::f16;

use super::BlockKind;
use super::blocks::SUPER;
use super::isa::{BLOCK, PANEL};

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; LINE]);

pub(super) const LINE: usize = 64;

pub(super) fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 initialised bytes without padding, and bytes may stand anywhere.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), lines.len() * LINE) }
}

pub(super) fn bytes_of_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as above, and any byte is one.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), lines.len() * LINE) }
}

/// A weight `[rows, columns]` in panels of [`PANEL`] rows. A panel is all its blocks' quants, then
/// their further bits, scales and minima:
///
/// - quants of a block: of each four columns, four bytes of each row, plus what makes them not
///   negative, since dot products want one side unsigned. With less than 8 bits, a byte holds the
///   low four of column `c` in its low and those of column `c + 16` in its high half, as GGUF has
///   them;
/// - further bits: a byte of each row and four columns, for every fourth column. Bit `n` is the
///   fifth of the `n`-th four columns; of two more bits there are such bytes for the first half of
///   the columns, then for the second, two bits each;
/// - scales (and minima): f16 of each row. Where there are two levels, a super-block's f16 of each
///   row, then of each of its blocks (or their halves) a byte of each row that it is multiplied
///   with.
///
/// Rows that are missing from the last panel have scale 0.
#[derive(Debug)]
pub struct PackedMatrix {
    kind: BlockKind,
    rows: usize,
    columns: usize,
    layout: Layout,
    lines: Vec<Line>,
    /// Blocks per chunk: a chunk is summed by itself before it is added to those before.
    pub(super) chunk: usize,
}

/// Where the parts of a panel begin, in bytes.
#[derive(Debug, Clone, Copy)]
struct Layout {
    high: usize,
    scales: usize,
    minima: usize,
    /// Lines of one panel.
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

/// Bytes in a panel.
impl BlockKind {
    /// Of a block's quants but for their further bits.
    pub(super) const fn low_bytes(self) -> usize {
        if self.bits() == 8 { BLOCK * PANEL } else { BLOCK / 2 * PANEL }
    }

    /// Of a block's further bits.
    pub(super) const fn high_bytes(self) -> usize {
        if self.bits() == 8 { 0 } else { (self.bits() - 4) * BLOCK / 8 * PANEL }
    }

    /// From a super-block's scale to the next's, `halves` telling whether each half of a block has
    /// one.
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

    /// Of a block with all that belongs to it: how far a panel's reading goes on for each.
    pub(super) const fn panel_bytes(self) -> usize {
        (SUPER * (self.low_bytes() + self.high_bytes())
            + self.numbers_bytes(SUPER, self.halves())
            + if self.has_min() { self.numbers_bytes(SUPER, false) } else { 0 })
            / SUPER
    }
}

/// One panel's parts.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub quants: &'a [u8],
    pub high: &'a [u8],
    /// f16, little endian, and bytes
    pub scales: &'a [u8],
    pub minima: &'a [u8],
}

impl PackedMatrix {
    /// Repacks a GGUF tensor's blocks, row after row.
    ///
    /// `chunks` is the number of equal parts of the columns whose sums are added left to right:
    /// what makes a row-parallel layer's sum the same whether one shard computes it or several.
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

    pub fn kind(&self) -> BlockKind {
        self.kind
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    /// Parts of the columns that are added up on their own.
    pub fn chunks(&self) -> usize {
        self.blocks() / self.chunk
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.layout.stride * LINE
    }

    /// Where a panel begins in memory, or where the last one ends.
    pub(super) fn start(&self, panel: usize) -> *const u8 {
        self.lines.as_ptr().wrapping_add(panel * self.layout.stride).cast()
    }

    /// Output rows of a panel that are there.
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

    /// One row in f32, `[columns]`: for embeddings.
    ///
    /// # Panics
    /// When there is no such row, or `into` has another size.
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

/// A panel's place for the further bits of a block's column: the byte (but for the lane's), and how
/// far up its bits are.
#[inline(always)]
fn high_place(kind: BlockKind, column: usize) -> (usize, usize) {
    let (four, bits) = (column / 4, kind.bits() - 4);
    // as many fours as a byte has room for
    let room = 8 / bits;
    (four / room * PANEL * 4 + column % 4, four % room * bits)
}

/// Where a super-block's number stands among those of its kind, and the byte (of the first lane)
/// that it is multiplied with for a block.
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
    /// Writes a block, the one at `part` of a file's block.
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
    /// A row's stored quants of a block, their offset not yet subtracted.
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

    /// What is added to each of a block's values.
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
