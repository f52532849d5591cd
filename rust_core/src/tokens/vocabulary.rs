//! A vocabulary as read-only tables inside the binary: nothing to load, nothing on the heap, one copy for all processes of a machine.

use super::split::Pattern;
use super::table::{self, LONG, NO_TOKEN, PILOT_BYTES, RANK_BITS, SHORT, SLOT_BYTES};
use super::work;

/// One encoding: its pattern and its tables, as `build.rs` makes them.
pub(super) struct Vocabulary {
    pub(super) name: &'static str,
    pub(super) pattern: Pattern,
    slots: &'static [u8],
    slot_count: usize,
    pilots: &'static [u8],
    buckets: usize,
    long: &'static [u8],
    joints: &'static [u8; 1 << 13],
    pairs: &'static [u8; 1 << 18],
}

macro_rules! vocabulary {
    ($name:literal, $pattern:expr) => {
        Vocabulary {
            name: $name,
            pattern: $pattern,
            slots: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".slots")),
            slot_count: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".slots")).len() / SLOT_BYTES,
            pilots: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".pilots")),
            buckets: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".pilots")).len() / PILOT_BYTES,
            long: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".long")),
            joints: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".joints")),
            pairs: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".pairs")),
        }
    };
}

pub(super) static VOCABULARIES: [Vocabulary; 2] = [vocabulary!("o200k_base", Pattern::O200k), vocabulary!("cl100k_base", Pattern::Cl100k)];

impl Vocabulary {
    /// The rank of `text[start..end]`, or `NO_TOKEN`. The range must not be empty nor longer than a `u32`.
    #[inline]
    pub(super) fn rank(&self, text: &[u8], start: usize, end: usize) -> u32 {
        let len = end - start;
        if len <= SHORT {
            work::step(1);
            self.short(short_key(text, start, len), len)
        } else {
            self.long(&text[start..end])
        }
    }

    #[inline]
    fn short(&self, key: u64, len: usize) -> u32 {
        let (found, value) = self.slot(table::hash_short(key, len));
        if found == key && value >> RANK_BITS == len as u32 { value & ((1 << RANK_BITS) - 1) } else { NO_TOKEN }
    }

    fn long(&self, token: &[u8]) -> u32 {
        if token.len() > table::LONGEST {
            return NO_TOKEN;
        }
        work::step(token.len() / 8);
        let hash = table::hash_long(token);
        let (found, value) = self.slot(hash);
        let start = (found & 0xff_ffff) as usize;
        let same = value >> RANK_BITS == LONG
            && found == table::long_key(hash, start, token.len())
            && self.long.get(start..start + token.len()) == Some(token);
        if same { value } else { NO_TOKEN }
    }

    /// Every token with its rank, in no order: a pass over the whole table, some 0.2 ms.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (u32, Token)> {
        self.slots.chunks_exact(SLOT_BYTES).filter_map(|slot| {
            let (key, value) = parts(slot.first_chunk().expect("a chunk is as long as a slot"));
            let (len, rank) = ((value >> RANK_BITS) as usize, value & ((1 << RANK_BITS) - 1));
            match len {
                1..=SHORT => Some((rank, Token::Short(key.to_le_bytes(), len))),
                0 => {
                    let (start, len) = ((key & 0xff_ffff) as usize, (key >> 24 & 0xff) as usize);
                    Some((rank, Token::Long(&self.long[start..start + len])))
                }
                _ => None,
            }
        })
    }

    /// The key and the value in a hash's slot.
    #[inline]
    fn slot(&self, hash: u64) -> (u64, u32) {
        let at = PILOT_BYTES * table::bucket(hash, self.buckets);
        let pilot = u16::from_le_bytes(*self.pilots[at..].first_chunk().expect("a bucket number is below the number of buckets"));
        let at = SLOT_BYTES * table::slot(hash, pilot, self.slot_count);
        parts(self.slots[at..].first_chunk().expect("a slot number is below the number of slots"))
    }

    /// The rank of two bytes, or `NO_TOKEN`: a merge starts with these look-ups, so they have their own table.
    #[inline]
    pub(super) fn pair(&self, left: u8, right: u8) -> u32 {
        work::step(1);
        let at = (usize::from(left) << 8 | usize::from(right)) * size_of::<u32>();
        self.pairs[at..].first_chunk().map_or(NO_TOKEN, |rank| u32::from_le_bytes(*rank))
    }

    /// Whether some token has these two bytes side by side. Where none has, no merge ever crosses.
    #[inline]
    pub(super) fn joins(&self, left: u8, right: u8) -> bool {
        let joint = usize::from(left) << 8 | usize::from(right);
        self.joints[joint / 8] >> (joint % 8) & 1 == 1
    }
}

