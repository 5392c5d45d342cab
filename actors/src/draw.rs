//! Draws that a seed repeats, on every machine and in every release.

use sha2::{Digest, Sha256};

/// A number in [0, 1). With a seed it follows from the first eight bytes of the SHA-256 of the seed
/// and the texts, each after its length, so that the same request gives the same draw.
pub(crate) fn draw(seed: Option<u64>, texts: &[&str]) -> f64 {
    let bits: u64 = match seed {
        None => rand::random(),
        Some(seed) => {
            let mut hasher = Sha256::new();
            hasher.update(seed.to_be_bytes());
            for text in texts {
                hasher.update((text.len() as u64).to_be_bytes());
                hasher.update(text.as_bytes());
            }
            hasher.finalize().iter().take(8).fold(0, |bits, byte| (bits << 8) | u64::from(*byte))
        }
    };
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_the_draw_and_its_value_is_fixed() {
        // computed by Python's hashlib
        for (seed, texts, expected) in [
            (7, &["Will it rain?"][..], 0.9067561817370801),
            (7, &["Will it", " rain?"], 0.13023658631437351),
            (0, &[], 0.6848974799809221),
        ] {
            assert_eq!(
                draw(Some(seed), texts).to_bits(),
                f64::to_bits(expected),
                "{seed} {texts:?}"
            );
        }
        let free: Vec<f64> = (0..1000).map(|_| draw(None, &["Will it rain?"])).collect();
        assert!(free.iter().all(|u| (0.0..1.0).contains(u)) && free.iter().any(|u| *u != free[0]));
        let mean = (0..1000).map(|seed| draw(Some(seed), &["a"])).sum::<f64>() / 1e3;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
    }
}
