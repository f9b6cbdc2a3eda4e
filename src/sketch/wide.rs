//! Minima of many functions over many shingles, in lanes: plain loops that the compiler vectorises, compiled twice, for any machine and
//! for AVX2, which is looked for at run time. Both give the same bits.
#![expect(clippy::inline_always, reason = "a function takes the wide instructions of its caller only if it is part of it")]

use std::array::from_fn;

/// A family of functions, one a lane, that K parameters distinguish.
pub(super) trait Lanes<const K: usize>: Copy {
    /// What the functions give.
    type Value: Copy + Ord;
    /// A parameter.
    type Parameter: Copy;

    /// The value of a function.
    fn value(parameters: [Self::Parameter; K], shingle: u64) -> Self::Value;
}

/// Shingles that are read by one group of functions after the other while they lie in the nearest cache.
pub(super) const CHUNK: usize = 1024;

/// Lowers each of `least` to the least value of its function over the shingles. There is one parameter of each kind for each.
pub(super) fn lower<const K: usize, L: Lanes<K>>(parameters: [&[L::Parameter]; K], shingles: &[u64], least: &mut [L::Value]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        struct Lower<'a, const K: usize, L: Lanes<K>>([&'a [L::Parameter]; K], &'a [u64], &'a mut [L::Value]);
        impl<const K: usize, L: Lanes<K>> pulp::NullaryFnOnce for Lower<'_, K, L> {
            type Output = ();

            #[inline(always)]
            fn call(self) {
                portable_lower::<K, L>(self.0, self.1, self.2);
            }
        }
        return simd.vectorize(Lower::<K, L>(parameters, shingles, least));
    }
    portable_lower::<K, L>(parameters, shingles, least);
}

/// Groups of functions of falling width: the more share a read of the shingles the better, as long as registers hold them.
#[inline(always)]
pub(super) fn portable_lower<const K: usize, L: Lanes<K>>(parameters: [&[L::Parameter]; K], shingles: &[u64], least: &mut [L::Value]) {
    for shingles in shingles.chunks(CHUNK) {
        let mut at = 0;
        if size_of::<L::Value>() == 4 {
            at = groups::<K, L, 64>(parameters, at, shingles, least);
            at = groups::<K, L, 32>(parameters, at, shingles, least);
        }
        at = groups::<K, L, 16>(parameters, at, shingles, least);
        at = groups::<K, L, 8>(parameters, at, shingles, least);
        groups::<K, L, 1>(parameters, at, shingles, least);
    }
}

/// As many groups of N functions as there are, from `at` on; where they end.
#[inline(always)]
fn groups<const K: usize, L: Lanes<K>, const N: usize>(
    parameters: [&[L::Parameter]; K],
    at: usize,
    shingles: &[u64],
    least: &mut [L::Value],
) -> usize {
    let parameters = parameters.map(|parameters| parameters[at..].as_chunks::<N>().0);
    let (least, _) = least[at..].as_chunks_mut::<N>();
    for (index, least) in least.iter_mut().enumerate() {
        let parameters = parameters.map(|groups| &groups[index]);
        let mut values = *least;
        for shingle in shingles {
            for lane in 0..N {
                values[lane] = values[lane].min(L::value(from_fn(|parameter| parameters[parameter][lane]), *shingle));
            }
        }
        *least = values;
    }
    at + least.len() * N
}
