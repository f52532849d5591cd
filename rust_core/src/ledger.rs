//! Budgets: hold the most a call can cost on all of its accounts, or on none; then post what it did cost, once.
//!
//! A reservation is pending until it is posted, voided or expired. Posting more than was reserved is an overrun: the money is
//! spent, so it is posted in full and counted. A reservation that expired gives its hold back, yet can still be posted (late) or
//! voided, once. Whatever is posted lands in the window in which it was reserved.
//!
//! Money is nano-USD. Time is nanoseconds of the Unix clock. Sums are checked: one that would pass `MAX_AMOUNT` changes nothing.

pub mod account;
mod ids;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use account::{Account, Window};
pub use account::{Amount, MAX_AMOUNT, Mode, Rule, Unit};
use ids::{How, IdHasher, Settled};

/// Expired reservations that can still be posted or voided; beyond that the oldest is forgotten, so a caller that never settles
/// cannot fill the memory (about 200 bytes each with five accounts).
pub const EXPIRED_KEPT: usize = 65_536;
/// Accounts looked at by one `expire` in search of idle ones: bounded, so that a million tenants never make a pause.
const SWEPT: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub enum LedgerError {
    NeverExisted { id: u64, next_id: u64 },
    Settled { id: u64, how: &'static str },
    Twice { account: String },
    Overflow { account: String, unit: Unit, held: u64, added: u64 },
    NoTtl,
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverExisted { id, next_id } => write!(f, "reservation {id} never existed: ids given so far are below {next_id}"),
            Self::Settled { id, how } => write!(f, "reservation {id} is already {how}: each is posted or voided once"),
            Self::Twice { account } => write!(f, "accounts: {account:?} is named twice, expected each account once"),
            Self::Overflow { account, unit, held, added } => {
                write!(f, "account {account:?}: {held} + {added} {} is above the largest amount, {MAX_AMOUNT}", unit.name())
            }
            Self::NoTtl => write!(f, "ttl_ns: found 0, expected at least 1"),
        }
    }
}

impl std::error::Error for LedgerError {}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Reserved(Reservation),
    Denied(Denial),
}

/// A hold on all accounts asked for. `warnings`: accounts that reached their warning threshold by it.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: u64,
    pub warnings: Vec<String>,
}

/// Why nothing was held: the first account, in the order asked, in which it did not fit.
#[derive(Debug, PartialEq, Eq)]
pub struct Denial {
    pub account: String,
    pub unit: Unit,
    pub limit: u64,
    pub used: u64,
    pub pending: u64,
    pub asked: u64,
    pub resets_at_ns: Option<u64>,
}

/// What a post did. `late`: at or after the end of the reservation's time.
#[derive(Debug, PartialEq, Eq)]
pub struct Posting {
    pub overrun: Amount,
    pub late: bool,
    pub warnings: Vec<String>,
}

/// One account in one window. `refusals`: how often the limit refused or, in modes warn and shadow, would have.
#[derive(Debug, PartialEq, Eq)]
pub struct Balance {
    pub used: Amount,
    pub pending: Amount,
    pub limit_nano_usd: Option<u64>,
    pub limit_tokens: Option<u64>,
    pub resets_at_ns: Option<u64>,
    pub overruns: u64,
    pub refusals: u64,
}

#[derive(Clone, Copy)]
struct Hold {
    slot: u32,
    window: u64,
}

struct Open {
    held: Amount,
    expires_at_ns: u64,
    is_expired: bool,
    holds: Box<[Hold]>,
}

