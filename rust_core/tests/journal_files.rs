//! The journal's files: cut off at every byte, changed at every byte, copied away as a kill would leave them, snapshotted, repaired.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use _core::journal::folder::{self, JournalError};
use _core::journal::tail::{Medium, Tail};
use _core::journal::{self, Fsync, Options, Recovered, repair};
use _core::ledger::{Amount, Ledger, Mode, Outcome, Rule, Span};
use proptest::prelude::*;

const OPTIONS: Options = Options { fsync: Fsync::Never, most_waiting_bytes: 1 << 20, segment_bytes: 1 << 20 };
const RULE: Rule = Rule {
    limit_nano_usd: Some(1_000_000),
    limit_tokens: None,
    lease_nano_usd: None,
    lease_tokens: None,
    span: Span { start_ns: 0, end_ns: Some(1_000_000) },
    warn_percent: 80,
    mode: Mode::Refuse,
};

/// A folder of its own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sidecar-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // In memory where there is such a folder: these tests open and sync hundreds of times.
        let memory = Path::new("/dev/shm");
        let path = if memory.is_dir() { memory.join(name) } else { std::env::temp_dir().join(name) };
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// As a process that was killed leaves it: segments first, because entries go from the handover into them.
    fn copy(&self) -> Folder {
        let copy = Folder::new();
        let mut files: Vec<PathBuf> = fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort_by_key(|file| file.ends_with(folder::HANDOVER));
        for file in files {
            fs::copy(&file, copy.0.join(file.file_name().unwrap())).unwrap();
        }
        copy
    }

    fn segment(&self) -> PathBuf {
        self.0.join(folder::segment(1))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path, options: Options) -> Result<(Ledger, Vec<String>), JournalError> {
    journal::open(path, options).map(|(journal, recovered, notices)| (Ledger::journaled(journal, recovered), notices))
}

fn spend(ledger: &mut Ledger, accounts: &[&str], nano_usd: u64, now_ns: u64) {
    let accounts: Vec<(&str, Rule)> = accounts.iter().map(|name| (*name, RULE)).collect();
    let ask = Amount { nano_usd, tokens: 1 };
    let Ok(Outcome::Reserved(made)) = ledger.reserve(&accounts, ask, 100, now_ns) else { panic!("not reserved") };
    ledger.post(made.id, ask, now_ns, "call").unwrap();
}

/// What is used of each account; that is all that a restart has to get right here.
type Used = BTreeMap<String, u64>;

fn used(state: &Recovered) -> Used {
    state.accounts.iter().map(|packed| (packed.name().to_owned(), packed.unpack(1).window.used.nano_usd)).collect()
}

/// Seven entries, and what is used after each of them.
fn sample(folder: &Folder) -> Vec<Used> {
    let (mut ledger, _) = open(&folder.0, OPTIONS).unwrap();
    let mut after = vec![Used::new()];
    let mut add = |changes: &[(&str, u64)]| {
        let mut next = after.last().unwrap().clone();
        next.extend(changes.iter().map(|(name, used)| ((*name).to_owned(), *used)));
        after.push(next);
    };
    spend(&mut ledger, &["a"], 10, 1);
    add(&[("a", 10)]);
    spend(&mut ledger, &["a", "b"], 20, 2);
    add(&[("a", 30), ("b", 20)]);
    ledger.freeze("c").unwrap();
    add(&[]);
    ledger.top_up("c", RULE, Amount { nano_usd: 5, tokens: 0 }, 3).unwrap();
    add(&[("c", 0)]);
    spend(&mut ledger, &["b"], 1, 4);
    add(&[("b", 21)]);
    spend(&mut ledger, &["d"], 7, 5);
    add(&[("d", 7)]);
    ledger.close("d").unwrap();
    let mut last = after.last().unwrap().clone();
    last.remove("d");
    after.push(last);
    assert!(ledger.take_journal().unwrap().close());
    fs::remove_file(folder.0.join(folder::HANDOVER)).unwrap();
    after
}

/// Where each frame of the segment ends; the header's end is the first.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![journal::frame::HEADER.len()];
    while let Some(frame) = journal::frame::first(&bytes[*ends.last().unwrap()..]) {
        ends.push(ends.last().unwrap() + frame.size());
    }
    ends
}

