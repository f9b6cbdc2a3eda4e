//! The only randomness. Every draw is a hash of (seed, stage, content), so that it depends neither on threads nor on shards
//! nor on the order in which rows arrive.

use crate::ids::Fingerprint;

/// Draws keyed by what is drawn for.
#[derive(Debug, Clone)]
pub struct Random {
    base: Fingerprint,
}

impl Random {
    /// The randomness of one stage under one seed.
    #[must_use]
    pub fn new(seed: u64, stage: &str) -> Self {
        Self { base: Fingerprint::new("trommel random 1").number(seed).part(stage) }
    }

    /// A uniform number for this content; equal content draws equal numbers.
    #[must_use]
    pub fn draw(&self, content: &[u8]) -> u64 {
        let hash = self.base.clone().part(content).finish();
        let mut low = [0; 8];
        low.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(low)
    }

    /// A uniform number in `[0, 1)` for this content.
    #[must_use]
    pub fn unit(&self, content: &[u8]) -> f64 {
        as_unit(self.draw(content))
    }

    /// A reproducible sequence for this content, for algorithms that draw many times.
    #[must_use]
    pub fn sequence(&self, content: &[u8]) -> Sequence {
        Sequence { state: self.draw(content) }
    }
}

/// A draw as a number in `[0, 1)`.
#[must_use]
pub fn as_unit(draw: u64) -> f64 {
    (draw >> 11) as f64 / (1_u64 << 53) as f64
}

/// A reproducible sequence of uniform numbers (SplitMix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub struct Sequence {
    state: u64,
}

impl Sequence {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound` by multiplication (bias below 2^-32 for bounds below 2^32); `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        as_unit(self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_stage_and_content_alone() {
        let random = Random::new(1, "sample");
        assert_eq!(random.draw(b"a"), Random::new(1, "sample").draw(b"a"));
        assert_ne!(random.draw(b"a"), random.draw(b"b"));
        assert_ne!(random.draw(b"a"), Random::new(2, "sample").draw(b"a"));
        assert_ne!(random.draw(b"a"), Random::new(1, "other").draw(b"a"));
    }

    #[test]
    fn units_are_uniform_enough() {
        let random = Random::new(7, "s");
        let mean: f64 = (0..10_000_u32).map(|i| random.unit(&i.to_le_bytes())).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "mean={mean}");
    }
}
