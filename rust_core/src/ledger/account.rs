//! One account of the ledger: its rule, the window in force, and earlier windows that can still be posted to.

use std::sync::Arc;

/// The largest amount an account can hold: the ledger's numbers also live in 64-bit signed columns and protobuf fields.
pub const MAX_AMOUNT: u64 = i64::MAX as u64;

/// Money and tokens of one call or one balance. They travel together because every call has both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub nano_usd: u64,
    pub tokens: u64,
}

impl Amount {
    /// The sum, or the unit in which it would pass `MAX_AMOUNT`.
    pub fn plus(self, other: Amount) -> Result<Amount, Unit> {
        Ok(Amount {
            nano_usd: sum(self.nano_usd, other.nano_usd).ok_or(Unit::NanoUsd)?,
            tokens: sum(self.tokens, other.tokens).ok_or(Unit::Tokens)?,
        })
    }

    fn minus(self, other: Amount) -> Amount {
        Amount { nano_usd: self.nano_usd - other.nano_usd, tokens: self.tokens - other.tokens }
    }

    /// What of `self` goes beyond `other`, unit by unit.
    pub fn beyond(self, other: Amount) -> Amount {
        Amount { nano_usd: self.nano_usd.saturating_sub(other.nano_usd), tokens: self.tokens.saturating_sub(other.tokens) }
    }

    pub fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::NanoUsd => self.nano_usd,
            Unit::Tokens => self.tokens,
        }
    }

    pub fn is_zero(self) -> bool {
        self.nano_usd == 0 && self.tokens == 0
    }
}

fn sum(a: u64, b: u64) -> Option<u64> {
    a.checked_add(b).filter(|total| *total <= MAX_AMOUNT)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    NanoUsd,
    Tokens,
}

impl Unit {
    pub const BOTH: [Unit; 2] = [Unit::NanoUsd, Unit::Tokens];

    pub fn name(self) -> &'static str {
        match self {
            Unit::NanoUsd => "nano_usd",
            Unit::Tokens => "tokens",
        }
    }
}

/// What happens at the limit: `Refuse` denies, `Warn` lets through and warns, `Shadow` lets through and only counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Refuse,
    Warn,
    Shadow,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Refuse => "refuse",
            Mode::Warn => "warn",
            Mode::Shadow => "shadow",
        }
    }
}

/// From `start_ns` to before `end_ns`; no end: for ever. Where days, weeks and months begin is a matter of calendars and time
/// zones, so whoever knows those hands the moments in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    pub start_ns: u64,
    pub end_ns: Option<u64>,
}

impl Span {
    pub fn contains(&self, now_ns: u64) -> bool {
        self.start_ns <= now_ns && !self.has_ended(now_ns)
    }

    pub fn has_ended(&self, now_ns: u64) -> bool {
        self.end_ns.is_some_and(|end_ns| now_ns >= end_ns)
    }
}

/// A limit as settings give it, and the window it holds for.
///
/// Where several processes share the limit, the lease is what this one may use of it: used and pending together, whatever was topped up.
/// It is never kept: it holds for the reservation that it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub limit_nano_usd: Option<u64>,
    pub limit_tokens: Option<u64>,
    pub lease_nano_usd: Option<u64>,
    pub lease_tokens: Option<u64>,
    pub span: Span,
    pub warn_percent: u8,
    pub mode: Mode,
}

impl Default for Rule {
    /// No limit, for ever.
    fn default() -> Rule {
        let (none, span) = (None, Span::default());
        Rule {
            limit_nano_usd: none,
            limit_tokens: none,
            lease_nano_usd: none,
            lease_tokens: none,
            span,
            warn_percent: 80,
            mode: Mode::Refuse,
        }
    }
}

impl Rule {
    pub fn limit(&self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::NanoUsd => self.limit_nano_usd,
            Unit::Tokens => self.limit_tokens,
        }
    }

    pub fn lease(&self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::NanoUsd => self.lease_nano_usd,
            Unit::Tokens => self.lease_tokens,
        }
    }

    fn same_threshold(&self, other: &Rule) -> bool {
        self.limit_nano_usd == other.limit_nano_usd && self.limit_tokens == other.limit_tokens && self.warn_percent == other.warn_percent
    }
}

/// Spending between two moments. `serial` is unique in a ledger, so a hold finds its window again, or finds it gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub serial: u64,
    pub span: Span,
    pub used: Amount,
    pub pending: Amount,
    /// What was added to the limits for this window only.
    pub topped_up: Amount,
    /// Reservations that may still be posted here: pending ones, and expired ones not yet settled.
    pub holds: u32,
    pub overruns: u32,
    pub refusals: u32,
    pub warned: bool,
}

impl Window {
    pub fn open(serial: u64, span: Span) -> Window {
        let nothing = Amount::default();
        Window { serial, span, used: nothing, pending: nothing, topped_up: nothing, holds: 0, overruns: 0, refusals: 0, warned: false }
    }

    fn is_untouched(&self) -> bool {
        self.used.is_zero() && self.topped_up.is_zero() && self.overruns == 0 && self.refusals == 0 && !self.warned
    }

    pub fn total(&self) -> Amount {
        // Never above MAX_AMOUNT per unit: `hold` and `post` check the sum before they write.
        Amount { nano_usd: self.used.nano_usd + self.pending.nano_usd, tokens: self.used.tokens + self.pending.tokens }
    }