#[test]
fn cut_off_at_any_byte_it_gives_back_all_whole_entries() {
    let folder = Folder::new();
    let after = sample(&folder);
    let bytes = fs::read(folder.segment()).unwrap();
    let ends = ends(&bytes);
    assert_eq!((ends.len(), *ends.last().unwrap()), (after.len(), bytes.len()));
    for length in 0..=bytes.len() {
        fs::write(folder.segment(), &bytes[..length]).unwrap();
        let whole = ends.iter().filter(|end| **end <= length).count().saturating_sub(1);
        let report = repair::check(&folder.0).unwrap();
        assert_eq!((report.damage.as_str(), used(&report.state)), ("", after[whole].clone()), "{length} bytes");
        let is_torn = length > ends[0] && !ends.contains(&length);
        assert_eq!(report.notices.len(), usize::from(is_torn), "{length} bytes: {:?}", report.notices);
        // It goes on from there, and what it writes then is read.
        let (mut ledger, notices) = open(&folder.0, OPTIONS).unwrap();
        assert_eq!(notices.len(), usize::from(is_torn));
        spend(&mut ledger, &["e"], 9, 6);
        assert!(ledger.take_journal().unwrap().close());
        let report = repair::check(&folder.0).unwrap();
        let mut expected = after[whole].clone();
        expected.insert("e".to_owned(), 9);
        assert_eq!((report.last, used(&report.state)), (whole as u64 + 1, expected), "{length} bytes");
        fs::remove_file(folder.0.join(folder::HANDOVER)).unwrap();
    }
}

#[test]
fn changed_at_any_byte_it_is_refused_with_the_place_or_a_torn_end_and_repair_keeps_the_rest() {
    let folder = Folder::new();
    let after = sample(&folder);
    let whole = fs::read(folder.segment()).unwrap();
    let ends = ends(&whole);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(folder.segment(), &bytes).unwrap();
        let spoilt = ends.iter().filter(|end| **end <= at).count(); // 0: the header; else the number of the entry
        if spoilt == ends.len() - 1 {
            let report = repair::check(&folder.0).unwrap();
            assert_eq!((used(&report.state), report.notices.len()), (after[spoilt - 1].clone(), 1), "byte {at}");
            continue;
        }
        let Err(JournalError::Damaged { at: place, .. }) = open(&folder.0, OPTIONS) else { panic!("byte {at} was not noticed") };
        assert_eq!(place as usize, if spoilt == 0 { 0 } else { ends[spoilt - 1] }, "byte {at}");
        let report = repair::repair(&folder.0).unwrap();
        assert!(!report.damage.is_empty() && report.last == after.len() as u64 - 1, "byte {at}: {report:?}");
        let lost = report.lost.join("; ");
        assert!(spoilt == 0 || lost.contains(&format!("entries {spoilt} to {spoilt}")), "byte {at}: {lost}");
        // Entries say how accounts are, so what one said is missed only where no later one says it again.
        let (mut ledger, notices) = open(&folder.0, OPTIONS).unwrap();
        assert!(notices.is_empty());
        assert_eq!(ledger.balance("a", 10).map_or(0, |balance| balance.used.nano_usd), if spoilt == 2 { 10 } else { 30 }, "byte {at}");
        assert_eq!(ledger.balance("b", 10).unwrap().used.nano_usd, if spoilt == 5 { 20 } else { 21 }, "byte {at}");
        assert_eq!(ledger.balance("c", 10).is_some(), spoilt != 4, "byte {at}");
        drop(ledger.take_journal());
        assert_eq!(fs::read(Path::new(&report.moved_to).join(folder::segment(1))).unwrap(), bytes);
        fs::remove_dir_all(&folder.0).unwrap();
        fs::create_dir(&folder.0).unwrap();
    }
}

#[test]
fn a_process_that_is_killed_has_lost_nothing_whatever_the_policy() {
    for fsync in [Fsync::Settle, Fsync::Every(Duration::from_secs(3600)), Fsync::Never] {
        let folder = Folder::new();
        let (mut ledger, _) = open(&folder.0, Options { fsync, ..OPTIONS }).unwrap();
        for turn in 1..=300 {
            spend(&mut ledger, &["a", "b"], turn, turn);
            if turn % 60 == 0 {
                let killed = folder.copy();
                let report = repair::check(&killed.0).unwrap();
                assert_eq!((report.state.posts, report.notices), (turn, vec![]), "{fsync:?}");
                let (ledger, _) = open(&killed.0, OPTIONS).unwrap();
                assert_eq!(ledger.balance("b", turn).unwrap().used.nano_usd, turn * (turn + 1) / 2, "{fsync:?}");
            }
        }
    }
}

