//! A Llama model's shape.

/// Read from `config.json` or GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: `heads / kv_heads` query heads share one (GQA).
    pub kv_heads: usize,
    /// Dimension of a head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// The context window in tokens.
    pub context_length: usize,
    /// Epsilon of the RMSNorms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The output layer is the embedding.
    pub tied: bool,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Pairs are neighbours (GGUF's row order of q and k), not halves (Hugging Face's).
    pub interleaved: bool,
    /// Scaling of the frequencies, if any.
    pub scaling: Option<Llama3Scaling>,
}

/// Llama 3.1's stretching of low frequencies (`rope_type = "llama3"`).
#[derive(Debug, Clone, PartialEq)]
pub struct Llama3Scaling {
    /// Factor by which low frequencies are stretched.
    pub factor: f32,
    /// Wavelengths above `original_context` / this are stretched.
    pub low_freq_factor: f32,
    /// Wavelengths below `original_context` / this are kept.
    pub high_freq_factor: f32,
    /// The context length before the scaling, in tokens.
    pub original_context: usize,
}

impl ModelConfig {
    /// What is wrong with the shape, if anything.
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
    /// Whether rows and heads are whole vectors and blocks, as the CPU kernels need them.
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
    /// The inverse frequency of each pair, `[head_dim / 2]`, divided by the file's own `factors`
    /// where it brings them.
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
    /// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
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
