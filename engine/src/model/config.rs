//! Configuration of a Llama model.

/// Configuration of a Llama model, read from `config.json` or GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Inner width of the MLP.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key-value heads: `heads / kv_heads` query heads share one (GQA).
    pub kv_heads: usize,
    /// Dimension of a head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Context window in tokens.
    pub context_length: usize,
    /// Epsilon of RMSNorm.
    pub norm_eps: f32,
    /// Parameters of the rotary position embedding.
    pub rope: Rope,
    /// Whether the output layer uses the embedding matrix.
    pub tied: bool,
}

/// Parameters of the rotary position embedding (RoPE).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Rotated pairs are adjacent rows of q and k (GGUF's order), not rows of the two halves
    /// (Hugging Face's order).
    pub interleaved: bool,
    /// Scaling of the frequencies, if any.
    pub scaling: Option<Llama3Scaling>,
}

/// Llama 3.1's scaling of low frequencies (`rope_type = "llama3"`).
#[derive(Debug, Clone, PartialEq)]
pub struct Llama3Scaling {
    /// Factor by which low frequencies are divided.
    pub factor: f32,
    /// Wavelengths above `original_context / low_freq_factor` are scaled by `factor`.
    pub low_freq_factor: f32,
    /// Wavelengths below `original_context / high_freq_factor` are unchanged.
    pub high_freq_factor: f32,
    /// Context length before scaling, in tokens.
    pub original_context: usize,
}

impl ModelConfig {
    /// Returns a description of the first invalid dimension.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let positive = [
            ("hidden size", self.hidden),
            ("intermediate size", self.intermediate),
            ("layer count", self.layers),
            ("head count", self.heads),
            ("key-value head count", self.kv_heads),
            ("head size", self.head_dim),
            ("vocabulary", self.vocabulary),
            ("context length", self.context_length),
        ];
        if let Some((what, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("its {what} is 0"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} heads cannot share {} key-value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("its head size is {}, expected an even number", self.head_dim));
        }
        Ok(())
    }
}

impl ModelConfig {
    /// Whether the CPU kernels support this shape: rows are whole blocks of 32, heads whole vectors
    /// of 16.
    pub(crate) fn suits_kernels(&self) -> bool {
        let rows = [
            self.hidden,
            self.intermediate,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        ];
        rows.iter().all(|row| row.is_multiple_of(crate::kernels::BLOCK))
            && self.head_dim.is_multiple_of(16)
    }
}

impl Rope {
    /// The inverse frequency of each pair, `[head_dim / 2]`, divided by the model file's `factors`
    /// if it has them.
    pub(crate) fn inverse_frequencies(&self, head_dim: usize, factors: Option<&[f32]>) -> Vec<f32> {
        let pairs = head_dim / 2;
        let plain = (0..pairs).map(|pair| self.theta.powf(-((2 * pair) as f32) / head_dim as f32));
        let scaled = plain.map(|frequency| {
            self.scaling.as_ref().map_or(frequency, |scaling| scaling.scale(frequency))
        });
        match factors {
            Some(factors) => {
                scaled.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
            None => scaled.collect(),
        }
    }
}

impl Llama3Scaling {
    /// Scales long wavelengths by `factor`, keeps short ones, and interpolates between them.
    fn scale(&self, frequency: f32) -> f32 {
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        let context = self.original_context as f32;
        let (low, high) = (context / self.low_freq_factor, context / self.high_freq_factor);
        if wavelength < high {
            frequency
        } else if wavelength > low {
            frequency / self.factor
        } else {
            let smooth = (context / wavelength - self.low_freq_factor)
                / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}
