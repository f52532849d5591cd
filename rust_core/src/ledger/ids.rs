//! Reservation ids: how the latest ones ended, and a hash for those that have not.

use std::hash::Hasher;

/// How far back an error can say whether an id was posted or voided.
const KEPT: u64 = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum How {
    Posted = 1,
    Voided = 2,
    Forgotten = 3,
}

/// How the latest ids ended, for error messages only: one byte each in a ring.
#[derive(Default)]
pub struct Settled {
    ring: Vec<u8>,
}

impl Settled {
    pub fn remember(&mut self, id: u64, last_id: u64, how: How) {
        if self.ring.is_empty() {
            self.ring = vec![0; KEPT as usize];
        }
        // The place of an older id belongs to a younger one by now.
        if last_id - id < KEPT {
            self.ring[(id % KEPT) as usize] = how as u8;
        }
    }

    /// Of an id that was given and is not open any more.
    pub fn how(&self, id: u64, last_id: u64) -> &'static str {
        if last_id - id >= KEPT {
            return "settled, long ago";
        }
        match self.ring[(id % KEPT) as usize] {
            posted if posted == How::Posted as u8 => "posted",
            voided if voided == How::Voided as u8 => "voided",
            _ => "expired, and forgotten since",
        }
    }
}

/// Ids count upwards and are ours, so no caller can choose colliding ones; a multiplication spreads them.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys");
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
