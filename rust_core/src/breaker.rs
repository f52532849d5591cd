//! A circuit breaker: after failures in a row, or too many in a window, nothing is let through for a while, then a few trials decide.
//!
//! Every call asks for a permit and reports one outcome with it. Permits are numbers that count upwards; each change of state
//! starts a new generation, and the outcome of a permit from before it is ignored: it tells of another time. A provider that has just
//! come back is not run over by everybody at once: a ramp lets few calls out at first, and more with each success.

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

/// Why a breaker last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Failures,
    Rate,
    Hint,
    Asked,
    TimeOver,
    TrialFailed,
    TrialsSucceeded,
    Held,
    LetGo,
}

impl Why {
    pub fn name(self) -> &'static str {
        match self {
            Why::Failures => "failures",
            Why::Rate => "rate",
            Why::Hint => "hint",
            Why::Asked => "asked",
            Why::TimeOver => "time_over",
            Why::TrialFailed => "trial_failed",
            Why::TrialsSucceeded => "trials_succeeded",
            Why::Held => "held",
            Why::LetGo => "let_go",
        }
    }
}

/// No permit. `retry_at_ns` None: when is not known, because the trials or the ramp's permits are out, or an operator holds it open.
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

/// A share of failures that opens a breaker. It says nothing before `least_calls` are in the window.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub percent: u32,
    pub window_ns: u64,
    pub least_calls: u32,
}

const BUCKETS: usize = 10;

/// Calls and failures of the last nine to ten tenths of a window: whole buckets fall out, so that the memory does not grow with calls.
struct Window {
    rate: Rate,
    width_ns: u64,
    /// The newest bucket, and when it ends.
    at: usize,
    ends_ns: u64,
    buckets: [(u64, u64); BUCKETS],
    calls: u64,
    failures: u64,
}

impl Window {
    fn new(rate: Rate) -> Window {
        let width_ns = rate.window_ns.div_ceil(BUCKETS as u64).max(1);
        Window { rate, width_ns, at: 0, ends_ns: 0, buckets: [(0, 0); BUCKETS], calls: 0, failures: 0 }
    }

    fn add(&mut self, now_ns: u64, failed: bool) {
        if now_ns >= self.ends_ns {
            self.turn(now_ns);
        }
        let failed = u64::from(failed);
        self.calls += 1;
        self.failures += failed;
        let bucket = &mut self.buckets[self.at];
        *bucket = (bucket.0 + 1, bucket.1 + failed);
    }

    fn turn(&mut self, now_ns: u64) {
        let steps = (now_ns - self.ends_ns) / self.width_ns + 1;
        self.ends_ns = self.ends_ns.saturating_add(steps.saturating_mul(self.width_ns));
        for _ in 0..steps.min(BUCKETS as u64) {
            self.at = (self.at + 1) % BUCKETS;
            let (calls, failures) = std::mem::take(&mut self.buckets[self.at]);
            self.calls -= calls;
            self.failures -= failures;
        }
    }

    fn clear(&mut self) {
        self.buckets = [(0, 0); BUCKETS];
        (self.calls, self.failures) = (0, 0);
    }

    fn is_over(&self) -> bool {
        self.calls >= u64::from(self.rate.least_calls) && self.failures * 100 > u64::from(self.rate.percent) * self.calls
    }
}

/// So many permits out at once are no longer a start: the ramp is over.
const RAMP_END: usize = 64;

/// Calls that last, or that nobody makes, must not keep the door narrow: the room doubles by itself this often.
const RAMP_STEP_NS: u64 = 5_000_000_000;

/// The permits that are out, and how many may be: one more with each success, which doubles it in the time that a call takes.
struct Ramp {
    room: usize,
    out: Vec<u64>,
    grows_at_ns: u64,
}

impl Ramp {
    fn grow(&mut self, now_ns: u64) {
        while self.room < RAMP_END && now_ns >= self.grows_at_ns {
            self.room *= 2;
            self.grows_at_ns = self.grows_at_ns.saturating_add(RAMP_STEP_NS);
        }
    }
}

