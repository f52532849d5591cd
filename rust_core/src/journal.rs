//! The ledger's memory beyond the process: an append-only log of what happened to accounts, with snapshots, in one folder.
//!
//! | file | holds |
//! |---|---|
//! | `segment-N` | entries from number N on, appended in batches; see `frame` and `entry` |
//! | `snapshot-N` | the state of all accounts after entry N; made when a segment is full, from the files before, which then go |
//! | `handover` | copies of the latest entries, in memory that outlives the process, until a segment has them |
//! | `lock` | locked by the process that uses the folder |
//!
//! Handing an entry over copies it into memory twice and touches no disk: microseconds, whatever the disk does. A killed process loses
//! nothing of it. What a power cut can lose is decided by `Fsync`. This is the one place in this crate with a thread, and with a clock:
//! the writer's waits are measured.

pub mod entry;
pub mod folder;
pub mod frame;
mod handover;
pub mod repair;
pub mod tail;
mod writer;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use entry::Recovered;
pub use folder::JournalError;
use handover::Handover;
use tail::Tail;
use writer::{Shared, Writer};

/// When the disk is told to keep what was written; what a power cut or a crash of the kernel can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// At once, for all entries that came during the sync before: what was handed over since that one began can be lost.
    Settle,
    /// So often: what was handed over for that long, and during one sync.
    Every(Duration),
    /// When the kernel finds time: half a minute, mostly.
    Never,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub fsync: Fsync,
    /// Entries wait in memory while the disk is full; posts beyond so many bytes are not written down, and counted.
    pub most_waiting_bytes: usize,
    /// A segment that has grown so far is followed by another, and becomes part of a snapshot.
    pub segment_bytes: u64,
}

/// How the journal is. `lost`: posts that were not written down because too many waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub is_degraded: bool,
    pub trouble: String,
    pub last: u64,
    pub written: u64,
    pub synced: u64,
    pub waiting_bytes: usize,
    pub lost: u64,
    /// Entries for which the handover had no room: only these would be missing if the process were killed before they are written.
    pub unshielded: u64,
}

pub struct Journal {
    shared: Arc<Shared>,
    handover: Handover,
    writer: Option<JoinHandle<()>>,
    frame: Vec<u8>,
    last: u64,
    lost: u64,
    unshielded: u64,
    wants_states: bool,
    most_waiting_bytes: usize,
    /// Held locked; let go when it is closed.
    _lock: File,
}

/// Reads the folder, which is made if it is not there, and begins to write behind what it says. Notices: what an operator should know.
pub fn open(path: &Path, options: Options) -> Result<(Journal, Recovered, Vec<String>), JournalError> {
    let lock = folder::lock(path)?;
    let mut read = folder::read(path, u64::MAX)?;
    let failed = |error: io::Error| JournalError::Io { path: path.to_owned(), error };
    let ring = path.join(folder::HANDOVER);
    let late = folder::read_handover(&ring, &mut read).map_err(failed)?;
    let (segment, file, safe_len) = folder::resume(path, &read, &late).map_err(failed)?;
    let mut handover = Handover::open(&ring).map_err(|error| JournalError::Io { path: ring, error })?;
    handover.clear();
    let shared = Arc::new(Shared::default());
    shared.queue().last = read.last;
    shared.written.store(read.last, Ordering::Relaxed);
    shared.synced.store(read.last, Ordering::Relaxed);
    let snapshot = (read.segments > 1).then(|| writer::spawn_snapshot(Arc::clone(&shared), path.to_owned(), segment));
    let writer = Writer {
        shared: Arc::clone(&shared),
        folder: path.to_owned(),
        options,
        tail: Tail::new(file, safe_len),
        segment,
        snapshot,
        last: read.last,
        handed_to: 0,
    };
    let writer = thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run()).map_err(failed)?;
    let journal = Journal {
        shared,
        handover,
        writer: Some(writer),
        frame: Vec::new(),
        last: read.last,
        lost: 0,
        unshielded: 0,
        wants_states: false,
        most_waiting_bytes: options.most_waiting_bytes,
        _lock: lock,
    };
    Ok((journal, read.recovered, read.notices))
}

impl Journal {
    /// Hands an entry over.
    pub fn append(&mut self, payload: impl FnOnce(&mut Vec<u8>)) {
        self.hand_over(usize::MAX, payload);
    }

    /// Hands an entry over, unless too much waits for a full disk already: then it is counted as lost, and the states of all accounts are
    /// wanted later.
    pub fn append_if_room(&mut self, payload: impl FnOnce(&mut Vec<u8>)) {
        self.hand_over(self.most_waiting_bytes, payload);
    }

    fn hand_over(&mut self, most_waiting_bytes: usize, payload: impl FnOnce(&mut Vec<u8>)) {
        self.frame.clear();
        frame::put(&mut self.frame, self.last + 1, payload);
        let mut queue = self.shared.queue();
        if self.frame.len() > frame::LONGEST || queue.bytes.len().saturating_add(self.frame.len()) > most_waiting_bytes {
            self.lost += 1;
            self.wants_states = true;
            return;
        }
        self.last += 1;
        queue.bytes.extend_from_slice(&self.frame);
        queue.last = self.last;
        match self.handover.put(&self.frame, self.shared.freed.load(Ordering::Acquire)) {
            Some(end) => queue.handed_to = end,
            None => self.unshielded += 1,
        }
        self.shared.wake(queue);
    }

    /// True once after entries were lost, as soon as the disk takes more again.
    pub fn wants_states(&mut self) -> bool {
        self.wants_states && !self.is_degraded() && std::mem::take(&mut self.wants_states)
    }

    /// The disk is full or fails: entries wait in memory.
    pub fn is_degraded(&self) -> bool {
        self.shared.is_degraded.load(Ordering::Acquire)
    }

    pub fn status(&self) -> Status {
        let waiting = self.shared.queue().bytes.len();
        Status {
            is_degraded: self.is_degraded(),
            trouble: self.shared.trouble(),
            last: self.last,
            written: self.shared.written.load(Ordering::Acquire),
            synced: self.shared.synced.load(Ordering::Acquire),
            waiting_bytes: waiting + self.shared.taken.load(Ordering::Relaxed),
            lost: self.lost,
            unshielded: self.unshielded,
        }
    }

    /// Writes and syncs everything. True if the disk has it all.
    pub fn close(mut self) -> bool {
        self.finish();
        self.shared.synced.load(Ordering::Acquire) == self.last
    }

    fn finish(&mut self) {
        let mut queue = self.shared.queue();
        queue.is_closing = true;
        self.shared.wake(queue);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.finish();
    }
}
