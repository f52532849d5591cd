//! What is written in a frame: one thing that happened to accounts, and the state each was in after it.
//!
//! States, not changes, are what a restart reads: the last word about an account is the whole truth about it, so an entry that is lost
//! spoils nothing but itself, and one that is read twice spoils nothing.
//!
//! | kind | then |
//! |---|---|
//! | 1 posted | moment, call, nano-USD, tokens, number of accounts; of each: 1 or 0 (a window that is not in force any more), packed account |
//! | 2 states | number of accounts, packed accounts |
//! | 3 topped up | moment, nano-USD, tokens, packed account |
//! | 4 frozen, 5 unfrozen, 6 closed | name of the account |
//! | 7 end of a snapshot | number of accounts, of posts so far, nano-USD and tokens of those, latest moment |

use std::collections::{HashMap, HashSet};

use crate::ledger::account::{Account, Amount};
use crate::ledger::resting::{Packed, pack, span_of};
use crate::varint::{self, Malformed, Reader};

const POSTED: u8 = 1;
const STATES: u8 = 2;
const TOPPED_UP: u8 = 3;
pub const FROZEN: u8 = 4;
pub const UNFROZEN: u8 = 5;
pub const CLOSED: u8 = 6;
const END: u8 = 7;

/// Accounts in one entry of states: at most 4 MiB with the longest names.
pub const STATES_AT_ONCE: usize = 1000;

/// Bytes of a call's id.
const LONGEST_CALL: usize = 256;

/// `accounts` times `put_account` follow.
pub fn put_posted(out: &mut Vec<u8>, at_ns: u64, call: &str, spent: Amount, accounts: usize) {
    out.push(POSTED);
    varint::put(out, at_ns);
    // As account names: nothing in it may look like an entry.
    let is_plain = call.len() <= LONGEST_CALL && call.bytes().all(|byte| byte >= b' ');
    varint::put_bytes(out, if is_plain { call.as_bytes() } else { b"(not printable, or too long)" });
    varint::put(out, spent.nano_usd);
    varint::put(out, spent.tokens);
    varint::put(out, accounts as u64);
}

/// The window with this serial, which has been posted to.
pub fn put_account(out: &mut Vec<u8>, account: &Account, serial: u64, scratch: &mut Vec<u8>) {
    let in_force = account.window.serial == serial;
    let mut windows = std::iter::once(&account.window).chain(account.older.iter().flat_map(|older| older.iter()));
    let window = windows.find(|window| window.serial == serial).expect("a window with holds is kept");
    out.push(u8::from(in_force && !account.is_closed));
    scratch.clear();
    pack(account, window, scratch);
    varint::put_bytes(out, scratch);
}

pub fn put_states<'a>(out: &mut Vec<u8>, accounts: impl IntoIterator<Item = &'a Account>) {
    let packed: Vec<Vec<u8>> = accounts.into_iter().map(packed).collect();
    put_all(out, packed.iter().map(Vec::as_slice));
}

pub fn put_packed_states<'a>(out: &mut Vec<u8>, accounts: impl IntoIterator<Item = &'a Packed>) {
    let packed: Vec<&[u8]> = accounts.into_iter().map(Packed::bytes).collect();
    put_all(out, packed.into_iter());
}

fn put_all<'a>(out: &mut Vec<u8>, packed: impl ExactSizeIterator<Item = &'a [u8]>) {
    out.push(STATES);
    varint::put(out, packed.len() as u64);
    for bytes in packed {
        varint::put_bytes(out, bytes);
    }
}

pub fn put_topped_up(out: &mut Vec<u8>, at_ns: u64, by: Amount, account: &Account) {
    out.push(TOPPED_UP);
    varint::put(out, at_ns);
    varint::put(out, by.nano_usd);
    varint::put(out, by.tokens);
    varint::put_bytes(out, &packed(account));
}

pub fn put_named(out: &mut Vec<u8>, kind: u8, account: &str) {
    out.push(kind);
    varint::put_bytes(out, account.as_bytes());
}

pub fn put_end(out: &mut Vec<u8>, state: &Recovered) {
    out.push(END);
    for number in [state.accounts.len() as u64, state.posts, state.posted.nano_usd, state.posted.tokens, state.latest_ns] {
        varint::put(out, number);
    }
}

fn packed(account: &Account) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    pack(account, &account.window, &mut bytes);
    bytes
}

