//! Instruction sets, and the block sizes of packed weights.

/// Columns of a quantisation block, which share a scale.
pub const BLOCK: usize = 32;
/// Output rows interleaved in one panel.
pub const PANEL: usize = 16;

/// Instruction set that a kernel uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each target architecture constructs only some variants")]
pub enum Isa {
    /// AVX-512 with VNNI: 64 int8 products per instruction.
    Avx512Vnni,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// NEON with the dot-product extension, which all but the oldest 64-bit Arm processors have.
    Neon,
    /// Scalar code, for every other processor and as the reference in tests.
    Portable,
}

impl Isa {
    /// Returns the fastest instruction set that this processor supports.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has = |all: &[bool]| all.iter().all(|present| *present);
            if has(&[
                std::arch::is_x86_feature_detected!("avx512f"),
                std::arch::is_x86_feature_detected!("avx512bw"),
                std::arch::is_x86_feature_detected!("avx512vnni"),
            ]) {
                return Self::Avx512Vnni;
            }
            if has(&[
                std::arch::is_x86_feature_detected!("avx2"),
                std::arch::is_x86_feature_detected!("fma"),
                std::arch::is_x86_feature_detected!("f16c"),
            ]) {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod")
        {
            return Self::Neon;
        }
        Self::Portable
    }

    /// Returns all instruction sets that this processor supports, the fastest first.
    #[cfg(any(test, feature = "bench"))]
    pub fn available() -> Vec<Self> {
        match Self::detect() {
            Self::Avx512Vnni => vec![Self::Avx512Vnni, Self::Avx2, Self::Portable],
            Self::Avx2 => vec![Self::Avx2, Self::Portable],
            Self::Neon => vec![Self::Neon, Self::Portable],
            Self::Portable => vec![Self::Portable],
        }
    }
}