    /// The rule's limit and what was added to it; at most `MAX_AMOUNT`.
    pub fn limit(&self, rule: &Rule, unit: Unit) -> Option<u64> {
        rule.limit(unit).map(|limit| limit.saturating_add(self.topped_up.of(unit)).min(MAX_AMOUNT))
    }

    /// The first unit in which `ask` does not fit under the limit. Asking nothing always fits: a model that costs nothing may
    /// answer where the money has run out.
    pub fn exceeded(&self, rule: &Rule, ask: Amount) -> Option<Unit> {
        self.beyond(ask, |unit| self.limit(rule, unit))
    }

    /// The first unit in which `ask` does not fit into the lease, if the rule has one.
    pub fn exceeds_lease(&self, rule: &Rule, ask: Amount) -> Option<Unit> {
        self.beyond(ask, |unit| rule.lease(unit))
    }

    fn beyond(&self, ask: Amount, most: impl Fn(Unit) -> Option<u64>) -> Option<Unit> {
        let held = self.total();
        let fits = |unit| most(unit).is_none_or(|most| ask.of(unit) <= most.saturating_sub(held.of(unit)));
        Unit::BOTH.into_iter().find(|unit| ask.of(*unit) > 0 && !fits(*unit))
    }

    pub fn hold(&mut self, ask: Amount) {
        self.pending = Amount { nano_usd: self.pending.nano_usd + ask.nano_usd, tokens: self.pending.tokens + ask.tokens };
        self.holds += 1;
    }

    pub fn release(&mut self, held: Amount) {
        self.pending = self.pending.minus(held);
    }

    /// True the first time the total reaches the rule's warning threshold in this window. Shadow rules never warn.
    pub fn warns(&mut self, rule: &Rule) -> bool {
        let crossed = !self.warned && rule.mode != Mode::Shadow && self.is_at_threshold(rule);
        self.warned |= crossed;
        crossed
    }

    fn is_at_threshold(&self, rule: &Rule) -> bool {
        let total = self.total();
        Unit::BOTH.into_iter().any(|unit| match self.limit(rule, unit) {
            // In 128 bits: a limit may be as large as MAX_AMOUNT.
            Some(limit) => total.of(unit) > 0 && total.of(unit) as u128 * 100 >= limit as u128 * rule.warn_percent as u128,
            None => false,
        })
    }
}

/// What bringing an account to the present did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The window in force is the one of before.
    Same,
    /// A new window began: the serial that was offered is its own.
    Opened,
    /// The window in force has other bounds now, and what was spent in it counts in those.
    Reshaped,
}

/// An account: made on first use, gone again when idle after its window.
#[derive(Debug)]
pub struct Account {
    pub name: Arc<str>,
    pub rule: Rule,
    pub window: Window,
    /// Windows that have passed but still have holds. Boxed because there are hardly ever any, and accounts are many.
    #[allow(clippy::box_collection)]
    pub older: Option<Box<Vec<Window>>>,
    pub is_closed: bool,
}

impl Account {
    pub fn new(name: Arc<str>, rule: Rule, serial: u64) -> Account {
        Account { name, rule, window: Window::open(serial, rule.span), older: None, is_closed: false }
    }

    /// Brings the account to `now_ns` under `rule`.
    ///
    /// An account never goes back to a window that has passed, whatever the clock does: that would grant its limit twice. When
    /// the window's shape changes, what was spent moves into the new one: forgetting it would grant the limit twice as well.
    pub fn enter(&mut self, rule: Rule, serial: u64, now_ns: u64) -> Entered {
        let mut entered = Entered::Same;
        let here = self.window.span;
        if here.has_ended(now_ns) {
            let passed = std::mem::replace(&mut self.window, Window::open(serial, rule.span));
            if passed.holds > 0 {
                self.older.get_or_insert_default().push(passed);
            }
            entered = Entered::Opened;
        } else if here != rule.span && !rule.span.has_ended(here.start_ns) {
            self.window.span = rule.span;
            entered = Entered::Reshaped;
        }
        if !self.rule.same_threshold(&rule) {
            self.window.warned = false;
        }
        self.rule = rule;
        entered
    }

    /// The window with this serial. Only for a serial that has holds: such a window is never dropped.
    pub fn window_mut(&mut self, serial: u64) -> &mut Window {
        if self.window.serial == serial {
            return &mut self.window;
        }
        self.older
            .iter_mut()
            .flat_map(|older| older.iter_mut())
            .find(|window| window.serial == serial)
            .expect("a window with holds is kept")
    }

    /// Ends one hold of the window, which is dropped if it has passed and this was its last.
    pub fn unhold(&mut self, serial: u64) {
        let window = self.window_mut(serial);
        window.holds -= 1;
        if window.holds == 0 && self.window.serial != serial {
            let older = self.older.as_mut().expect("the window is in it");
            older.retain(|window| window.serial != serial);
            if older.is_empty() {
                self.older = None;
            }
        }
    }

    /// No call in flight knows of it.
    pub fn is_quiet(&self) -> bool {
        self.older.is_none() && self.window.holds == 0
    }

    /// True when dropping the account would change nothing: its next use would make it again just as it is.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.is_quiet() && (self.is_closed || self.window.span.has_ended(now_ns) || self.window.is_untouched())
    }
}
