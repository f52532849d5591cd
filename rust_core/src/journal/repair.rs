//! Looking a journal over without using it, and making a usable one of what is left of a damaged one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::entry::Recovered;
use super::folder::{self, JournalError, Read};
use super::frame::{HEADER, Piece, Pieces};

/// What a journal holds. `damage` is empty when a sidecar would start with it; `lost` says, of a repaired one, what could not be kept.
#[derive(Debug, Default)]
pub struct Report {
    pub state: Recovered,
    pub last: u64,
    pub notices: Vec<String>,
    pub damage: String,
    pub lost: Vec<String>,
    /// Where a repair has put the damaged files.
    pub moved_to: String,
}

/// Reads all of it and changes nothing. Err: it cannot be read at all, or a running process uses it.
pub fn check(path: &Path) -> Result<Report, JournalError> {
    require_folder(path)?;
    let _lock = folder::lock(path)?;
    look(path)
}

/// Of a damaged journal: every valid entry goes, in order, into a new snapshot, and the files are moved into a folder beside it. A journal
/// without damage is left as it is.
pub fn repair(path: &Path) -> Result<Report, JournalError> {
    require_folder(path)?;
    let _lock = folder::lock(path)?;
    let found = look(path)?;
    if found.damage.is_empty() {
        return Ok(found);
    }
    let failed = |error| JournalError::Io { path: path.to_owned(), error };
    let mut kept = Report { damage: found.damage, ..Report::default() };
    gather(path, &mut kept).map_err(failed)?;
    let old = (1..).map(|number| path.join(format!("damaged-{number}"))).find(|old| !old.exists()).expect("numbers do not end");
    kept.moved_to = old.display().to_string();
    replace(path, &old, &kept).map_err(failed)?;
    Ok(kept)
}

fn require_folder(path: &Path) -> Result<(), JournalError> {
    let error = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => io::Error::other("it is no folder"),
        Err(error) => error,
    };
    Err(JournalError::Io { path: path.to_owned(), error })
}

fn look(path: &Path) -> Result<Report, JournalError> {
    let mut read = match folder::read(path, u64::MAX) {
        Err(damaged @ JournalError::Damaged { .. }) => return Ok(Report { damage: damaged.to_string(), ..Report::default() }),
        read => read?,
    };
    let ring = path.join(folder::HANDOVER);
    folder::read_handover(&ring, &mut read).map_err(|error| JournalError::Io { path: ring, error })?;
    let Read { recovered, last, notices, .. } = read;
    Ok(Report { state: recovered, last, notices, ..Report::default() })
}

/// Takes every valid entry of every file, and says what was spoilt or missing.
fn gather(path: &Path, kept: &mut Report) -> io::Result<()> {
    for (number, file) in folder::numbered(path, false)? {
        kept.state.is_whole = false;
        for payload in frames(&file, &mut kept.lost)?.into_values() {
            if let Err(malformed) = kept.state.take(&payload) {
                kept.lost.push(format!("{}: a part that cannot be read: {}", file.display(), malformed.0));
            }
        }
        if !kept.state.is_whole {
            kept.lost.push(format!("{}: not all of its accounts", file.display()));
        }
        kept.last = number;
    }
    let base = kept.last;
    let mut entries = BTreeMap::new();
    for (_, file) in folder::numbered(path, true)? {
        entries.extend(frames(&file, &mut kept.lost)?);
    }
    let ring = path.join(folder::HANDOVER);
    if ring.exists() {
        entries.extend(frames(&ring, &mut Vec::new())?);
    }
    for (number, payload) in entries.split_off(&(base + 1)) {
        if number > kept.last + 1 {
            kept.lost.push(format!("entries {} to {}", kept.last + 1, number - 1));
        }
        if let Err(malformed) = kept.state.take(&payload) {
            kept.lost.push(format!("entry {number}: {}", malformed.0));
        }
        kept.last = number;
    }
    Ok(())
}

fn frames(file: &Path, lost: &mut Vec<String>) -> io::Result<BTreeMap<u64, Vec<u8>>> {
    let bytes = fs::read(file)?;
    let at = if bytes.starts_with(&HEADER) { HEADER.len() } else { 0 };
    let mut found = BTreeMap::new();
    for piece in (Pieces { bytes: &bytes, at }) {
        match piece {
            Piece::Frame { frame, .. } => drop(found.insert(frame.number, frame.payload.to_vec())),
            Piece::Spoilt(range) => lost.push(format!("{}: bytes {} to {}", file.display(), range.start, range.end)),
        }
    }
    Ok(found)
}

/// The new snapshot is there before the first old file goes; a repair that was broken off is done again.
fn replace(path: &Path, old: &Path, kept: &Report) -> io::Result<()> {
    fs::create_dir(old)?;
    let mut files: Vec<_> = folder::numbered(path, true)?.into_iter().chain(folder::numbered(path, false)?).map(|(_, file)| file).collect();
    files.push(path.join(folder::HANDOVER));
    for file in files.iter().filter(|file| file.exists()) {
        fs::copy(file, old.join(file.file_name().expect("files have names")))?;
    }
    folder::sync_folder(old)?;
    // Its number is that of the last entry, so it may take the place of a damaged one. What is numbered up to it is not read any more.
    folder::write_snapshot(path, kept.last, &kept.state)?;
    let new = path.join(folder::snapshot(kept.last));
    for file in files.iter().filter(|file| **file != new && file.exists()) {
        fs::remove_file(file)?;
    }
    folder::sync_folder(path)
}
