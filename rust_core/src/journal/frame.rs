//! Frames: how entries lie in a file, so that a torn or spoilt one is seen, and the next one found.
//!
//! length of the payload (u32) · CRC-32 of number and payload (u32) · number (u64) · payload; little-endian. Numbers count upwards by
//! one over all files of a journal. Every file begins with `HEADER`.

use std::ops::Range;

/// The name and, in the last byte, the version of the form.
pub const HEADER: [u8; 16] = *b"sidecar journal\x01";
pub const FRAME: usize = 16;
/// The longest payload; a length above it is not a length.
pub const LONGEST: usize = 16 * 1024 * 1024;

pub fn put(out: &mut Vec<u8>, number: u64, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&number.to_le_bytes());
    payload(out);
    let length = (out.len() - start - FRAME) as u32;
    let crc = crc(&out[start + 8..], length);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn crc(numbered: &[u8], length: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(numbered);
    crc.finalize()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub number: u64,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    pub fn size(&self) -> usize {
        FRAME + self.payload.len()
    }
}

/// The frame that begins right here, if one does.
pub fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (stored, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let numbered = rest.get(..8usize.checked_add(length as usize)?)?;
    if length as usize > LONGEST || length == 0 || crc(numbered, length) != u32::from_le_bytes(*stored) {
        return None;
    }
    let (number, payload) = numbered.split_first_chunk::<8>()?;
    Some(Frame { number: u64::from_le_bytes(*number), payload })
}

/// A frame, or a stretch of bytes that belongs to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Frame { at: usize, frame: Frame<'a> },
    Spoilt(Range<usize>),
}

/// Everything in `bytes` from `at` on; behind a spoilt stretch the next frame is looked for byte by byte.
pub struct Pieces<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let start = self.at;
        if start >= self.bytes.len() {
            return None;
        }
        if let Some(frame) = first(&self.bytes[start..]) {
            self.at += frame.size();
            return Some(Piece::Frame { at: start, frame });
        }
        self.at = next_frame(self.bytes, start + 1);
        Some(Piece::Spoilt(start..self.at))
    }
}

/// Where a frame begins, or the end. Zeros are skipped fast: an unused handover is a million of them.
fn next_frame(bytes: &[u8], mut at: usize) -> usize {
    while let Some(zeros) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte != 0)) {
        // The length before the first byte that is not zero may begin with zeros itself.
        at += zeros.saturating_sub(3);
        if first(&bytes[at..]).is_some() {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, |out| out.extend_from_slice(b"first"));
        put(&mut bytes, 8, |out| out.extend_from_slice(b"second"));
        bytes
    }

    #[test]
    fn any_byte_that_is_changed_spoils_its_frame_and_no_other() {
        let whole = two();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            let frames: Vec<u64> = Pieces { bytes: &bytes, at: 0 }
                .filter_map(|piece| if let Piece::Frame { frame, .. } = piece { Some(frame.number) } else { None })
                .collect();
            assert_eq!(frames, [if at < FRAME + 5 { 8 } else { 7 }], "byte {at}");
        }
    }

    #[test]
    fn a_frame_is_there_only_with_its_last_byte() {
        let whole = two();
        for length in 0..whole.len() {
            let pieces: Vec<Piece> = Pieces { bytes: &whole[..length], at: 0 }.collect();
            let frames = pieces.iter().filter(|piece| matches!(piece, Piece::Frame { .. })).count();
            assert_eq!(frames, usize::from(length >= FRAME + 5), "{length} bytes");
        }
    }
}
