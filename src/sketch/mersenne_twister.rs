//! The generator behind `numpy.random.RandomState`: MT19937 (Matsumoto & Nishimura 1998), and how NumPy draws 64-bit integers from it.

const SIZE: usize = 624;
const SHIFT: usize = 397;

/// `numpy.random.RandomState(seed)`.
#[derive(Debug)]
pub(super) struct MersenneTwister {
    state: [u32; SIZE],
    at: usize,
}

impl MersenneTwister {
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [seed; SIZE];
        for index in 1..SIZE {
            let before = state[index - 1];
            state[index] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(index as u32);
        }
        Self { state, at: SIZE }
    }

    fn twist(&mut self) {
        for index in 0..SIZE {
            let both = (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % SIZE] & 0x7FFF_FFFF);
            let odd = if both & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[index] = self.state[(index + SHIFT) % SIZE] ^ (both >> 1) ^ odd;
        }
        self.at = 0;
    }

    pub(super) fn next_u32(&mut self) -> u32 {
        if self.at == SIZE {
            self.twist();
        }
        let mut value = self.state[self.at];
        self.at += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9D2C_5680;
        value ^= (value << 15) & 0xEFC6_0000;
        value ^ (value >> 18)
    }

    fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    /// `randint(low, high, dtype=uint64)`: uniform in `low..high`, by rejection under a mask, as NumPy does.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high - 1 - low;
        let mask = u64::MAX >> span.leading_zeros().min(63);
        loop {
            let value = if u32::try_from(span).is_ok() { u64::from(self.next_u32()) } else { self.next_u64() } & mask;
            if value <= span {
                return low + value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of NumPy 2.4.
    #[test]
    fn known_answers() {
        let mut draws = MersenneTwister::new(1);
        let first: Vec<u64> = (0..700).map(|_| draws.between(1, (1 << 61) - 1)).collect();
        assert_eq!(first[..3], [775_169_054_918_279_404, 1_758_426_461_858_698_313, 2_109_959_069_025_162]);
        assert_eq!(first[697..], [148_099_857_636_988_008, 796_280_091_327_000_223, 677_210_390_895_582_867]);
        let more: Vec<u64> = (0..3).map(|_| draws.between(0, (1 << 61) - 1)).collect();
        assert_eq!(more, [246_350_580_069_793_097, 740_534_595_978_667_355, 2_100_550_727_665_467_605]);
        let mut draws = MersenneTwister::new(42);
        assert_eq!(
            [(); 3].map(|()| draws.between(0, u64::MAX)),
            [6_909_045_637_428_952_499, 17_537_583_593_393_853_710, 13_502_904_847_239_337_031]
        );
        let mut draws = MersenneTwister::new(7);
        assert_eq!([(); 5].map(|()| draws.between(10, 1_000)), [185, 206, 547, 512, 589]);
        let mut draws = MersenneTwister::new(5489);
        assert_eq!([(); 3].map(|()| draws.between(0, 1 << 32)), [3_499_211_612, 581_869_302, 3_890_346_734]);
    }
}
