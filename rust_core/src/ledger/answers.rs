//! What the ledger answers: values for what was held, denied and posted, errors for misuse.

use std::fmt;

use super::account::{Account, Amount, MAX_AMOUNT, Rule, Span, Unit, Window};

/// Bytes of an account's name.
pub const LONGEST_NAME: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub enum LedgerError {
    NeverExisted {
        id: u64,
        next_id: u64,
    },
    Settled {
        id: u64,
        how: &'static str,
    },
    Twice {
        account: String,
    },
    Overflow {
        account: String,
        unit: Unit,
        held: u64,
        added: u64,
    },
    /// `bytes`: how long the name is.
    NoName {
        bytes: usize,
    },
    Unprintable {
        account: String,
    },
    Elsewhen {
        account: String,
        span: Span,
        now_ns: u64,
    },
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
            Self::NoName { bytes } => write!(f, "accounts: found a name of {bytes} bytes, expected 1 to {LONGEST_NAME}"),
            Self::Unprintable { account } => write!(f, "accounts: found the name {account:?}, expected one without control characters"),
            Self::Elsewhen { account, span, now_ns } => {
                let end_ns = span.end_ns.unwrap_or(u64::MAX);
                write!(f, "account {account:?}: its window is {} to {end_ns}, expected one that holds now_ns {now_ns}", span.start_ns)
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Limit,
    /// It may fit under the limit, yet not into what this process may use of it.
    Lease,
    Frozen,
    Closed,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Limit => "limit",
            Reason::Lease => "lease",
            Reason::Frozen => "frozen",
            Reason::Closed => "closed",
        }
    }
}

/// Why nothing was held: the first account, in the order asked, in which it did not fit. Of an account that is frozen or closed the
/// sums are those of its money; a limit that it does not have is 0.
#[derive(Debug, PartialEq, Eq)]
pub struct Denial {
    pub account: String,
    pub reason: Reason,
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

/// One account in one window. The limits include what was topped up. `refusals`: how often it refused or, in modes warn and shadow,
/// would have.
#[derive(Debug, PartialEq, Eq)]
pub struct Balance {
    pub used: Amount,
    pub pending: Amount,
    pub limit_nano_usd: Option<u64>,
    pub limit_tokens: Option<u64>,
    pub topped_up: Amount,
    pub resets_at_ns: Option<u64>,
    pub overruns: u32,
    pub refusals: u32,
    pub is_frozen: bool,
}

/// Names are 1 to `LONGEST_NAME` bytes without control characters. The journal counts on that: whoever chooses a name could otherwise
/// write in it what looks like an entry, and a search for entries in a damaged file would find it.
pub fn check_name(account: &str) -> Result<(), LedgerError> {
    if account.is_empty() || account.len() > LONGEST_NAME {
        return Err(LedgerError::NoName { bytes: account.len() });
    }
    if account.bytes().any(|byte| byte < b' ') {
        return Err(LedgerError::Unprintable { account: account.to_owned() });
    }
    Ok(())
}

pub fn overflow(account: &str, unit: Unit, held: Amount, added: Amount) -> LedgerError {
    LedgerError::Overflow { account: account.to_owned(), unit, held: held.of(unit), added: added.of(unit) }
}

pub fn denial(account: &Account, reason: Reason, unit: Unit, ask: Amount) -> Denial {
    let window = &account.window;
    Denial {
        account: account.name.to_string(),
        reason,
        unit,
        limit: if reason == Reason::Lease { account.rule.lease(unit) } else { window.limit(&account.rule, unit) }.unwrap_or(0),
        used: window.used.of(unit),
        pending: window.pending.of(unit),
        asked: ask.of(unit),
        resets_at_ns: window.span.end_ns,
    }
}

pub fn balance(rule: &Rule, window: &Window, is_frozen: bool) -> Balance {
    Balance {
        used: window.used,
        pending: window.pending,
        limit_nano_usd: window.limit(rule, Unit::NanoUsd),
        limit_tokens: window.limit(rule, Unit::Tokens),
        topped_up: window.topped_up,
        resets_at_ns: window.span.end_ns,
        overruns: window.overruns,
        refusals: window.refusals,
        is_frozen,
    }
}
