//! Budgets: hold the most a call can cost on all of its accounts, or on none; then post what it did cost, once.
//!
//! A reservation is pending until it is posted, voided or expired. Posting more than was reserved is an overrun: the money is
//! spent, so it is posted in full and counted. A reservation that expired gives its hold back, yet can still be posted (late) or
//! voided, once. Whatever is posted lands in the window in which it was reserved.
//!
//! Money is nano-USD. Time is nanoseconds of the Unix clock. Sums are checked: one that would pass `MAX_AMOUNT` changes nothing.
//! With a journal (`journaled`) every post is handed to it, and the accounts are there again after a restart; what was pending is not.

pub mod account;
pub mod answers;
mod ids;
mod operator;
pub mod resting;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use account::{Account, Entered};
pub use account::{Amount, MAX_AMOUNT, Mode, Rule, Span, Unit};
pub use answers::{Balance, Denial, LedgerError, Outcome, Posting, Reason, Reservation};
use answers::{denial, overflow};
use ids::{How, IdHasher, Settled};
use resting::{Packed, Resting};

use crate::journal::{Journal, Recovered, entry};

/// Expired reservations that can still be posted or voided; beyond that the oldest is forgotten, so a caller that never settles
/// cannot fill the memory (about 200 bytes each with five accounts).
pub const EXPIRED_KEPT: usize = 65_536;
/// Accounts looked at by one `expire` in search of idle ones: bounded, so that a million tenants never make a pause.
const SWEPT: usize = 256;
/// Accounts that are kept unpacked, as long as calls do not use more at once.
const AWAKE: usize = 16_384;
/// Accounts that one `reserve` looks at when there are more: several times what it can make.
const LAID_TO_REST: usize = 16;

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

pub struct Ledger {
    slots: Vec<Option<Account>>,
    free: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    resting: Resting,
    awake_most: usize,
    /// Whether or not there is an account of that name.
    frozen: HashSet<Box<str>>,
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
    journal: Option<Journal>,
    scratch: Vec<u8>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new()
    }
}

impl Ledger {
    /// Kept in memory only.
    pub fn new() -> Ledger {
        Ledger {
            slots: Vec::new(),
            free: Vec::new(),
            by_name: HashMap::new(),
            resting: Resting::default(),
            awake_most: AWAKE,
            frozen: HashSet::new(),
            open: HashMap::default(),
            pending: 0,
            deadlines: BinaryHeap::new(),
            expired: VecDeque::new(),
            settled: Settled::default(),
            last_id: 0,
            last_window: 0,
            sweep_from: 0,
            journal: None,
            scratch: Vec::new(),
        }
    }

    /// With the accounts that a journal gave back, and every change handed to it from now on.
    pub fn journaled(journal: Journal, recovered: Recovered) -> Ledger {
        let resting = Resting::of(recovered.accounts);
        Ledger { resting, frozen: recovered.frozen, journal: Some(journal), ..Ledger::new() }
    }

    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Ends the journal; nothing is journaled any more.
    pub fn take_journal(&mut self) -> Option<Journal> {
        self.journal.take()
    }

    /// How many accounts are kept unpacked where no calls in flight need more.
    pub fn keep_awake(&mut self, most: usize) {
        self.awake_most = most;
    }

