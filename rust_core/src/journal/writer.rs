//! The thread that writes: takes what waits, all at once, and syncs as the policy says. Nobody waits for it but `close`.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::folder;
use super::tail::Tail;
use super::{Fsync, Options};

/// How long entries are gathered when nothing asks for a sync.
const GATHERED: Duration = Duration::from_millis(100);
/// So many waiting bytes wake the writer before its time, while the handover has room for more.
const URGENT: usize = super::handover::CAPACITY / 4;
/// Between two tries when the disk is full or fails.
const RETRIED: Duration = Duration::from_millis(250);

/// Entries that wait for the writer.
#[derive(Default)]
pub struct Queue {
    pub bytes: Vec<u8>,
    /// The number of the last of them, or of the last one taken.
    pub last: u64,
    /// The position behind it in the handover.
    pub handed_to: u64,
    pub is_closing: bool,
    /// The writer waits for the first entry.
    is_asleep: bool,
}

/// What the ledger's side and the writer's share.
#[derive(Default)]
pub struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The position up to which the handover's room may be used again.
    pub freed: AtomicU64,
    pub is_degraded: AtomicBool,
    /// Numbers of the last entry written, and of the last one synced.
    pub written: AtomicU64,
    pub synced: AtomicU64,
    /// Bytes that the writer has taken and the disk has not.
    pub taken: AtomicUsize,
    /// Why the last write, sync or snapshot failed; empty when all is well.
    trouble: Mutex<String>,
}

impl Shared {
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, what: String) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// After something was put into the queue.
    pub fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let is_due = queue.is_asleep || queue.is_closing || queue.bytes.len() > URGENT;
        // A writer that waits for room is not woken by each entry.
        if is_due && (queue.is_closing || !self.is_degraded.load(Ordering::Relaxed)) {
            queue.is_asleep = false;
            drop(queue);
            self.wake.notify_one();
        }
    }
}

pub struct Writer {
    pub shared: Arc<Shared>,
    pub folder: PathBuf,
    pub options: Options,
    pub tail: Tail<File>,
    /// The number of the first entry of the segment.
    pub segment: u64,
    pub snapshot: Option<JoinHandle<()>>,
    /// The number of the last entry that the tail has, and the position behind it in the handover.
    pub last: u64,
    pub handed_to: u64,
}

impl Writer {
    /// Until `is_closing`; then everything is written and synced, or one more try has failed.
    pub fn run(mut self) {
        let mut last_sync = Instant::now();
        loop {
            let is_closing = self.take(last_sync);
            let is_due = match self.options.fsync {
                Fsync::Settle => true,
                Fsync::Every(interval) => last_sync.elapsed() >= interval,
                Fsync::Never => false,
            };
            let outcome = self.put(is_due || is_closing);
            if outcome.is_ok() && self.tail.unsafe_bytes() == 0 {
                last_sync = Instant::now();
            }
            self.tell(&outcome);
            if outcome.is_ok() && self.tail.length() >= self.options.segment_bytes {
                self.rotate();
            }
            if is_closing {
                break;
            }
        }
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.join();
        }
    }

    /// Waits for entries, or for the time of a sync or of another try, and takes what there is. True: the last time.
    fn take(&mut self, last_sync: Instant) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        if shared.is_degraded.load(Ordering::Relaxed) {
            if !queue.is_closing {
                queue = shared.wake.wait_timeout(queue, RETRIED).unwrap_or_else(PoisonError::into_inner).0;
            }
            // What waits stays where it is counted, until the disk has what was taken before.
            if !queue.is_closing {
                return false;
            }
        }
        while queue.bytes.is_empty() && !queue.is_closing && self.tail.unsafe_bytes() == 0 {
            queue.is_asleep = true;
            queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.is_asleep = false;
        let gathered = match self.options.fsync {
            Fsync::Settle => Duration::ZERO,
            Fsync::Every(interval) => interval.saturating_sub(last_sync.elapsed()),
            Fsync::Never => GATHERED,
        };
        let until = Instant::now() + gathered;
        while !queue.is_closing && queue.bytes.len() <= URGENT {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            queue = shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.tail.add(&queue.bytes);
        queue.bytes.clear();
        shared.taken.store(self.tail.unsafe_bytes(), Ordering::Relaxed);
        (self.last, self.handed_to) = (queue.last, queue.handed_to);
        queue.is_closing
    }

    fn put(&mut self, is_sync_due: bool) -> io::Result<()> {
        self.tail.write()?;
        self.shared.freed.store(self.handed_to, Ordering::Release);
        self.shared.written.store(self.last, Ordering::Release);
        if is_sync_due {
            self.tail.sync()?;
            self.shared.synced.store(self.last, Ordering::Release);
        } else if matches!(self.options.fsync, Fsync::Never) {
            self.tail.trust();
        }
        self.shared.taken.store(self.tail.unsafe_bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn tell(&self, outcome: &io::Result<()>) {
        let was_degraded = self.shared.is_degraded.load(Ordering::Relaxed);
        match outcome {
            Ok(()) if was_degraded => self.shared.set_trouble(String::new()),
            Ok(()) => {}
            Err(error) => {
                let path = self.folder.join(folder::segment(self.segment));
                self.shared.set_trouble(format!("cannot write {}: {error}", path.display()));
            }
        }
        self.shared.is_degraded.store(outcome.is_err(), Ordering::Release);
    }

    /// Begins another segment and, in a thread of its own, makes a snapshot of those before it. Where that cannot be, this segment goes on.
    fn rotate(&mut self) {
        if self.snapshot.as_ref().is_some_and(|snapshot| !snapshot.is_finished()) {
            return;
        }
        let next = self.shared.written.load(Ordering::Relaxed) + 1;
        let begun = self.tail.sync().and_then(|()| folder::begin_segment(&self.folder, next));
        match begun {
            Ok(file) => {
                self.tail = Tail::new(file, super::frame::HEADER.len() as u64);
                self.segment = next;
                self.snapshot = Some(spawn_snapshot(Arc::clone(&self.shared), self.folder.clone(), next));
            }
            Err(error) => self.shared.set_trouble(format!("cannot begin a segment in {}: {error}", self.folder.display())),
        }
    }
}

/// Of all segments before the one that begins with entry `before`.
pub fn spawn_snapshot(shared: Arc<Shared>, folder: PathBuf, before: u64) -> JoinHandle<()> {
    thread::spawn(move || match folder::make_snapshot(&folder, before) {
        Err(error) => shared.set_trouble(format!("cannot make a snapshot: {error}")),
        Ok(()) if !shared.is_degraded.load(Ordering::Relaxed) => shared.set_trouble(String::new()),
        Ok(()) => {}
    })
}