/// Everything that a journal says, read to its end.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub accounts: HashSet<Packed>,
    pub frozen: HashSet<Box<str>>,
    /// How many posts since the journal began, and their sum.
    pub posts: u64,
    pub posted: Amount,
    /// The latest moment of any entry.
    pub latest_ns: u64,
    /// A snapshot's end has been read.
    pub is_whole: bool,
}

impl Recovered {
    /// Reads one entry. On an error, part of it may have been taken.
    pub fn take(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let mut reading = Reading::of(self);
        reading.take(payload, 0)?;
        reading.end().map_err(|(_, malformed)| malformed)
    }

    /// Drops accounts whose window had passed when the latest entry was written.
    pub fn drop_ended(&mut self) {
        let now_ns = self.latest_ns;
        self.accounts.retain(|account| account.end_ns().is_none_or(|end_ns| end_ns > now_ns));
    }
}

/// Reading many entries: of each account only the last state is unpacked and kept.
pub struct Reading<'a> {
    into: &'a mut Recovered,
    /// By name: the last packed state, and where its entry is.
    last: HashMap<&'a str, (&'a [u8], usize)>,
}

impl<'a> Reading<'a> {
    pub fn of(into: &'a mut Recovered) -> Reading<'a> {
        Reading { into, last: HashMap::new() }
    }

    /// `at` is where the entry is, for the error that `end` may find.
    pub fn take(&mut self, payload: &'a [u8], at: usize) -> Result<(), Malformed> {
        let mut from = Reader::new(payload);
        match from.byte()? {
            POSTED => self.take_posted(&mut from, at)?,
            STATES => {
                for _ in 0..from.varint()? {
                    self.take_account(from.bytes()?, at)?;
                }
            }
            TOPPED_UP => {
                self.into.latest_ns = self.into.latest_ns.max(from.varint()?);
                let _by = (from.varint()?, from.varint()?);
                self.take_account(from.bytes()?, at)?;
            }
            FROZEN => drop(self.into.frozen.insert(from.text()?.into())),
            UNFROZEN => drop(self.into.frozen.remove(from.text()?)),
            CLOSED => {
                let name = from.text()?;
                self.last.remove(name);
                self.into.accounts.remove(name);
            }
            END => self.take_end(&mut from)?,
            _ => return Err(Malformed("an entry of a kind that this version does not know")),
        }
        from.end()
    }

    /// Keeps what was read. An error comes with the place of its entry.
    pub fn end(self) -> Result<(), (usize, Malformed)> {
        for (packed, at) in self.last.into_values() {
            self.into.accounts.replace(Packed::new(packed).map_err(|malformed| (at, malformed))?);
        }
        Ok(())
    }

    fn take_account(&mut self, packed: &'a [u8], at: usize) -> Result<(), Malformed> {
        self.last.insert(Reader::new(packed).text()?, (packed, at));
        Ok(())
    }

    /// The ledger went on to another window, but nothing was written down of that.
    fn is_window_in_force(&self, packed: &[u8]) -> Result<bool, Malformed> {
        let name = Reader::new(packed).text()?;
        let known = self.last.get(name).map(|(known, _)| *known).or_else(|| self.into.accounts.get(name).map(Packed::bytes));
        Ok(known.map(span_of).transpose()? == Some(span_of(packed)?))
    }

    fn take_posted(&mut self, from: &mut Reader<'a>, at: usize) -> Result<(), Malformed> {
        self.into.latest_ns = self.into.latest_ns.max(from.varint()?);
        from.bytes()?;
        let spent = Amount { nano_usd: from.varint()?, tokens: from.varint()? };
        self.into.posts += 1;
        self.into.posted.nano_usd = self.into.posted.nano_usd.saturating_add(spent.nano_usd);
        self.into.posted.tokens = self.into.posted.tokens.saturating_add(spent.tokens);
        for _ in 0..from.varint()? {
            let in_force = from.byte()? == 1;
            let packed = from.bytes()?;
            if in_force || self.is_window_in_force(packed)? {
                self.take_account(packed, at)?;
            }
        }
        Ok(())
    }

    fn take_end(&mut self, from: &mut Reader<'_>) -> Result<(), Malformed> {
        let accounts = from.varint()?;
        self.into.is_whole = accounts == (self.into.accounts.len() + self.last.len()) as u64;
        (self.into.posts, self.into.posted) = (from.varint()?, Amount { nano_usd: from.varint()?, tokens: from.varint()? });
        self.into.latest_ns = from.varint()?;
        Ok(())
    }
}