    /// Holds `ask` on all accounts until `ttl_ns` from now, or on none. The rule given with an account is the one in force; its window
    /// holds `now_ns`.
    pub fn reserve(&mut self, accounts: &[(&str, Rule)], ask: Amount, ttl_ns: u64, now_ns: u64) -> Result<Outcome, LedgerError> {
        check(accounts, ttl_ns, now_ns)?;
        if self.by_name.len() > self.awake_most {
            self.lay_to_rest(now_ns);
        }
        let holds: Box<[Hold]> = accounts.iter().map(|(name, rule)| self.enter(name, *rule, now_ns)).collect();
        for hold in &holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("just entered");
            let total = account.window.total();
            if let Err(unit) = total.plus(ask) {
                return Err(overflow(&account.name, unit, total, ask));
            }
            let denied = if account.is_closed {
                Some((Reason::Closed, Unit::NanoUsd))
            } else if !self.frozen.is_empty() && self.frozen.contains(&*account.name) {
                Some((Reason::Frozen, Unit::NanoUsd))
            } else if account.rule.mode == Mode::Refuse {
                let limit = account.window.exceeded(&account.rule, ask).map(|unit| (Reason::Limit, unit));
                limit.or_else(|| account.window.exceeds_lease(&account.rule, ask).map(|unit| (Reason::Lease, unit)))
            } else {
                None
            };
            if let Some((reason, unit)) = denied {
                // Of a lease that is too small more may be had: then it is asked again, and counted where it is refused.
                account.window.refusals = account.window.refusals.saturating_add(u32::from(reason != Reason::Lease));
                return Ok(Outcome::Denied(denial(account, reason, unit, ask)));
            }
        }
        let mut warnings = Vec::new();
        for hold in &holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("just entered");
            if account.window.exceeded(&account.rule, ask).is_some() {
                account.window.refusals = account.window.refusals.saturating_add(1);
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

    /// Posts what a reservation's call really used, in full, and ends it. On an error nothing has changed. `call` is what the journal
    /// calls it.
    pub fn post(&mut self, id: u64, spent: Amount, now_ns: u64, call: &str) -> Result<Posting, LedgerError> {
        let open = self.open.get(&id).ok_or_else(|| self.missing(id))?;
        let held = if open.is_expired { Amount::default() } else { open.held };
        for hold in &open.holds {
            let account = self.slots[hold.slot as usize].as_mut().expect("held accounts are kept");
            let without_hold = account.window_mut(hold.window).total().beyond(held);
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
            window.overruns = window.overruns.saturating_add(u32::from(!overrun.is_zero()));
            // Of a window that is over nobody need be warned, and whoever is told would take it for the one of now.
            if !window.span.has_ended(now_ns) && window.warns(&rule) {
                warnings.push(account.name.to_string());
            }
        }
        self.write_down(&open.holds, spent, now_ns, call);
        for hold in &open.holds {
            self.slots[hold.slot as usize].as_mut().expect("held accounts are kept").unhold(hold.window);
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
        self.catch_up();
        count
    }

    /// The account in the window that `now_ns` is in. None: nothing is known of it there; it has not been used, or that window has
    /// passed and nothing is open in it any more.
    pub fn balance(&self, account: &str, now_ns: u64) -> Option<Balance> {
        let is_frozen = self.frozen.contains(account);
        let Some(slot) = self.by_name.get(account) else {
            let account = self.resting.get(account)?.unpack(0);
            return account.window.span.contains(now_ns).then(|| answers::balance(&account.rule, &account.window, is_frozen));
        };
        let account = self.slots[*slot as usize].as_ref().expect("named accounts exist");
        let mut windows = std::iter::once(&account.window).chain(account.older.iter().flat_map(|older| older.iter()));
        let window = windows.find(|window| window.span.contains(now_ns))?;
        Some(answers::balance(&account.rule, window, is_frozen))
    }

    /// The window in force, in which a reservation will count: also where a clock was put back to before it. None: the account is not known.
    pub fn window(&self, account: &str) -> Option<Span> {
        match self.by_name.get(account) {
            Some(slot) => self.slots[*slot as usize].as_ref().map(|account| account.window.span),
            None => self.resting.get(account).map(|packed| packed.unpack(0).window.span),
        }
    }

    /// How many accounts are known.
    pub fn accounts(&self) -> usize {
        self.by_name.len() + self.resting.count()
    }

    /// The names of all accounts, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name).chain(self.resting.iter().map(Packed::name))
    }

    /// How many reservations hold something.
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn enter(&mut self, name: &str, rule: Rule, now_ns: u64) -> Hold {
        let slot = match self.by_name.get(name) {
            Some(&slot) => slot,
            None => self.wake(name, rule),
        };
        let account = self.slots[slot as usize].as_mut().expect("named accounts exist");
        if account.is_closed && account.is_quiet() {
            self.last_window += 1;
            *account = Account::new(account.name.clone(), rule, self.last_window);
        }
        match account.enter(rule, self.last_window + 1, now_ns) {
            Entered::Same => {}
            Entered::Opened => self.last_window += 1,
            // Its next post may be in a window that no longer shares a moment with the one last written down.
            Entered::Reshaped if account.is_closed => {}
            Entered::Reshaped => {
                if let Some(journal) = &mut self.journal {
                    journal.append(|out| entry::put_states(out, [&*account]));
                }
            }
        }
        Hold { slot, window: account.window.serial }
    }

    /// Makes the account, out of its packed form if there is one.
    fn wake(&mut self, name: &str, rule: Rule) -> u32 {
        self.last_window += 1;
        let serial = self.last_window;
        let account = self.resting.take(name).map_or_else(|| Account::new(name.into(), rule, serial), |packed| packed.unpack(serial));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 accounts fit in memory")
        });
        self.by_name.insert(account.name.clone(), slot);
        self.slots[slot as usize] = Some(account);
        slot
    }

    /// Packs some of the accounts that no call is using.
    fn lay_to_rest(&mut self, now_ns: u64) {
        for _ in 0..LAID_TO_REST {
            self.sweep_from = (self.sweep_from + 1) % self.slots.len();
            let slot = &mut self.slots[self.sweep_from];
            if let Some(account) = slot.take_if(|account| account.is_quiet()) {
                self.by_name.remove(&account.name);
                self.free.push(self.sweep_from as u32);
                if !account.is_idle(now_ns) {
                    self.resting.put(&account, &mut self.scratch);
                }
            }
        }
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
            self.sweep_from = (self.sweep_from + 1) % self.slots.len();
            if let Some(account) = self.slots[self.sweep_from].take_if(|account| account.is_idle(now_ns)) {
                self.by_name.remove(&account.name);
                self.free.push(self.sweep_from as u32);
            }
        }
        self.resting.drop_ended(now_ns);
    }

    fn missing(&self, id: u64) -> LedgerError {
        if id == 0 || id > self.last_id {
            return LedgerError::NeverExisted { id, next_id: self.last_id + 1 };
        }
        LedgerError::Settled { id, how: self.settled.how(id, self.last_id) }
    }
}

