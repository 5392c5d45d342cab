//! Instruction sets, and the block sizes of packed weights.

/// Columns that share a scale.
pub const BLOCK: usize = 32;
/// Output rows that stand side by side.
pub const PANEL: usize = 16;

/// Which instructions to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "no processor has all of them")]
pub enum Isa {
    /// AVX-512 with VNNI: 64 products an instruction.
    Avx512Vnni,
    Avx2,
    /// With dot products, which all but the oldest 64-bit Arm processors have.
    Neon,
    Portable,
}

impl Isa {
    /// The best that this processor has.
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

    /// Those that this processor has, the best first.
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