#[test]
fn full_segments_become_snapshots_and_nothing_changes() {
    let folder = Folder::new();
    let options = Options { segment_bytes: 4096, ..OPTIONS };
    let mut posts = 0;
    for _ in 0..8 {
        let (mut ledger, notices) = open(&folder.0, options).unwrap();
        assert!(notices.is_empty());
        for turn in 0..200 {
            posts += 1;
            spend(&mut ledger, &["all", &format!("tenant-{turn}")], 3, posts);
        }
        assert!(ledger.take_journal().unwrap().close());
        let report = repair::check(&folder.0).unwrap();
        assert_eq!((report.damage.as_str(), report.last, report.state.posts), ("", posts, posts));
        assert_eq!((used(&report.state)["all"], report.state.accounts.len()), (3 * posts, 201));
        assert_eq!(report.state.posted, Amount { nano_usd: 3 * posts, tokens: posts });
    }
    assert!(folder::numbered(&folder.0, false).unwrap().len() == 1, "one snapshot");
    assert!(folder::numbered(&folder.0, true).unwrap().len() <= 2, "old segments are gone");
}

#[test]
fn a_missing_segment_and_a_second_process_are_told() {
    let folder = Folder::new();
    let (mut ledger, _) = open(&folder.0, OPTIONS).unwrap();
    let Err(second) = open(&folder.0, OPTIONS) else { panic!("two at once") };
    assert!(second.to_string().contains("another process uses it"), "{second}");
    spend(&mut ledger, &["a"], 1, 1);
    assert!(ledger.take_journal().unwrap().close());
    fs::remove_file(folder.0.join(folder::HANDOVER)).unwrap();
    fs::rename(folder.segment(), folder.0.join(folder::segment(9))).unwrap();
    let Err(missing) = open(&folder.0, OPTIONS) else { panic!("opened") };
    assert!(missing.to_string().contains("entry 9 follows entry 0: those between are missing"), "{missing}");
}

/// A disk that fails when and how it is told to.
#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    synced: usize,
    room: usize,
    syncs_fail: bool,
    cuts_fail: bool,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Disk>>);

impl Medium for Shared {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        let fits = bytes.len().min(disk.room.saturating_sub(disk.bytes.len()));
        disk.bytes.extend_from_slice(&bytes[..fits]);
        if fits == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        if !disk.syncs_fail {
            disk.synced = disk.bytes.len();
            return Ok(());
        }
        // Nobody knows what is left after a failed sync of what was written since the last good one.
        let synced = disk.synced;
        disk.bytes[synced..].fill(0xFF);
        Err(io::Error::other("failing"))
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        if disk.cuts_fail {
            return Err(io::Error::other("failing"));
        }
        assert!(length as usize >= disk.synced, "what is safe is never cut off");
        disk.bytes.truncate(length as usize);
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_the_disk_does_in_between_the_entries_are_there_in_order(
        turns in proptest::collection::vec((0usize..40, 0usize..2000, any::<bool>(), any::<bool>(), any::<bool>()), 1..60),
    ) {
        let disk = Shared::default();
        let mut tail = Tail::new(disk.clone(), 0);
        let mut expected = Vec::new();
        for (at, (length, room, cuts_fail, syncs_fail, is_sync_due)) in turns.into_iter().enumerate() {
            {
                let mut disk = disk.0.borrow_mut();
                (disk.room, disk.cuts_fail, disk.syncs_fail) = (room, cuts_fail, syncs_fail);
            }
            let entry = vec![at as u8; length];
            expected.extend_from_slice(&entry);
            tail.add(&entry);
            let outcome = if is_sync_due { tail.sync() } else { tail.write() };
            if outcome.is_ok() {
                prop_assert_eq!(&disk.0.borrow().bytes, &expected);
            }
            if outcome.is_ok() && is_sync_due {
                prop_assert_eq!((tail.unsafe_bytes(), disk.0.borrow().synced), (0, expected.len()));
            }
        }
        {
            let mut disk = disk.0.borrow_mut();
            (disk.room, disk.cuts_fail, disk.syncs_fail) = (usize::MAX, false, false);
        }
        tail.sync().unwrap();
        prop_assert_eq!(&disk.0.borrow().bytes, &expected);
        prop_assert_eq!(tail.length(), expected.len() as u64);
    }
}
