//! One-bit sketches of vectors: small enough to scan thousands of them in microseconds.
//!
//! The share of bits in which two sketches differ estimates the angle between the vectors, divided by pi (Charikar 2002), provided
//! each bit is the side of a random hyperplane. Signs of the raw coordinates are not: n-gram counts are never negative, and their
//! signs would all be equal. So vectors are rotated first: fixed signs and a Walsh-Hadamard transform, three times over.

/// Fewer bits would make the estimate too coarse to choose by; short vectors are rotated several times, each time differently.
const LEAST_BITS: usize = 1024;
/// A transform of fewer values has too few different outcomes to be a random rotation; also a whole word.
const LEAST_PADDED: usize = 64;
const ROUNDS: usize = 3;

pub struct Sketcher {
    /// Power of two, at least the vectors' length.
    padded: usize,
    /// Rotations, one after the other in the sketch.
    blocks: usize,
    scratch: Vec<f32>,
    distances: fn(&[u64], &[u64], &mut Vec<u32>),
}

impl Sketcher {
    pub fn new(dimensions: usize) -> Sketcher {
        let padded = dimensions.next_power_of_two().max(LEAST_PADDED);
        let blocks = LEAST_BITS.div_ceil(padded);
        Sketcher { padded, blocks, scratch: vec![0.0; padded], distances: fastest_distances() }
    }

    pub fn bits(&self) -> usize {
        self.padded * self.blocks
    }

    pub fn words(&self) -> usize {
        self.bits() / 64
    }

    /// Appends the sketch of `vector` to `sketches`: `words()` words.
    pub fn sketch(&mut self, vector: &[f32], sketches: &mut Vec<u64>) {
        for block in 0..self.blocks {
            self.scratch[..vector.len()].copy_from_slice(vector);
            self.scratch[vector.len()..].fill(0.0);
            for round in 0..ROUNDS {
                flip_signs(&mut self.scratch, (block * ROUNDS + round) as u64);
                walsh_hadamard(&mut self.scratch);
            }
            sketches.extend(
                self.scratch
                    .chunks_exact(64)
                    .map(|values| values.iter().enumerate().fold(0, |word, (bit, value)| word | u64::from(*value >= 0.0) << bit)),
            );
        }
    }

    /// In how many bits each of `sketches` differs from `query`.
    pub fn distances(&self, query: &[u64], sketches: &[u64], distances: &mut Vec<u32>) {
        distances.clear();
        (self.distances)(query, sketches, distances);
    }
}

/// Fixed signs from the bits of splitmix64 (Steele, Lea, Flood 2014) at a counter: a constant that needs no table.
fn flip_signs(values: &mut [f32], stream: u64) {
    for (at, chunk) in values.chunks_mut(64).enumerate() {
        let mut bits = splitmix64((stream << 32) + at as u64);
        for value in chunk {
            *value = f32::from_bits(value.to_bits() ^ ((bits as u32 & 1) << 31));
            bits >>= 1;
        }
    }
}

fn splitmix64(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// In place, not scaled: only the signs are used, and three rounds of a unit vector stay far below f32's largest value.
fn walsh_hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[inline(always)]
fn distances_of(query: &[u64], sketches: &[u64], distances: &mut Vec<u32>) {
    distances
        .extend(sketches.chunks_exact(query.len()).map(|sketch| sketch.iter().zip(query).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()));
}

fn distances_portable(query: &[u64], sketches: &[u64], distances: &mut Vec<u32>) {
    distances_of(query, sketches, distances);
}

/// The same code, compiled for CPUs with AVX2 and a population count instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn distances_avx2(query: &[u64], sketches: &[u64], distances: &mut Vec<u32>) {
    distances_of(query, sketches, distances);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
unsafe fn distances_popcnt(query: &[u64], sketches: &[u64], distances: &mut Vec<u32>) {
    distances_of(query, sketches, distances);
}

/// Asked of the CPU that runs, never assumed of it.
fn fastest_distances() -> fn(&[u64], &[u64], &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("popcnt") {
            // SAFETY: this CPU has both features.
            return |query, sketches, distances| unsafe { distances_avx2(query, sketches, distances) };
        }
        if std::arch::is_x86_feature_detected!("popcnt") {
            // SAFETY: this CPU has the feature.
            return |query, sketches, distances| unsafe { distances_popcnt(query, sketches, distances) };
        }
    }
    distances_portable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_vector(seed: u64, dimensions: usize) -> Vec<f32> {
        let raw: Vec<f32> =
            (0..dimensions as u64).map(|at| (splitmix64(seed * 1_000_003 + at) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        raw.iter().map(|x| x / norm).collect()
    }

    #[test]
    fn every_path_of_this_cpu_counts_the_same_bits() {
        for words in [16, 24, 32, 33] {
            let query: Vec<u64> = (0..words).map(|at| splitmix64(at + 7)).collect();
            let sketches: Vec<u64> = (0..words * 50).map(|at| splitmix64(at + 1000)).collect();
            let mut one_by_one = Vec::new();
            for sketch in sketches.chunks_exact(query.len()) {
                let mut distance = 0;
                for bit in 0..query.len() * 64 {
                    distance += u32::from((sketch[bit / 64] ^ query[bit / 64]) >> (bit % 64) & 1 == 1);
                }
                one_by_one.push(distance);
            }
            let mut found = Vec::new();
            distances_portable(&query, &sketches, &mut found);
            assert_eq!(found, one_by_one);
            found.clear();
            fastest_distances()(&query, &sketches, &mut found);
            assert_eq!(found, one_by_one);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("popcnt") {
                found.clear();
                // SAFETY: this CPU has the feature.
                unsafe { distances_popcnt(&query, &sketches, &mut found) };
                assert_eq!(found, one_by_one);
            }
        }
    }

    #[test]
    fn bits_that_differ_tell_the_angle() {
        for dimensions in [1, 3, 64, 1000, 1536] {
            let mut sketcher = Sketcher::new(dimensions);
            for seed in 0..20 {
                let (a, b) = (unit_vector(seed, dimensions), unit_vector(seed + 100, dimensions));
                let cosine: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
                let (mut query, mut other) = (Vec::new(), Vec::new());
                sketcher.sketch(&a, &mut query);
                sketcher.sketch(&b, &mut other);
                assert_eq!(query.len(), sketcher.words());
                let mut distances = Vec::new();
                sketcher.distances(&query, &other, &mut distances);
                let share = distances[0] as f32 / sketcher.bits() as f32;
                let angle = cosine.clamp(-1.0, 1.0).acos() / std::f32::consts::PI;
                assert!((share - angle).abs() < 0.08, "{dimensions} dimensions: {share} of the bits differ, angle {angle}");
            }
        }
    }
}
