//! The choice among candidates: `logit_i = scale · similarity_i + w_i`, `propensity = (1 - ε)
//! softmax(logits / τ) + ε / n`, drawn by the propensities.

use nyx_specialists::bandit::propensities;

/// A choice among `n` candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// In the order of the candidates; their sum is 1.
    pub propensities: Vec<f64>,
    pub chosen: usize,
}

/// Draws among candidates with these logits, at least one; `u` in [0, 1) is the draw.
pub fn choose(logits: &[f64], temperature: f64, epsilon: f64, u: f64) -> Choice {
    let propensities = propensities(logits, temperature, epsilon);
    let mut left = u;
    for (index, propensity) in propensities.iter().enumerate() {
        left -= propensity;
        if left < 0.0 {
            return Choice { chosen: index, propensities };
        }
    }
    // rounding errors may leave a remainder
    Choice { chosen: propensities.len() - 1, propensities }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propensities_add_up_and_are_never_below_their_floor() {
        let scores = [3.0, -50.0, 0.5, 2.9, 1.0];
        let choice = choose(&scores, 0.5, 0.02, 0.3);
        assert!((choice.propensities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(choice.propensities.iter().all(|p| *p >= 0.02 / 5.0));
        let flat = choose(&scores, 0.5, 1.0, 0.3);
        assert!(flat.propensities.iter().all(|p| (p - 0.2).abs() < 1e-12));
    }

    #[test]
    fn a_higher_logit_raises_its_own_propensity_alone() {
        let before = choose(&[1.0, 1.0, 1.0], 1.0, 0.02, 0.0);
        let after = choose(&[1.0, 3.0, 1.0], 1.0, 0.02, 0.0);
        assert!(after.propensities[1] > before.propensities[1]);
        assert!(
            after.propensities[0] < before.propensities[0]
                && after.propensities[2] < before.propensities[2]
        );
    }

    #[test]
    fn the_draw_follows_the_propensities() {
        let scores = [0.0, 1.0, -1.0];
        let draws = 30_000;
        let mut counts = [0.0; 3];
        let mut propensities = Vec::new();
        for draw in 0..draws {
            let choice = choose(&scores, 1.0, 0.1, (f64::from(draw) + 0.5) / f64::from(draws));
            counts[choice.chosen] += 1.0 / f64::from(draws);
            propensities = choice.propensities;
        }
        for (count, propensity) in counts.iter().zip(&propensities) {
            assert!((count - propensity).abs() < 1e-3);
        }
    }
}