/// A token's bytes.
#[derive(Clone, Copy)]
pub(super) enum Token {
    /// So many of these.
    Short([u8; SHORT], usize),
    Long(&'static [u8]),
}

impl Token {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, len) => &bytes[..*len],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The key and the value of a slot.
#[inline]
fn parts(slot: &[u8; SLOT_BYTES]) -> (u64, u32) {
    let [k0, k1, k2, k3, k4, k5, k6, k7, value @ ..] = *slot;
    (u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]), u32::from_le_bytes(value))
}

/// Up to eight bytes as a number, little endian, filled up with zeros.
#[inline]
fn short_key(text: &[u8], start: usize, len: usize) -> u64 {
    // One load of eight bytes, wherever the text has them.
    if let Some(word) = text.get(start..).and_then(<[u8]>::first_chunk::<8>) {
        return u64::from_le_bytes(*word) & (u64::MAX >> (64 - 8 * len));
    }
    text[start..start + len].iter().rev().fold(0, |key, &byte| key << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens of a committed `.tokens` file in the order of rank.
    fn tokens(file: &[u8]) -> Vec<&[u8]> {
        let count = u32::from_le_bytes(file[..4].try_into().unwrap()) as usize;
        let mut start = 4 + count;
        file[4..start]
            .iter()
            .map(|&len| {
                start += usize::from(len);
                &file[start - usize::from(len)..start]
            })
            .collect()
    }

    #[test]
    fn every_token_is_found_and_nothing_else() {
        let files: [&[u8]; 2] = [include_bytes!("../../data/o200k_base.tokens"), include_bytes!("../../data/cl100k_base.tokens")];
        for (vocabulary, file) in VOCABULARIES.iter().zip(files) {
            let tokens = tokens(file);
            let known: std::collections::HashMap<_, _> = tokens.iter().zip(0..).collect();
            for (token, rank) in tokens.iter().zip(0..) {
                assert_eq!(vocabulary.rank(token, 0, token.len()), rank, "{} {token:?}", vocabulary.name);
                let mut near = [token as &[u8], b"\0"].concat();
                for variation in [0, 1, 0x20, 0xff] {
                    *near.last_mut().unwrap() = variation;
                    let expected = known.get(&near.as_slice()).copied().unwrap_or(NO_TOKEN);
                    assert_eq!(vocabulary.rank(&near, 0, near.len()), expected, "{} {near:?}", vocabulary.name);
                }
            }
        }
    }

    #[test]
    fn the_table_has_every_token_once() {
        let files: [&[u8]; 2] = [include_bytes!("../../data/o200k_base.tokens"), include_bytes!("../../data/cl100k_base.tokens")];
        for (vocabulary, file) in VOCABULARIES.iter().zip(files) {
            let mut found: Vec<_> = vocabulary.tokens().collect();
            found.sort_by_key(|(rank, _)| *rank);
            let found: Vec<_> = found.iter().enumerate().map(|(place, (rank, token))| (place as u32 == *rank, token.bytes())).collect();
            assert!(found == tokens(file).into_iter().map(|token| (true, token)).collect::<Vec<_>>(), "{}", vocabulary.name);
        }
    }

    #[test]
    fn bytes_longer_than_any_token_are_none() {
        for vocabulary in &VOCABULARIES {
            assert_eq!(vocabulary.rank(&[b' '; 5000], 0, 5000), NO_TOKEN);
        }
    }
}
