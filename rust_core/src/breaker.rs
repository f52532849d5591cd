//! A circuit breaker: after failures in a row nothing is let through for a while, then a few trials decide.
//!
//! Every call asks for a permit and reports one outcome with it. Permits are numbers that count upwards; each change of state
//! starts a new generation, and the outcome of a permit from before it is ignored: it tells of another time.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// What an operator can insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    Closed,
    Open,
}

/// No permit. `retry_at_ns` None: when is not known, because the trials are still out or an operator forced the breaker open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub retry_at_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeverGiven {
    pub permit: u64,
    pub next: u64,
}

impl fmt::Display for NeverGiven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "permit {} was never given: permits given so far are below {}", self.permit, self.next)
    }
}

impl std::error::Error for NeverGiven {}

enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        until_ns: u64,
    },
    /// The permits of the trials that are out, and how many have succeeded.
    HalfOpen {
        out: Vec<u64>,
        succeeded: u32,
    },
}

pub struct Breaker {
    failures: u32,
    open_ns: u64,
    trials: u32,
    phase: Phase,
    forced: Option<Forced>,
    generation: u64,
    /// The first permit of this generation, and the next one to be given.
    first_permit: u64,
    next_permit: u64,
    /// The latest time seen: a clock that goes back changes nothing.
    now_ns: u64,
}

impl Breaker {
    /// Opens for `open_ns` after `failures` in a row; then lets `trials` through. The two counts are at least 1.
    pub fn new(failures: u32, open_ns: u64, trials: u32) -> Breaker {
        assert!(failures > 0 && trials > 0, "failures and trials are at least 1");
        Breaker {
            failures,
            open_ns,
            trials,
            phase: Phase::Closed { failures: 0 },
            forced: None,
            generation: 1,
            first_permit: 1,
            next_permit: 1,
            now_ns: 0,
        }
    }

    /// A permit, to be handed back with `success`, `failure` or `ignore`; or until when there is none.
    pub fn permit(&mut self, now_ns: u64) -> Result<u64, Refusal> {
        self.advance(now_ns);
        match self.forced {
            Some(Forced::Open) => return Err(Refusal { retry_at_ns: None }),
            Some(Forced::Closed) => return Ok(self.give()),
            None => {}
        }
        if let Phase::Open { until_ns } = self.phase {
            if self.now_ns < until_ns {
                return Err(Refusal { retry_at_ns: Some(until_ns) });
            }
            self.enter(Phase::HalfOpen { out: Vec::new(), succeeded: 0 });
        }
        let permit = self.next_permit;
        if let Phase::HalfOpen { out, succeeded } = &mut self.phase {
            if out.len() as u32 + *succeeded >= self.trials {
                return Err(Refusal { retry_at_ns: None });
            }
            out.push(permit);
        }
        Ok(self.give())
    }

    /// The call went well: failures in a row end; in half_open the breaker closes when all trials have.
    pub fn success(&mut self, permit: u64, now_ns: u64) -> Result<(), NeverGiven> {
        self.advance(now_ns);
        if !self.counts(permit)? {
            return Ok(());
        }
        let trials = self.trials;
        match &mut self.phase {
            Phase::Closed { failures } => *failures = 0,
            Phase::Open { .. } => {}
            Phase::HalfOpen { out, succeeded } => {
                if take(out, permit) {
                    *succeeded += 1;
                    if *succeeded == trials {
                        self.enter(Phase::Closed { failures: 0 });
                    }
                }
            }
        }
        Ok(())
    }

    /// The call failed. `open_for_ns` opens at once and for that long, as a provider's Retry-After asks for.
    pub fn failure(&mut self, permit: u64, now_ns: u64, open_for_ns: Option<u64>) -> Result<(), NeverGiven> {
        self.advance(now_ns);
        if !self.counts(permit)? {
            return Ok(());
        }
        let allowed = self.failures;
        let opens = match &mut self.phase {
            Phase::Closed { failures } => {
                *failures += 1;
                *failures >= allowed || open_for_ns.is_some()
            }
            Phase::Open { .. } => false,
            Phase::HalfOpen { out, .. } => take(out, permit),
        };
        if opens {
            let until_ns = self.now_ns.saturating_add(open_for_ns.unwrap_or(self.open_ns));
            self.enter(Phase::Open { until_ns });
        }
        Ok(())
    }

    /// The call's outcome says nothing about the provider (cancelled, the caller's own error): a trial goes to somebody else.
    pub fn ignore(&mut self, permit: u64, now_ns: u64) -> Result<(), NeverGiven> {
        self.advance(now_ns);
        if self.counts(permit)? {
            if let Phase::HalfOpen { out, .. } = &mut self.phase {
                take(out, permit);
            }
        }
        Ok(())
    }

    /// An open breaker whose time is over is half_open: the next caller is a trial.
    pub fn state(&self, now_ns: u64) -> State {
        match (self.forced, &self.phase) {
            (Some(Forced::Open), _) => State::Open,
            (Some(Forced::Closed), _) | (None, Phase::Closed { .. }) => State::Closed,
            (None, Phase::Open { until_ns }) if now_ns.max(self.now_ns) < *until_ns => State::Open,
            (None, _) => State::HalfOpen,
        }
    }

    /// Holds the breaker open or closed whatever the outcomes, or (None) lets it go again, closed and with no failures.
    pub fn force(&mut self, forced: Option<Forced>) {
        if forced != self.forced {
            self.forced = forced;
            self.enter(Phase::Closed { failures: 0 });
        }
    }

    /// Closed, with no failures, not forced.
    pub fn reset(&mut self) {
        self.forced = None;
        self.enter(Phase::Closed { failures: 0 });
    }

    pub fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// Counts the changes of state.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn advance(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    fn give(&mut self) -> u64 {
        self.next_permit += 1;
        self.next_permit - 1
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
        self.first_permit = self.next_permit;
    }

    fn counts(&self, permit: u64) -> Result<bool, NeverGiven> {
        if permit == 0 || permit >= self.next_permit {
            return Err(NeverGiven { permit, next: self.next_permit });
        }
        Ok(self.forced.is_none() && permit >= self.first_permit)
    }
}

fn take(out: &mut Vec<u64>, permit: u64) -> bool {
    let found = out.iter().position(|trial| *trial == permit);
    found.map(|at| out.swap_remove(at)).is_some()
}
