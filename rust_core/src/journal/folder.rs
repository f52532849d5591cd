//! The files of a journal: their names, reading them from the first to the last, beginning a segment, making a snapshot.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::entry::{self, Reading, Recovered};
use super::frame::{self, Frame, HEADER, Piece, Pieces};

pub const HANDOVER: &str = "handover";
const LOCK: &str = "lock";
const SEGMENT: &str = "segment-";
const SNAPSHOT: &str = "snapshot-";
const UNFINISHED: &str = "snapshot.unfinished";

#[derive(Debug)]
pub enum JournalError {
    Io { path: PathBuf, error: io::Error },
    InUse { path: PathBuf },
    Damaged { path: PathBuf, at: u64, why: String },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, error } => write!(f, "journal {}: {error}", path.display()),
            Self::InUse { path } => {
                write!(f, "journal {}: another process uses it; every sidecar needs a data_dir of its own", path.display())
            }
            Self::Damaged { path, at, why } => {
                write!(f, "journal file {}: damaged at byte {at}: {why}; `sidecar journal repair` keeps what can be kept", path.display())
            }
        }
    }
}

impl std::error::Error for JournalError {}

pub fn segment(first: u64) -> String {
    format!("{SEGMENT}{first:020}")
}

pub fn snapshot(last: u64) -> String {
    format!("{SNAPSHOT}{last:020}")
}

/// Makes the folder, and locks it for this process.
pub fn lock(path: &Path) -> Result<File, JournalError> {
    let failed = |error| JournalError::Io { path: path.to_owned(), error };
    fs::create_dir_all(path).map_err(failed)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path.join(LOCK)).map_err(failed)?;
    // SAFETY: a system call on an open file of ours; it touches no memory.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(JournalError::InUse { path: path.to_owned() });
    }
    Ok(lock)
}

