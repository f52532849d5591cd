//! The layout of a vocabulary's table, known to `build.rs`, which writes it, and to `vocabulary.rs`, which reads it.
//!
//! A perfect hash: a token's hash names a bucket, the bucket's *pilot* (chosen when the table was made) turns the hash into a slot that no other
//! token has. So a look-up reads two places, whether it finds a token or not, and the table needs no memory beside the file it is mapped from.
//! The idea is PTHash's (Pibiri and Trani, "PTHash: Revisiting FCH Minimal Perfect Hashing", 2021).

/// Bytes of a slot: a key (u64) and a value (u32), little endian.
pub const SLOT_BYTES: usize = 12;
/// Bytes of a pilot: one u16, little endian.
pub const PILOT_BYTES: usize = 2;
/// A token up to this long is its own key; a longer one is kept among the long tokens, and the key says where.
pub const SHORT: usize = 8;
/// No token of either vocabulary is longer, in bytes.
pub const LONGEST: usize = 128;
/// In the place of a rank: these bytes are no token.
pub const NO_TOKEN: u32 = u32::MAX;
/// Bits of the value that hold the rank; above them stands the length of a short token, or `LONG`.
pub const RANK_BITS: u32 = 18;
/// In the place of a length: the token is a long one.
pub const LONG: u32 = 0;

// Odd numbers without a pattern: digits of pi, of the golden ratio and of e.
const PI: u64 = 0x243f_6a88_85a3_08d3;
const PHI: u64 = 0x9e37_79b9_7f4a_7c15;
const E: u64 = 0xb7e1_5162_8aed_2a6b;

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a token of at most `SHORT` bytes, given as a number (little endian, filled up with zeros).
#[inline]
pub fn hash_short(key: u64, len: usize) -> u64 {
    fold(key ^ PI, (len as u64).wrapping_mul(E) ^ PHI)
}

/// The hash of a token longer than `SHORT` bytes.
#[inline]
pub fn hash_long(token: &[u8]) -> u64 {
    let mut hash = (token.len() as u64).wrapping_mul(E);
    let mut rest = token;
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        hash = fold(u64::from_le_bytes(*word) ^ hash, PHI);
        rest = tail;
    }
    // The tail is read with bytes before it, which costs less than a loop.
    let last = token.last_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word));
    fold(last ^ hash, PI)
}

/// The bucket of a hash, out of `buckets`, a power of two.
#[inline]
pub fn bucket(hash: u64, buckets: usize) -> usize {
    (hash >> 32) as usize & (buckets - 1)
}

/// The slot of a hash, out of `slots`, under its bucket's pilot.
#[inline]
pub fn slot(hash: u64, pilot: u16, slots: usize) -> usize {
    // Two hashes of one bucket differ in at least one of start and step, so that some pilot parts them.
    let (start, step) = (hash as u32, (hash >> 24) as u32 | 1);
    let spread = start.wrapping_add(step.wrapping_mul(pilot.into()));
    ((u64::from(spread) * slots as u64) >> 32) as usize
}

/// The key of a long token: where it starts among the long tokens, how long it is, and half of its hash.
#[inline]
pub fn long_key(hash: u64, start: usize, len: usize) -> u64 {
    (hash & 0xffff_ffff_0000_0000) | (len as u64) << 24 | start as u64
}
