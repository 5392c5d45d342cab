//! Error of a quantised model against a more exact copy of it, position by position over the same
//! tokens.

/// A margin between the exact copy's two best logits below which its top token is not significant.
pub const CLEAR: f32 = 0.3;

/// Sums over the compared positions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QuantizationError {
    /// Number of positions compared.
    pub places: usize,
    /// Positions where the exact copy's top token leads by at least [`CLEAR`].
    pub clear: usize,
    /// Of those, the positions where both have the same top token.
    pub agreed: usize,
    kl: f64,
    exact_nll: f64,
    found_nll: f64,
}

impl QuantizationError {
    /// Compares two rows of logits that predict the token `next`.
    pub fn observe(&mut self, exact: &[f32], found: &[f32], next: u32) {
        let (best, second) = two_best(exact);
        let (exact_norm, found_norm) = (log_sum_exp(exact), log_sum_exp(found));
        self.places += 1;
        if exact[best] - second >= CLEAR {
            self.clear += 1;
            self.agreed += usize::from(two_best(found).0 == best);
        }
        let logprobs = exact
            .iter()
            .zip(found)
            .map(|(p, q)| (f64::from(*p) - exact_norm, f64::from(*q) - found_norm));
        self.kl += logprobs.map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        self.exact_nll -= f64::from(exact[next as usize]) - exact_norm;
        self.found_nll -= f64::from(found[next as usize]) - found_norm;
    }

    /// The fraction of clear positions with the same top token.
    pub fn agreement(&self) -> f64 {
        self.agreed as f64 / self.clear.max(1) as f64
    }

    /// Mean Kullback-Leibler divergence from the exact distribution, in nats.
    pub fn mean_kl(&self) -> f64 {
        self.kl / self.places.max(1) as f64
    }

    /// Perplexities of the tokens: under the exact copy, and under the other.
    pub fn perplexities(&self) -> (f64, f64) {
        let of = |nll: f64| (nll / self.places.max(1) as f64).exp();
        (of(self.exact_nll), of(self.found_nll))
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln()
}

/// The index of the largest value, and the second-largest value.
fn two_best(logits: &[f32]) -> (usize, f32) {
    let (mut best, mut value, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (place, &logit) in logits.iter().enumerate() {
        if logit > value {
            (best, second, value) = (place, value, logit);
        } else if logit > second {
            second = logit;
        }
    }
    (best, second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogitRows, Segment};
    use crate::testing::default_model;
    use crate::{Device, Llama, ModelFiles, Quantisation, Text};

    #[test]
    fn quantization_errors_match_a_direct_computation() {
        let mut quantization_error = QuantizationError::default();
        quantization_error.observe(&[1.0, 0.0, -1.0], &[1.0, 0.0, -1.0], 0);
        assert_eq!(
            (quantization_error.places, quantization_error.clear, quantization_error.agreed),
            (1, 1, 1)
        );
        assert!(quantization_error.mean_kl().abs() < 1e-12);
        quantization_error.observe(&[1.0, 0.9, -1.0], &[0.0, 1.0, 0.0], 1);
        quantization_error.observe(&[3.0, 0.0, 0.0], &[0.0, 1.0, 0.0], 0);
        assert_eq!(
            (quantization_error.places, quantization_error.clear, quantization_error.agreed),
            (3, 2, 1)
        );
        let (exact, found) = quantization_error.perplexities();
        assert!(quantization_error.mean_kl() > 0.3 && found > exact, "{quantization_error:?}");
    }

    /// `make accuracy` does the same over prompts of the evaluation data.
    #[test]
    fn int8_activations_over_repacked_weights_predict_what_the_same_weights_in_f32_do() {
        let files = ModelFiles::open(&default_model()).unwrap();
        let text =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE")).unwrap();
        let tokens = Text::load(&files).unwrap().encode(&text).unwrap();
        let tokens = &tokens[..384];
        let logits = |quantisation| {
            let model = Llama::load(&files, quantisation, &Device::Cpu).unwrap();
            let mut kv = model.new_cache();
            let mut batch =
                [Segment { tokens, kv: &mut kv, adapter: None, logits: LogitRows::All }];
            model.forward(&mut batch).unwrap().to_vec2::<f32>().unwrap()
        };
        let mut quantization_error = QuantizationError::default();
        for ((exact, found), next) in
            logits(Quantisation::F32).iter().zip(&logits(Quantisation::None)).zip(&tokens[1..])
        {
            quantization_error.observe(exact, found, *next);
        }
        let (exact, found) = quantization_error.perplexities();
        assert!(
            quantization_error.clear > 200 && quantization_error.agreement() >= 0.995,
            "{quantization_error:?}"
        );
        assert!(
            quantization_error.mean_kl() <= 0.005 && (found / exact - 1.0).abs() <= 0.005,
            "{exact} and {found}: {quantization_error:?}"
        );
    }
}
