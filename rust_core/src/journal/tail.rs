//! The end of a segment: entries on their way to the disk, which are kept until it has them.

use std::fs::File;
use std::io::{self, Write};

/// What a segment is written to; a trait, so that tests can give it a disk that is full or failing.
pub trait Medium {
    /// May have written part of it when it fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Everything appended outlives a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// Only the first `length` bytes stay.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

/// Opened for appending.
impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Writes whole entries in order. What a failed write or sync leaves behind is cut off and written again: after a failed sync nobody
/// knows what the disk has.
pub struct Tail<M> {
    medium: M,
    /// Bytes of the segment that need not be written again.
    safe_len: u64,
    /// What comes behind them.
    bytes: Vec<u8>,
    written: usize,
    is_torn: bool,
}

impl<M: Medium> Tail<M> {
    pub fn new(medium: M, safe_len: u64) -> Tail<M> {
        Tail { medium, safe_len, bytes: Vec::new(), written: 0, is_torn: false }
    }

    pub fn add(&mut self, entries: &[u8]) {
        self.bytes.extend_from_slice(entries);
    }

    /// Bytes not known to be safe.
    pub fn unsafe_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Of the segment, once all of it is written.
    pub fn length(&self) -> u64 {
        self.safe_len + self.bytes.len() as u64
    }

    pub fn write(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.medium.cut(self.safe_len)?;
            (self.is_torn, self.written) = (false, 0);
        }
        if self.written == self.bytes.len() {
            return Ok(());
        }
        let outcome = self.medium.append(&self.bytes[self.written..]);
        self.keep_or_tear(outcome)?;
        self.written = self.bytes.len();
        Ok(())
    }

    /// Writes what is left, and waits until the disk has it.
    pub fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        let outcome = self.medium.sync();
        self.keep_or_tear(outcome)?;
        self.trust();
        Ok(())
    }

    /// Takes what is written for safe.
    pub fn trust(&mut self) {
        self.safe_len += self.written as u64;
        self.bytes.drain(..self.written);
        self.written = 0;
    }

    fn keep_or_tear(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        self.is_torn |= outcome.is_err();
        outcome
    }
}