/// Files of one kind with the number in their name, lowest first.
pub fn numbered(path: &Path, is_segment: bool) -> io::Result<Vec<(u64, PathBuf)>> {
    let prefix = if is_segment { SEGMENT } else { SNAPSHOT };
    let mut found = Vec::new();
    for file in fs::read_dir(path)? {
        let file = file?;
        let name = file.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok()) {
            found.push((number, file.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// What a journal says.
#[derive(Debug, Default)]
pub struct Read {
    pub recovered: Recovered,
    /// The number of the last entry.
    pub last: u64,
    pub notices: Vec<String>,
    pub segments: usize,
    /// The last segment: its number and how much of it is good.
    current: Option<(u64, u64)>,
}

/// Reads the latest snapshot and the segments after it that begin before entry `before`. Only the last file of all may end in the middle
/// of an entry.
pub fn read(path: &Path, before: u64) -> Result<Read, JournalError> {
    let failed = |error| JournalError::Io { path: path.to_owned(), error };
    let mut read = Read::default();
    if let Some((last, file)) = numbered(path, false).map_err(failed)?.pop() {
        read_snapshot(&file, &mut read.recovered)?;
        read.last = last;
    }
    let mut segments = numbered(path, true).map_err(failed)?;
    segments.retain(|(first, _)| *first < before);
    let needed = segments.iter().rposition(|(first, _)| *first <= read.last + 1).unwrap_or(0);
    let segments = &segments[needed..];
    for (at, (first, file)) in segments.iter().enumerate() {
        let is_last = before == u64::MAX && at + 1 == segments.len();
        if *first > read.last + 1 {
            let why = format!("entry {first} follows entry {}: those between are missing", read.last);
            return Err(JournalError::Damaged { path: file.clone(), at: 0, why });
        }
        let good = read_segment(file, is_last, &mut read)?;
        read.current = Some((*first, good));
    }
    read.segments = segments.len();
    Ok(read)
}

fn read_snapshot(file: &Path, into: &mut Recovered) -> Result<(), JournalError> {
    let bytes = read_file(file)?;
    let damaged = |at: usize, why: &str| JournalError::Damaged { path: file.to_owned(), at: at as u64, why: why.to_owned() };
    let mut reading = Reading::of(into);
    let mut expected = 1;
    for piece in (Pieces { bytes: &bytes, at: HEADER.len() }) {
        match piece {
            Piece::Frame { at, frame } if frame.number == expected => {
                reading.take(frame.payload, at).map_err(|malformed| damaged(at, malformed.0))?;
                expected += 1;
            }
            Piece::Frame { at, .. } => return Err(damaged(at, "a part of the snapshot is missing before it")),
            Piece::Spoilt(range) => return Err(damaged(range.start, "no valid entry begins here")),
        }
    }
    reading.end().map_err(|(at, malformed)| damaged(at, malformed.0))?;
    if into.is_whole { Ok(()) } else { Err(damaged(bytes.len(), "the snapshot has no end")) }
}

/// Returns how many bytes are good: all, but for a torn end of the last segment.
fn read_segment(file: &Path, is_last: bool, read: &mut Read) -> Result<u64, JournalError> {
    let damaged = |at: usize, why: String| JournalError::Damaged { path: file.to_owned(), at: at as u64, why };
    if is_last && is_torn_header(file) {
        return Ok(0);
    }
    let bytes = read_file(file)?;
    let mut reading = Reading::of(&mut read.recovered);
    let mut good = bytes.len();
    for piece in (Pieces { bytes: &bytes, at: HEADER.len() }) {
        match piece {
            Piece::Frame { frame, .. } if frame.number <= read.last => {}
            Piece::Frame { at, frame } if frame.number == read.last + 1 => {
                reading.take(frame.payload, at).map_err(|malformed| damaged(at, malformed.0.to_owned()))?;
                read.last = frame.number;
            }
            Piece::Frame { at, frame } => {
                return Err(damaged(at, format!("entry {} follows entry {}: those between are missing", frame.number, read.last)));
            }
            Piece::Spoilt(range) if is_last && range.end == bytes.len() => {
                read.notices.push(format!("{}: its last {} bytes are a torn entry and were cut off", file.display(), range.len()));
                good = range.start;
            }
            Piece::Spoilt(range) => return Err(damaged(range.start, "no valid entry begins here".to_owned())),
        }
    }
    reading.end().map_err(|(at, malformed)| damaged(at, malformed.0.to_owned()))?;
    Ok(good as u64)
}

/// All of a file that begins as it should.
fn read_file(file: &Path) -> Result<Vec<u8>, JournalError> {
    let bytes = fs::read(file).map_err(|error| JournalError::Io { path: file.to_owned(), error })?;
    if bytes.starts_with(&HEADER) {
        return Ok(bytes);
    }
    let why = "it does not begin as a file of this version's journal".to_owned();
    Err(JournalError::Damaged { path: file.to_owned(), at: 0, why })
}

/// The process or the power went when the segment was being made.
fn is_torn_header(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.len() < HEADER.len() as u64) && fs::read(file).is_ok_and(|bytes| HEADER.starts_with(&bytes))
}

/// Takes the entries that were handed over and are in no segment. Returns them as they belong into one.
pub fn read_handover(ring: &Path, read: &mut Read) -> io::Result<Vec<u8>> {
    let bytes = match fs::read(ring) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let mut late: Vec<Frame> = (Pieces { bytes: &bytes, at: 0 })
        .filter_map(|piece| if let Piece::Frame { frame, .. } = piece { Some(frame) } else { None })
        .filter(|frame| frame.number > read.last)
        .collect();
    late.sort_by_key(|frame| frame.number);
    let mut out = Vec::new();
    let mut expected = read.last + 1;
    for found in late {
        if found.number > expected {
            let lost = found.number - expected;
            read.notices
                .push(format!("{lost} entries before entry {} are lost: neither a segment nor the handover has them", found.number));
        }
        expected = found.number + 1;
        if let Err(malformed) = read.recovered.take(found.payload) {
            read.notices.push(format!("entry {} is lost: {}", found.number, malformed.0));
            continue;
        }
        read.last += 1;
        frame::put(&mut out, read.last, |out| out.extend_from_slice(found.payload));
    }
    Ok(out)
}

/// Opens the last segment behind its last good entry, or the first one; `late` are entries to begin with. Returns its number and length.
pub fn resume(path: &Path, read: &Read, late: &[u8]) -> io::Result<(u64, File, u64)> {
    let _ = fs::remove_file(path.join(UNFINISHED));
    let begun = read.current.filter(|(_, good)| *good > 0);
    let (first, mut file, good) = match begun {
        Some((first, good)) => {
            let file = OpenOptions::new().append(true).open(path.join(segment(first)))?;
            file.set_len(good)?;
            (first, file, good)
        }
        None => {
            // The number of a segment is that of its first entry, which may be one of the late ones.
            let first = read.current.map_or_else(|| read.last + 1 - count(late), |(first, _)| first);
            let _ = fs::remove_file(path.join(segment(first)));
            (first, begin_segment(path, first)?, HEADER.len() as u64)
        }
    };
    file.write_all(late)?;
    file.sync_all()?;
    Ok((first, file, good + late.len() as u64))
}

fn count(frames: &[u8]) -> u64 {
    Pieces { bytes: frames, at: 0 }.count() as u64
}

/// A new segment, on the disk with its header and its name before it is used.
pub fn begin_segment(path: &Path, first: u64) -> io::Result<File> {
    let name = path.join(segment(first));
    let begun = (|| {
        let mut file = OpenOptions::new().append(true).create_new(true).open(&name)?;
        file.write_all(&HEADER)?;
        file.sync_all()?;
        sync_folder(path)?;
        Ok(file)
    })();
    if begun.is_err() {
        let _ = fs::remove_file(&name);
    }
    begun
}

/// Puts the segments before entry `before` and the snapshot before them into one new snapshot, and removes them.
pub fn make_snapshot(path: &Path, before: u64) -> Result<(), JournalError> {
    let failed = |error| JournalError::Io { path: path.to_owned(), error };
    let Read { mut recovered, last, .. } = read(path, before)?;
    if last + 1 != before {
        let why = format!("entry {before} follows entry {last}: those between are missing");
        return Err(JournalError::Damaged { path: path.join(segment(before)), at: 0, why });
    }
    recovered.drop_ended();
    write_snapshot(path, last, &recovered).map_err(failed)?;
    for (first, file) in numbered(path, true).map_err(failed)? {
        if first < before {
            fs::remove_file(file).map_err(failed)?;
        }
    }
    for (number, file) in numbered(path, false).map_err(failed)? {
        if number < last {
            fs::remove_file(file).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whole under its name, or not there at all.
pub fn write_snapshot(path: &Path, last: u64, state: &Recovered) -> io::Result<()> {
    let unfinished = path.join(UNFINISHED);
    let written = (|| {
        let mut file = File::create(&unfinished)?;
        let mut out = HEADER.to_vec();
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        let mut accounts = state.accounts.iter().peekable();
        while accounts.peek().is_some() {
            frame::put(&mut out, next(), |out| entry::put_packed_states(out, accounts.by_ref().take(entry::STATES_AT_ONCE)));
            file.write_all(&out)?;
            out.clear();
        }
        for name in &state.frozen {
            frame::put(&mut out, next(), |out| entry::put_named(out, entry::FROZEN, name));
        }
        frame::put(&mut out, next(), |out| entry::put_end(out, state));
        file.write_all(&out)?;
        file.sync_all()?;
        fs::rename(&unfinished, path.join(snapshot(last)))?;
        sync_folder(path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