enum Phase {
    /// `hinted`: somebody else saw the provider fail, and the next failure is enough.
    Closed {
        failures: u32,
        hinted: bool,
        ramp: Option<Ramp>,
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

const CLOSED: Phase = Phase::Closed { failures: 0, hinted: false, ramp: None };

pub struct Breaker {
    failures: u32,
    open_ns: u64,
    trials: u32,
    window: Option<Window>,
    phase: Phase,
    forced: Option<Forced>,
    generation: u64,
    why: Option<Why>,
    /// The first permit of this generation, and the next one to be given.
    first_permit: u64,
    next_permit: u64,
    /// The latest time seen: a clock that goes back changes nothing.
    now_ns: u64,
}

impl Breaker {
    /// Opens for `open_ns` after `failures` in a row, or on a `rate`; then lets `trials` through. The two counts are at least 1.
    pub fn new(failures: u32, open_ns: u64, trials: u32, rate: Option<Rate>) -> Breaker {
        assert!(failures > 0 && trials > 0, "failures and trials are at least 1");
        Breaker {
            failures,
            open_ns,
            trials,
            window: rate.map(Window::new),
            phase: CLOSED,
            forced: None,
            generation: 1,
            why: None,
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
            self.enter(Phase::HalfOpen { out: Vec::new(), succeeded: 0 }, Why::TimeOver);
        }
        let permit = self.next_permit;
        let place = match &mut self.phase {
            Phase::Closed { ramp, .. } => {
                if let Some(running) = ramp {
                    running.grow(self.now_ns);
                    if running.room >= RAMP_END {
                        *ramp = None;
                    }
                }
                ramp.as_mut().map(|ramp| (&mut ramp.out, ramp.room))
            }
            Phase::Open { .. } => None,
            Phase::HalfOpen { out, succeeded } => Some((out, (self.trials - *succeeded) as usize)),
        };
        if let Some((out, room)) = place {
            if out.len() >= room {
                return Err(Refusal { retry_at_ns: None });
            }
            out.push(permit);
        }
        Ok(self.give())
    }

    /// An open breaker's pause ends at `until_ns` at the latest: whoever asks then is a trial. Nothing else is changed.
    pub fn shorten(&mut self, until_ns: u64) {
        if let Phase::Open { until_ns: until } = &mut self.phase {
            *until = until_ns.min(*until);
        }
    }

    /// The call went well: failures in a row and a hint end, a ramp widens; in half_open the breaker closes when all trials have.
    pub fn success(&mut self, permit: u64, now_ns: u64) -> Result<(), NeverGiven> {
        self.advance(now_ns);
        if !self.counts(permit)? || !self.take_back(permit) {
            return Ok(());
        }
        match &mut self.phase {
            Phase::Closed { failures, hinted, ramp } => {
                (*failures, *hinted) = (0, false);
                if let Some(ramp) = ramp {
                    ramp.grow(self.now_ns);
                    ramp.room += 1;
                }
                if let Some(window) = &mut self.window {
                    window.add(self.now_ns, false);
                }
            }
            Phase::Open { .. } => {}
            Phase::HalfOpen { succeeded, .. } => {
                *succeeded += 1;
                if *succeeded == self.trials {
                    let room = (self.trials as usize).saturating_mul(2);
                    let ramp = Ramp { room, out: Vec::new(), grows_at_ns: self.now_ns.saturating_add(RAMP_STEP_NS) };
                    self.enter(Phase::Closed { failures: 0, hinted: false, ramp: Some(ramp) }, Why::TrialsSucceeded);
                }
            }
        }
        Ok(())
    }

    /// The call failed. `open_for_ns` opens at once and for that long, as a provider's Retry-After asks for.
    pub fn failure(&mut self, permit: u64, now_ns: u64, open_for_ns: Option<u64>) -> Result<(), NeverGiven> {
        self.advance(now_ns);
        if !self.counts(permit)? || !self.take_back(permit) {
            return Ok(());
        }
        let opens = match &mut self.phase {
            Phase::Closed { failures, hinted, .. } => {
                *failures += 1;
                if let Some(window) = &mut self.window {
                    window.add(self.now_ns, true);
                }
                if open_for_ns.is_some() {
                    Some(Why::Asked)
                } else if *failures >= self.failures {
                    Some(Why::Failures)
                } else if *hinted {
                    Some(Why::Hint)
                } else {
                    // Only a failure can open: a rate that rises because old successes are forgotten says nothing new.
                    self.window.as_ref().is_some_and(Window::is_over).then_some(Why::Rate)
                }
            }
            Phase::Open { .. } => None,
            Phase::HalfOpen { .. } => Some(Why::TrialFailed),
        };
        if let Some(why) = opens {
            let until_ns = self.now_ns.saturating_add(open_for_ns.unwrap_or(self.open_ns));
            self.enter(Phase::Open { until_ns }, why);
        }
        Ok(())
    }

    /// The call's outcome says nothing about the provider (cancelled, the caller's own error): its place goes to somebody else.
    pub fn ignore(&mut self, permit: u64, now_ns: u64) -> Result<(), NeverGiven> {
        self.advance(now_ns);
        if self.counts(permit)? {
            self.take_back(permit);
        }
        Ok(())
    }

    /// Somebody else saw the provider fail: while closed, the next failure opens, and a success says otherwise.
    pub fn hint(&mut self, now_ns: u64) {
        self.advance(now_ns);
        if self.forced.is_none() {
            if let Phase::Closed { hinted, .. } = &mut self.phase {
                *hinted = true;
            }
        }
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

    /// When an open breaker lets a trial through. None where it is not open or an operator holds it.
    pub fn retry_at_ns(&self, now_ns: u64) -> Option<u64> {
        match (self.forced, &self.phase) {
            (None, Phase::Open { until_ns }) if now_ns.max(self.now_ns) < *until_ns => Some(*until_ns),
            _ => None,
        }
    }

    /// Holds the breaker open or closed whatever the outcomes, or (None) lets it go again, closed and with no failures.
    pub fn force(&mut self, forced: Option<Forced>) {
        if forced != self.forced {
            self.forced = forced;
            self.enter(CLOSED, if forced.is_some() { Why::Held } else { Why::LetGo });
        }
    }

    /// Closed, with no failures, not forced.
    pub fn reset(&mut self) {
        self.forced = None;
        self.enter(CLOSED, Why::LetGo);
    }

    pub fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// Counts the changes of state and of what operators hold, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Why it last changed. None: it never did.
    pub fn why(&self) -> Option<Why> {
        self.why
    }

    fn advance(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    fn give(&mut self) -> u64 {
        self.next_permit += 1;
        self.next_permit - 1
    }

    fn enter(&mut self, phase: Phase, why: Why) {
        self.phase = phase;
        self.why = Some(why);
        self.generation += 1;
        self.first_permit = self.next_permit;
        if let Some(window) = &mut self.window {
            window.clear();
        }
    }

    fn counts(&self, permit: u64) -> Result<bool, NeverGiven> {
        if permit == 0 || permit >= self.next_permit {
            return Err(NeverGiven { permit, next: self.next_permit });
        }
        Ok(self.forced.is_none() && permit >= self.first_permit)
    }

    /// Frees a trial's or a ramp's place. False: it was freed before, and a second outcome is not heard.
    fn take_back(&mut self, permit: u64) -> bool {
        match &mut self.phase {
            Phase::Closed { ramp: Some(ramp), .. } => take(&mut ramp.out, permit),
            Phase::HalfOpen { out, .. } => take(out, permit),
            Phase::Closed { .. } | Phase::Open { .. } => true,
        }
    }
}

fn take(out: &mut Vec<u64>, permit: u64) -> bool {
    let found = out.iter().position(|trial| *trial == permit);
    found.map(|at| out.swap_remove(at)).is_some()
}
