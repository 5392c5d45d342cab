//! Random inputs for tests. A failure prints the seed; `NYX_TEST_SEED` replays it.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::gate::random::SplitMix;

pub(crate) struct TestRng {
    pub(crate) seed: u64,
    state: SplitMix,
}

impl TestRng {
    pub(crate) fn new() -> Self {
        let given = std::env::var("NYX_TEST_SEED")
            .ok()
            .map(|seed| seed.parse().expect("NYX_TEST_SEED is a whole number"));
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        println!("NYX_TEST_SEED={seed}");
        Self { seed, state: SplitMix(seed) }
    }

    /// A fixed seed, for simulations that are tested statistically.
    pub(crate) fn of(seed: u64) -> Self {
        Self { seed, state: SplitMix(seed) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state.next()
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.state.below(bound)
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Up to `longest` characters of the alphabet.
    pub(crate) fn text(&mut self, longest: usize, alphabet: &[char]) -> String {
        (0..self.below(longest + 1)).map(|_| alphabet[self.below(alphabet.len())]).collect()
    }

    /// Up to `longest` characters of all of Unicode, half of them ASCII.
    pub(crate) fn unicode(&mut self, longest: usize) -> String {
        let any = |random: &mut Self| {
            let code =
                if random.below(2) == 0 { random.below(0x80) } else { random.below(0x11_0000) };
            char::from_u32(code as u32).unwrap_or('\u{fffd}')
        };
        (0..self.below(longest + 1)).map(|_| any(self)).collect()
    }
}