#[derive(Default)]
pub struct Ledger {
    slots: Vec<Option<Account>>,
    free: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    /// Pending reservations, and expired ones that can still be settled.
    open: HashMap<u64, Open, BuildHasherDefault<IdHasher>>,
    pending: usize,
    /// (expires_at_ns, id), soonest first; may name reservations that were settled since.
    deadlines: BinaryHeap<Reverse<(u64, u64)>>,
    /// Expired ids, oldest first; may name some that were settled since.
    expired: VecDeque<u64>,
    settled: Settled,
    last_id: u64,
    last_window: u64,
    sweep_from: usize,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// Holds `ask` on all accounts until `ttl_ns` from now, or on none. The rule given with an account is the one in force.
    pub fn reserve(&mut self, accounts: &[(&str, Rule)], ask: Amount, ttl_ns: u64, now_ns: u64) -> Result<Outcome, LedgerError> {
        if ttl_ns == 0 {
            return Err(LedgerError::NoTtl);
        }
        if let Some(twice) = named_twice(accounts) {
            return Err(LedgerError::Twice { account: twice.to_owned() });
        }
        let holds: Box<[Hold]> = accounts.iter().map(|(name, rule)| self.enter(name, *rule, now_ns)).collect();
        for hold in &holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("just entered");
            let total = account.window.total();
            if let Err(unit) = total.plus(ask) {
                return Err(overflow(&account.name, unit, total, ask));
            }
            let denied = if account.rule.mode == Mode::Refuse { account.window.exceeded(&account.rule, ask) } else { None };
            if let Some(unit) = denied {
                account.window.refusals += 1;
                return Ok(Outcome::Denied(denial(account, unit, ask)));
            }
        }
        let mut warnings = Vec::new();
        for hold in &holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("just entered");
            if account.window.exceeded(&account.rule, ask).is_some() {
                account.window.refusals += 1;
            }
            account.window.hold(ask);
            if account.window.warns(&account.rule) {
                warnings.push(account.name.to_string());
            }
        }
        self.last_id += 1;
        let expires_at_ns = now_ns.saturating_add(ttl_ns);
        self.open.insert(self.last_id, Open { held: ask, expires_at_ns, is_expired: false, holds });
        self.pending += 1;
        self.remember_deadline(expires_at_ns, self.last_id);
        Ok(Outcome::Reserved(Reservation { id: self.last_id, warnings }))
    }

    /// Posts what a reservation's call really used, in full, and ends it. On an error nothing has changed.
    pub fn post(&mut self, id: u64, spent: Amount, now_ns: u64) -> Result<Posting, LedgerError> {
        let open = self.open.get(&id).ok_or_else(|| self.missing(id))?;
        let held = if open.is_expired { Amount::default() } else { open.held };
        for hold in &open.holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("held accounts are kept");
            let window = account.window_mut(hold.window);
            let without_hold = window.total().beyond(held);
            if let Err(unit) = without_hold.plus(spent) {
                return Err(overflow(&account.name, unit, without_hold, spent));
            }
        }
        let open = self.open.remove(&id).expect("found above");
        let overrun = spent.beyond(open.held);
        let mut warnings = Vec::new();
        for hold in &open.holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("held accounts are kept");
            let rule = account.rule;
            let window = account.window_mut(hold.window);
            window.release(held);
            window.used = window.used.plus(spent).expect("checked above");
            window.overruns += u64::from(!overrun.is_zero());
            if window.warns(&rule) {
                warnings.push(account.name.to_string());
            }
            account.unhold(hold.window);
        }
        self.pending -= usize::from(!open.is_expired);
        self.settled.remember(id, self.last_id, How::Posted);
        Ok(Posting { overrun, late: open.is_expired || now_ns >= open.expires_at_ns, warnings })
    }

    /// Ends a reservation whose call used nothing.
    pub fn void(&mut self, id: u64) -> Result<(), LedgerError> {
        let open = self.open.remove(&id).ok_or_else(|| self.missing(id))?;
        self.end(&open);
        self.settled.remember(id, self.last_id, How::Voided);
        Ok(())
    }

    /// Gives back what reservations past their time hold; returns how many. Also drops some of the accounts that are idle.
    pub fn expire(&mut self, now_ns: u64) -> u64 {
        let mut count = 0;
        while let Some(Reverse((expires_at_ns, id))) = self.deadlines.peek().copied() {
            if expires_at_ns > now_ns {
                break;
            }
            self.deadlines.pop();
            let Some(open) = self.open.get_mut(&id) else { continue };
            open.is_expired = true;
            for hold in &open.holds {
                let account = self.slots[hold.slot as usize].as_mut().expect("held accounts are kept");
                account.window_mut(hold.window).release(open.held);
            }
            self.pending -= 1;
            count += 1;
            self.expired.push_back(id);
            if self.expired.len() > EXPIRED_KEPT {
                self.forget_oldest_expired();
            }
        }
        self.sweep(now_ns);
        count
    }

    /// The account in the window that `now_ns` is in. None: not known, idle for so long that it was dropped, or a window that
    /// has passed and in which nothing is open any more.
    pub fn balance(&self, account: &str, now_ns: u64) -> Option<Balance> {
        let account = self.slots[*self.by_name.get(account)? as usize].as_ref()?;
        if account.window.has_ended(now_ns) {
            return Some(balance(&account.rule, &Window::open(0, &account.rule, now_ns)));
        }
        let mut windows = std::iter::once(&account.window).chain(&account.older);
        windows.find(|window| window.start_ns <= now_ns && !window.has_ended(now_ns)).map(|window| balance(&account.rule, window))
    }

    /// How many accounts are known.
    pub fn accounts(&self) -> usize {
        self.by_name.len()
    }

    /// How many reservations hold something.
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn enter(&mut self, name: &str, rule: Rule, now_ns: u64) -> Hold {
        let serial = self.last_window + 1;
        if let Some(&slot) = self.by_name.get(name) {
            let account = self.slots[slot as usize].as_mut().expect("named accounts exist");
            if account.enter(rule, serial, now_ns) {
                self.last_window = serial;
            }
            return Hold { slot, window: account.window.serial };
        }
        self.last_window = serial;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 accounts fit in memory")
        });
        let name: Arc<str> = name.into();
        self.by_name.insert(name.clone(), slot);
        self.slots[slot as usize] = Some(Account::new(name, rule, serial, now_ns));
        Hold { slot, window: serial }
    }

    fn remember_deadline(&mut self, expires_at_ns: u64, id: u64) {
        self.deadlines.push(Reverse((expires_at_ns, id)));
        // Settled reservations stay in the heap until their time; with a long ttl that would be most of it.
        if self.deadlines.len() > 2 * self.pending + 64 {
            let open = &self.open;
            self.deadlines.retain(|Reverse((_, id))| open.get(id).is_some_and(|open| !open.is_expired));
        }
    }

    fn end(&mut self, open: &Open) {
        for hold in &open.holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("held accounts are kept");
            if !open.is_expired {
                account.window_mut(hold.window).release(open.held);
            }
            account.unhold(hold.window);
        }
        self.pending -= usize::from(!open.is_expired);
    }

    fn forget_oldest_expired(&mut self) {
        let id = self.expired.pop_front().expect("called with one too many");
        if let Some(open) = self.open.remove(&id) {
            self.end(&open);
            self.settled.remember(id, self.last_id, How::Forgotten);
        }
    }

    fn sweep(&mut self, now_ns: u64) {
        for _ in 0..SWEPT.min(self.slots.len()) {
            let slot = self.sweep_from % self.slots.len();
            self.sweep_from = slot + 1;
            if let Some(account) = self.slots[slot].take_if(|account| account.is_idle(now_ns)) {
                self.by_name.remove(&account.name);
                self.free.push(slot as u32);
            }
        }
    }

    fn missing(&self, id: u64) -> LedgerError {
        if id == 0 || id > self.last_id {
            return LedgerError::NeverExisted { id, next_id: self.last_id + 1 };
        }
        LedgerError::Settled { id, how: self.settled.how(id, self.last_id) }
    }
}

