//! Accounts that no call is using, packed: one small piece of memory each, from which the account is restored exactly.
//!
//! The same bytes are what the journal and its snapshots say of an account, so there is one form to read, write and test.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};

use super::account::{Account, Amount, MAX_AMOUNT, Mode, Rule, Span, Window};
use crate::varint::{self, Malformed, Reader};

/// More accounts than this are freed in a thread of their own: freeing a million takes tens of milliseconds.
const FREED_AT_ONCE: usize = 10_000;

const HAS_END: u8 = 1;
const HAS_NANO_USD: u8 = 2;
const HAS_TOKENS: u8 = 4;
const WARNED: u8 = 8;
const MODE_SHIFT: u8 = 4;

/// An account's name, rule and current window in a row of bytes. Equal names are equal entries of a set.
#[derive(Clone, Debug)]
pub struct Packed(Box<[u8]>);

/// Writes what `Packed` holds: name, flags, window, sums, counts, rule.
pub fn pack(account: &Account, window: &Window, out: &mut Vec<u8>) {
    let rule = &account.rule;
    varint::put_bytes(out, account.name.as_bytes());
    let mode = match rule.mode {
        Mode::Refuse => 0,
        Mode::Warn => 1,
        Mode::Shadow => 2,
    };
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(window.span.end_ns.is_some(), HAS_END)
            | flag(rule.limit_nano_usd.is_some(), HAS_NANO_USD)
            | flag(rule.limit_tokens.is_some(), HAS_TOKENS)
            | flag(window.warned, WARNED)
            | mode << MODE_SHIFT,
    );
    varint::put(out, window.span.start_ns);
    if let Some(end_ns) = window.span.end_ns {
        varint::put(out, end_ns - window.span.start_ns);
    }
    for sum in [window.used, window.topped_up] {
        varint::put(out, sum.nano_usd);
        varint::put(out, sum.tokens);
    }
    varint::put(out, window.overruns.into());
    varint::put(out, window.refusals.into());
    out.push(rule.warn_percent);
    for limit in [rule.limit_nano_usd, rule.limit_tokens].into_iter().flatten() {
        varint::put(out, limit);
    }
}

/// What `pack` wrote: the name, the rule, whose span is the window's, and the window, with this serial.
fn read(bytes: &[u8], serial: u64) -> Result<(&str, Rule, Window), Malformed> {
    let mut from = Reader::new(bytes);
    let name = from.text()?;
    let flags = from.byte()?;
    let span = span(&mut from, flags)?;
    let mut sum = || Ok(Amount { nano_usd: amount(&mut from)?, tokens: amount(&mut from)? });
    let (used, topped_up) = (sum()?, sum()?);
    let mut count = || u32::try_from(from.varint()?).map_err(|_| Malformed("a count above 2^32"));
    let (overruns, refusals) = (count()?, count()?);
    let warn_percent = from.byte()?;
    let mut limit = |bit: u8| if flags & bit != 0 { amount(&mut from).map(Some) } else { Ok(None) };
    let (limit_nano_usd, limit_tokens) = (limit(HAS_NANO_USD)?, limit(HAS_TOKENS)?);
    let mode = match flags >> MODE_SHIFT {
        0 => Mode::Refuse,
        1 => Mode::Warn,
        2 => Mode::Shadow,
        _ => return Err(Malformed("an unknown mode")),
    };
    from.end()?;
    let rule = Rule { limit_nano_usd, limit_tokens, span, warn_percent, mode, ..Rule::default() };
    let warned = flags & WARNED != 0;
    Ok((name, rule, Window { serial, span, used, pending: Amount::default(), topped_up, holds: 0, overruns, refusals, warned }))
}

fn amount(from: &mut Reader<'_>) -> Result<u64, Malformed> {
    Some(from.varint()?).filter(|amount| *amount <= MAX_AMOUNT).ok_or(Malformed("an amount above 2^63"))
}

fn span(from: &mut Reader<'_>, flags: u8) -> Result<Span, Malformed> {
    let start_ns = from.varint()?;
    let end_ns = match flags & HAS_END {
        0 => None,
        _ => Some(start_ns.checked_add(from.varint()?).ok_or(Malformed("a window that ends after 2^64"))?),
    };
    Ok(Span { start_ns, end_ns })
}

/// The window of what `pack` wrote.
pub fn span_of(bytes: &[u8]) -> Result<Span, Malformed> {
    let mut from = Reader::new(bytes);
    let flags = from.text().and_then(|_| from.byte())?;
    span(&mut from, flags)
}

impl Packed {
    /// Of bytes that `pack` wrote; others are refused.
    pub fn new(bytes: &[u8]) -> Result<Packed, Malformed> {
        read(bytes, 0)?;
        Ok(Packed(bytes.into()))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn end_ns(&self) -> Option<u64> {
        span_of(&self.0).expect("packed by `pack`").end_ns
    }

    /// The account again, with a window of this serial.
    pub fn unpack(&self, serial: u64) -> Account {
        let (name, rule, window) = read(&self.0, serial).expect("packed by `pack`");
        Account { name: name.into(), rule, window, older: None, is_closed: false }
    }

    pub fn name(&self) -> &str {
        Reader::new(&self.0).text().expect("packed by `pack`")
    }
}

impl Borrow<str> for Packed {
    fn borrow(&self) -> &str {
        self.name()
    }
}

impl Hash for Packed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Packed) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Packed {}

/// All packed accounts, by the end of their window, so that those of a window that has passed go together.
#[derive(Debug, Default)]
pub struct Resting {
    by_end: BTreeMap<u64, HashSet<Packed>>,
}

impl Resting {
    pub fn of(accounts: HashSet<Packed>) -> Resting {
        let mut resting = Resting::default();
        for packed in accounts {
            resting.insert(packed);
        }
        resting
    }

    pub fn put(&mut self, account: &Account, scratch: &mut Vec<u8>) {
        scratch.clear();
        pack(account, &account.window, scratch);
        self.insert(Packed(scratch.as_slice().into()));
    }

    fn insert(&mut self, packed: Packed) {
        self.by_end.entry(packed.end_ns().unwrap_or(u64::MAX)).or_default().insert(packed);
    }

    pub fn take(&mut self, name: &str) -> Option<Packed> {
        self.by_end.values_mut().find_map(|accounts| accounts.take(name))
    }

    pub fn get(&self, name: &str) -> Option<&Packed> {
        self.by_end.values().find_map(|accounts| accounts.get(name))
    }

    /// Forgets accounts whose window has passed: their next use would begin a new one.
    pub fn drop_ended(&mut self, now_ns: u64) {
        while let Some(ends) = self.by_end.first_entry().filter(|ends| *ends.key() <= now_ns && *ends.key() != u64::MAX) {
            let accounts = ends.remove();
            if accounts.len() > FREED_AT_ONCE {
                std::thread::spawn(move || drop(accounts));
            }
        }
    }

    pub fn count(&self) -> usize {
        self.by_end.values().map(HashSet::len).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Packed> {
        self.by_end.values().flatten()
    }
}
