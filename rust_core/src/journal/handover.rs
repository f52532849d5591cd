//! Where an entry lies from the moment it is handed over until it is in a segment: memory that outlives the process.
//!
//! A small file, mapped and shared: what is copied there belongs to the kernel, so a process that is killed in the next instruction has
//! lost nothing, and no system call and no disk was waited for. It is used as a ring. The room of entries that have been written to a
//! segment is given free; when there is none, entries wait in ordinary memory only, and are counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::{self, NonNull};

pub const CAPACITY: usize = 1 << 20;

pub struct Handover {
    memory: NonNull<u8>,
    /// Bytes ever taken, skipped ends of the ring included; its place in the ring is this modulo `CAPACITY`.
    head: u64,
}

// SAFETY: the mapping belongs to this value alone, and is only written through `&mut self`.
unsafe impl Send for Handover {}

impl Handover {
    /// Maps the file, which is made if it is not there or has another size. Its whole room is taken on the disk now: a write into a mapped
    /// hole of a full disk would end the process.
    pub fn open(path: &Path) -> io::Result<Handover> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() != CAPACITY as u64 {
            file.set_len(0)?;
            file.write_all(&vec![0; CAPACITY])?;
            file.sync_all()?;
        }
        Ok(Handover { memory: map(&file)?, head: 0 })
    }

    /// Copies the entry, if there is room behind `freed`. Returns the position behind it.
    pub fn put(&mut self, frame: &[u8], freed: u64) -> Option<u64> {
        let place = (self.head % CAPACITY as u64) as usize;
        let skipped = if place + frame.len() > CAPACITY { CAPACITY - place } else { 0 };
        let end = self.head + skipped as u64 + frame.len() as u64;
        if end - freed > CAPACITY as u64 {
            return None;
        }
        let place = (place + skipped) % CAPACITY;
        // SAFETY: `place + frame.len() <= CAPACITY`, and the mapping does not overlap any slice of ours.
        unsafe { ptr::copy_nonoverlapping(frame.as_ptr(), self.memory.as_ptr().add(place), frame.len()) };
        self.head = end;
        Some(end)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        // SAFETY: the mapping is `CAPACITY` bytes long.
        unsafe { ptr::write_bytes(self.memory.as_ptr(), 0, CAPACITY) };
        self.head = 0;
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and used by nobody any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), CAPACITY) };
    }
}

fn map(file: &File) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, nowhere in particular, of a file that is `CAPACITY` bytes long.
    let memory =
        unsafe { libc::mmap(ptr::null_mut(), CAPACITY, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Best effort: pages that stay in memory need no disk when they are written.
    // SAFETY: the range was just mapped.
    unsafe { libc::mlock(memory, CAPACITY) };
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_refuses_what_would_cover_entries_that_are_not_free() {
        let folder = std::env::temp_dir().join(format!("sidecar-handover-{}", std::process::id()));
        let path = folder.with_extension("ring");
        let mut ring = Handover::open(&path).unwrap();
        let entry = vec![7; 300_000];
        let ends: Vec<_> = (0..3).map(|_| ring.put(&entry, 0).unwrap()).collect();
        assert_eq!(ring.put(&entry, 0), None, "three fill it, and the fourth would begin anew");
        assert_eq!(ring.put(&entry, ends[0]), Some(CAPACITY as u64 + 300_000));
        assert_eq!(ring.put(&entry, ends[0]), None);
        assert_eq!(std::fs::read(&path).unwrap()[..900_000], vec![7; 900_000]);
        ring.clear();
        assert_eq!(std::fs::read(&path).unwrap(), vec![0; CAPACITY]);
        std::fs::remove_file(path).unwrap();
    }
}