fn check(accounts: &[(&str, Rule)], ttl_ns: u64, now_ns: u64) -> Result<(), LedgerError> {
    if ttl_ns == 0 {
        return Err(LedgerError::NoTtl);
    }
    for (at, (name, rule)) in accounts.iter().enumerate() {
        if accounts[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(LedgerError::Twice { account: (*name).to_owned() });
        }
        check_account(name, rule, now_ns)?;
    }
    Ok(())
}

fn check_account(name: &str, rule: &Rule, now_ns: u64) -> Result<(), LedgerError> {
    answers::check_name(name)?;
    if !rule.span.contains(now_ns) {
        return Err(LedgerError::Elsewhen { account: name.to_owned(), span: rule.span, now_ns });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_reservations_leave_nothing_behind_before_their_time() {
        let mut ledger = Ledger::new();
        for now_ns in 0..10_000 {
            let ask = Amount { nano_usd: 1, tokens: 1 };
            let span = Span { start_ns: now_ns / 10 * 10, end_ns: Some(now_ns / 10 * 10 + 10) };
            let rule = Rule { span, mode: Mode::Warn, ..Rule::default() };
            assert!(matches!(ledger.reserve(&[("a", rule)], ask, u64::MAX, now_ns), Ok(Outcome::Reserved(_))));
            ledger.post(now_ns + 1, ask, now_ns, "").unwrap();
        }
        assert!(ledger.deadlines.len() <= 65, "{} deadlines of nothing", ledger.deadlines.len());
        assert!(ledger.open.is_empty() && ledger.slots[0].as_ref().is_some_and(|account| account.older.is_none()));
    }
}