fn named_twice<'a>(accounts: &[(&'a str, Rule)]) -> Option<&'a str> {
    let twice = |(at, (name, _)): &(usize, &(&str, Rule))| accounts[..*at].iter().any(|(earlier, _)| earlier == name);
    accounts.iter().enumerate().find(twice).map(|(_, (name, _))| *name)
}

fn overflow(account: &str, unit: Unit, held: Amount, added: Amount) -> LedgerError {
    LedgerError::Overflow { account: account.to_owned(), unit, held: held.of(unit), added: added.of(unit) }
}

fn denial(account: &Account, unit: Unit, ask: Amount) -> Denial {
    Denial {
        account: account.name.to_string(),
        unit,
        limit: account.rule.limit(unit).expect("only a limit denies"),
        used: account.window.used.of(unit),
        pending: account.window.pending.of(unit),
        asked: ask.of(unit),
        resets_at_ns: account.window.end_ns,
    }
}

fn balance(rule: &Rule, window: &Window) -> Balance {
    Balance {
        used: window.used,
        pending: window.pending,
        limit_nano_usd: rule.limit_nano_usd,
        limit_tokens: rule.limit_tokens,
        resets_at_ns: window.end_ns,
        overruns: window.overruns,
        refusals: window.refusals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_reservations_leave_nothing_behind_before_their_time() {
        let rule =
            Rule { limit_nano_usd: None, limit_tokens: None, window_ns: 10, window_offset_ns: 0, warn_percent: 80, mode: Mode::Warn };
        let mut ledger = Ledger::new();
        for now_ns in 0..10_000 {
            let ask = Amount { nano_usd: 1, tokens: 1 };
            assert!(matches!(ledger.reserve(&[("a", rule)], ask, u64::MAX, now_ns), Ok(Outcome::Reserved(_))));
            ledger.post(now_ns + 1, ask, now_ns).unwrap();
        }
        assert!(ledger.deadlines.len() <= 65, "{} deadlines of nothing", ledger.deadlines.len());
        assert!(ledger.open.is_empty() && ledger.slots[0].as_ref().is_some_and(|account| account.older.is_empty()));
    }
}
