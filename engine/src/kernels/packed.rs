//! Weights, repacked.

use half::f16;

use super::{BLOCK, PANEL};

/// GGUF's block types of 32 columns with one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    Q4_0,
    Q4_1,
    Q8_0,
}

impl BlockKind {
    /// Bytes of one block in a GGUF file.
    pub fn file_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }

    /// Bytes of one block's quants.
    pub(super) fn quant_bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 => BLOCK / 2,
            Self::Q8_0 => BLOCK,
        }
    }

    /// What is subtracted from a stored quant to get its value.
    pub(super) fn offset(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q4_1 => 0,
            Self::Q8_0 => 128,
        }
    }

    pub(super) fn has_min(self) -> bool {
        self == Self::Q4_1
    }
}

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; LINE]);

pub(super) const LINE: usize = 64;

pub(super) fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 initialised bytes without padding, and bytes may stand anywhere.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), lines.len() * LINE) }
}

/// A weight `[rows, columns]` in panels of [`PANEL`] rows. A panel is all its blocks' quants, then their scales, then their minima:
///
/// - quants of a block: of each four columns, four bytes of each row. With 4 bits, a byte holds column `c` in its low and column
///   `c + 16` in its high half, as GGUF has them. Q8_0's are stored plus 128, since dot products want one side unsigned;
/// - scales (and minima): f16 of each row.
///
/// Rows that are missing from the last panel have scale 0.
#[derive(Debug)]
pub struct PackedMatrix {
    kind: BlockKind,
    rows: usize,
    columns: usize,
    /// Lines of one panel.
    stride: usize,
    lines: Vec<Line>,
    /// Blocks that are added up on their own before their sum is added to those before.
    pub(super) chunk: usize,
}

/// One panel's parts.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub quants: &'a [u8],
    /// f16, little endian
    pub scales: &'a [u8],
    pub minima: &'a [u8],
}

impl PackedMatrix {
    /// Repacks a GGUF tensor's blocks, row after row.
    ///
    /// `chunks` is the number of equal parts of the columns whose sums are added left to right: what makes a row-parallel layer's sum
    /// the same whether one shard computes it or several.
    ///
    /// # Panics
    /// When `blocks` does not hold `[rows, columns]`, or `chunks` does not divide the blocks of a row.
    pub fn pack(kind: BlockKind, rows: usize, columns: usize, blocks: &[u8], chunks: usize) -> Self {
        assert!(columns.is_multiple_of(BLOCK), "whole blocks");
        let per_row = columns / BLOCK;
        let size = kind.file_bytes();
        assert_eq!(blocks.len(), rows * per_row * size, "bytes of the tensor");
        assert!(chunks > 0 && per_row.is_multiple_of(chunks), "equal chunks");
        let quant_bytes = kind.quant_bytes();
        let scales_at = per_row * quant_bytes * PANEL;
        let minima_at = scales_at + per_row * PANEL * 2;
        let bytes = if kind.has_min() { minima_at + per_row * PANEL * 2 } else { minima_at };
        let stride = bytes.div_ceil(LINE);
        let mut lines = vec![Line([0; LINE]); stride * rows.div_ceil(PANEL)];
        let mut put = |panel: usize, at: usize, byte: u8| lines[panel * stride + at / LINE].0[at % LINE] = byte;
        for (index, block) in blocks.chunks_exact(size).enumerate() {
            let (row, at) = (index / per_row, index % per_row);
            let (panel, lane) = (row / PANEL, row % PANEL);
            let scale_at = scales_at + (at * PANEL + lane) * 2;
            put(panel, scale_at, block[0]);
            put(panel, scale_at + 1, block[1]);
            if kind.has_min() {
                let min_at = minima_at + (at * PANEL + lane) * 2;
                put(panel, min_at, block[2]);
                put(panel, min_at + 1, block[3]);
            }
            let flip = if kind == BlockKind::Q8_0 { 0x80 } else { 0 };
            for (column, quant) in block[size - quant_bytes..].iter().enumerate() {
                put(panel, at * quant_bytes * PANEL + column / 4 * PANEL * 4 + lane * 4 + column % 4, quant ^ flip);
            }
        }
        Self { kind, rows, columns, stride, lines, chunk: per_row / chunks }
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
        self.stride * LINE
    }

    /// Where a panel begins in memory, or where the last one ends.
    pub(super) fn start(&self, panel: usize) -> *const u8 {
        self.lines.as_ptr().wrapping_add(panel * self.stride).cast()
    }

    /// Output rows of a panel that are there.
    pub(super) fn rows_of(&self, panel: usize) -> usize {
        (self.rows - panel * PANEL).min(PANEL)
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let bytes = bytes_of(&self.lines[panel * self.stride..(panel + 1) * self.stride]);
        let (quants, rest) = bytes.split_at(self.blocks() * self.kind.quant_bytes() * PANEL);
        let (scales, rest) = rest.split_at(self.blocks() * PANEL * 2);
        let minima = if self.kind.has_min() { &rest[..scales.len()] } else { &[] };
        Panel { quants, scales, minima }
    }

    /// One row in f32, `[columns]`: for embeddings.
    ///
    /// # Panics
    /// When there is no such row, or `into` has another size.
    pub fn dequantise_row(&self, row: usize, into: &mut [f32]) {
        assert!(row < self.rows && into.len() == self.columns, "a row of the matrix");
        let (panel, lane) = (self.panel(row / PANEL), row % PANEL);
        let number = |bytes: &[u8], block: usize| {
            let at = (block * PANEL + lane) * 2;
            f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
        };
        for (block, into) in into.chunks_exact_mut(BLOCK).enumerate() {
            let scale = number(panel.scales, block);
            let min = if self.kind.has_min() { number(panel.minima, block) } else { 0.0 };
            for (column, value) in into.iter_mut().enumerate() {
                let quant = panel.quant(self.kind, block, lane, column);
                *value = (quant - self.kind.offset()) as f32 * scale + min;
            }
        }
    }
}

impl Panel<'_> {
    /// A stored quant, its offset not yet subtracted.
    pub(super) fn quant(&self, kind: BlockKind, block: usize, lane: usize, column: usize) -> i32 {
        let bytes = kind.quant_bytes();
        let byte = column % bytes;
        let stored = self.quants[block * bytes * PANEL + byte / 4 * PANEL * 4 + lane * 4 + byte % 4];
        match kind {
            BlockKind::Q8_0 => i32::from(stored),
            BlockKind::Q4_0 | BlockKind::Q4_1 => i32::from(if column < bytes { stored & 15 } else { stored >> 4 }),
        }
    }
}
