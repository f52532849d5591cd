//! What operators do to accounts, and what of all that the journal is told.

use super::account::{Amount, Unit};
use super::answers::{self, Balance, LedgerError, overflow};
use super::{Hold, Ledger, Rule, check_account};
use crate::journal::entry;

impl Ledger {
    /// Adds to the account's limits, for the window in force only. An account that never was is made.
    pub fn top_up(&mut self, account: &str, rule: Rule, by: Amount, now_ns: u64) -> Result<Balance, LedgerError> {
        check_account(account, &rule, now_ns)?;
        let slot = self.enter(account, rule, now_ns).slot;
        let account = self.slots[slot as usize].as_mut().expect("just entered");
        let before = account.window.topped_up;
        account.window.topped_up = before.plus(by).map_err(|unit: Unit| overflow(&account.name, unit, before, by))?;
        account.window.warned = false;
        let account = &*account;
        if let Some(journal) = self.journal.as_mut().filter(|_| !account.is_closed) {
            journal.append(|out| entry::put_topped_up(out, now_ns, by, account));
        }
        Ok(answers::balance(&account.rule, &account.window, self.frozen.contains(&*account.name)))
    }

    /// Refuses whatever is reserved on accounts of this name, until `unfreeze`. False if it was so already.
    pub fn freeze(&mut self, account: &str) -> Result<bool, LedgerError> {
        answers::check_name(account)?;
        let changed = self.frozen.insert(account.into());
        if let Some(journal) = self.journal.as_mut().filter(|_| changed) {
            journal.append(|out| entry::put_named(out, entry::FROZEN, account));
        }
        Ok(changed)
    }

    /// False if it was not frozen.
    pub fn unfreeze(&mut self, account: &str) -> bool {
        let changed = self.frozen.remove(account);
        if let Some(journal) = self.journal.as_mut().filter(|_| changed) {
            journal.append(|out| entry::put_named(out, entry::UNFROZEN, account));
        }
        changed
    }

    /// Ends an account, a run's for example, and returns its last balance. Calls in flight can still settle; nothing is reserved on
    /// it until they have. After that the name is free for a new account.
    pub fn close(&mut self, account: &str) -> Option<Balance> {
        let is_frozen = self.frozen.contains(account);
        let last = match self.by_name.get(account) {
            None => {
                let packed = self.resting.take(account)?.unpack(0);
                answers::balance(&packed.rule, &packed.window, is_frozen)
            }
            Some(&slot) => {
                let place = &mut self.slots[slot as usize];
                let found = place.as_mut().expect("named accounts exist");
                found.is_closed = true;
                let last = answers::balance(&found.rule, &found.window, is_frozen);
                if found.is_quiet() {
                    *place = None;
                    self.by_name.remove(account);
                    self.free.push(slot);
                }
                last
            }
        };
        if let Some(journal) = &mut self.journal {
            journal.append(|out| entry::put_named(out, entry::CLOSED, account));
        }
        Some(last)
    }

    pub(super) fn write_down(&mut self, holds: &[Hold], spent: Amount, now_ns: u64, call: &str) {
        let Some(journal) = &mut self.journal else { return };
        let (slots, scratch) = (&self.slots, &mut self.scratch);
        journal.append_if_room(|out| {
            entry::put_posted(out, now_ns, call, spent, holds.len());
            for hold in holds {
                let account = slots[hold.slot as usize].as_ref().expect("held accounts are kept");
                entry::put_account(out, account, hold.window, scratch);
            }
        });
        self.catch_up();
    }

    /// When the journal had to let entries go it gets the state of every account as soon as there is room, so that the balances are
    /// whole again.
    pub(super) fn catch_up(&mut self) {
        let Some(journal) = self.journal.as_mut() else { return };
        if !journal.wants_states() {
            return;
        }
        let mut awake = self.slots.iter().flatten().filter(|account| !account.is_closed).peekable();
        while awake.peek().is_some() {
            journal.append(|out| entry::put_states(out, awake.by_ref().take(entry::STATES_AT_ONCE)));
        }
        let mut resting = self.resting.iter().peekable();
        while resting.peek().is_some() {
            journal.append(|out| entry::put_packed_states(out, resting.by_ref().take(entry::STATES_AT_ONCE)));
        }
        for name in &self.frozen {
            journal.append(|out| entry::put_named(out, entry::FROZEN, name));
        }
    }
}
