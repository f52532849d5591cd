//! Any sequence of calls through the breaker.

use _core::breaker::{Breaker, Rate, State, Why};
use proptest::prelude::*;

const FAILURES: u32 = 3;
const OPEN_NS: u64 = 100;
const RAMP_END: u32 = 64;
const RAMP_STEP_NS: u64 = 5_000_000_000;

#[derive(Clone, Debug)]
enum Operation {
    Permit,
    Success(usize),
    Failure(usize, Option<u64>),
    Ignore(usize),
    Hint,
    Shorten(u64),
    Wait(u64),
    StepBack(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        6 => Just(Operation::Permit),
        4 => (0usize..6).prop_map(Operation::Success),
        3 => (0usize..6, proptest::option::weighted(0.2, 0u64..200)).prop_map(|(at, long)| Operation::Failure(at, long)),
        1 => (0usize..6).prop_map(Operation::Ignore),
        1 => Just(Operation::Hint),
        1 => (0u64..120).prop_map(Operation::Shorten),
        2 => prop_oneof![4 => 0u64..120, 1 => Just(RAMP_STEP_NS)].prop_map(Operation::Wait),
        1 => (0u64..120).prop_map(Operation::StepBack),
    ];
    proptest::collection::vec(one, 1..300)
}

/// What is known of the generation that runs: how many calls have succeeded in it, and what counts against the provider. `ramp` is its
/// room, and the time from which it has been growing in steps.
#[derive(Default)]
struct Period {
    ramp: Option<(u32, u64)>,
    succeeded: u32,
    failed_in_a_row: u32,
    hinted: bool,
}

impl Period {
    /// How many permits of this period may be out at once. None: any number.
    fn room(&mut self, state: State, trials: u32, latest_ns: u64) -> Option<u32> {
        self.ramp = self.grown(latest_ns).filter(|(room, _)| *room < RAMP_END);
        match state {
            State::Open => Some(0),
            State::HalfOpen => Some(trials - self.succeeded),
            State::Closed => self.ramp.map(|(room, _)| room),
        }
    }

    fn grown(&self, latest_ns: u64) -> Option<(u32, u64)> {
        let (room, since_ns) = self.ramp?;
        let steps = (latest_ns - since_ns) / RAMP_STEP_NS;
        Some((room << steps.min(6), since_ns + steps * RAMP_STEP_NS))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn no_more_are_out_than_trials_and_ramp_allow_and_open_lets_nothing_through(operations in operations(), trials in 1u32..4) {
        let mut breaker = Breaker::new(FAILURES, OPEN_NS, trials, None);
        // The time, and the latest time the breaker was told.
        let (mut now_ns, mut latest_ns) = (1000u64, 0u64);
        // Permits that are out, each with the generation in which it was given.
        let mut out: Vec<(u64, u64)> = Vec::new();
        let mut period = Period::default();
        for operation in operations {
            let is_told = match operation {
                Operation::Permit | Operation::Hint => true,
                Operation::Success(at) | Operation::Failure(at, _) | Operation::Ignore(at) => at < out.len(),
                Operation::Wait(_) | Operation::StepBack(_) | Operation::Shorten(_) => false,
            };
            latest_ns = if is_told { latest_ns.max(now_ns) } else { latest_ns };
            let (before, generation) = (breaker.state(now_ns), breaker.generation());
            match operation {
                Operation::Wait(by_ns) => now_ns += by_ns,
                Operation::StepBack(by_ns) => now_ns = now_ns.saturating_sub(by_ns),
                Operation::Hint => {
                    breaker.hint(now_ns);
                    period.hinted |= before == State::Closed;
                    prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                }
                Operation::Shorten(left_ns) => {
                    let until_ns = now_ns + left_ns;
                    let due_ns = breaker.retry_at_ns(now_ns);
                    breaker.shorten(until_ns);
                    prop_assert_eq!(generation, breaker.generation());
                    if let Some(due_ns) = due_ns {
                        let first_ns = due_ns.min(until_ns);
                        prop_assert_eq!(breaker.state(first_ns), State::HalfOpen);
                        prop_assert!(first_ns <= latest_ns + 1 || breaker.state(first_ns - 1) == State::Open);
                    } else {
                        prop_assert_eq!(before, breaker.state(now_ns));
                    }
                }
                Operation::Permit => {
                    let answer = breaker.permit(now_ns);
                    if breaker.generation() != generation {
                        prop_assert_eq!((before, breaker.why()), (State::HalfOpen, Some(Why::TimeOver)));
                        period = Period::default();
                    }
                    let places_taken = out.iter().filter(|(_, given_in)| *given_in == breaker.generation()).count() as u32;
                    let room = period.room(before, trials, latest_ns);
                    prop_assert_eq!(answer.is_ok(), room.is_none_or(|room| places_taken < room));
                    if let Err(refusal) = answer {
                        prop_assert_eq!(refusal.retry_at_ns, breaker.retry_at_ns(now_ns));
                        prop_assert_eq!(refusal.retry_at_ns.is_some_and(|at_ns| at_ns > latest_ns), before == State::Open);
                    }
                    out.extend(answer.ok().map(|permit| (permit, breaker.generation())));
                }
                Operation::Success(at) | Operation::Failure(at, _) | Operation::Ignore(at) if out.len() <= at => {}
                Operation::Success(at) => {
                    let (permit, given_in) = out.swap_remove(at);
                    breaker.success(permit, now_ns).unwrap();
                    if given_in != generation {
                        prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                        continue;
                    }
                    period.succeeded += 1;
                    period.ramp = period.grown(latest_ns).map(|(room, since_ns)| (room + 1, since_ns));
                    (period.failed_in_a_row, period.hinted) = (0, false);
                    let closes = before == State::HalfOpen && period.succeeded == trials;
                    prop_assert_eq!(breaker.generation() != generation, closes);
                    if closes {
                        prop_assert_eq!((breaker.state(now_ns), breaker.why()), (State::Closed, Some(Why::TrialsSucceeded)));
                        period = Period { ramp: Some((2 * trials, latest_ns)), ..Period::default() };
                    }
                }
                Operation::Failure(at, open_for_ns) => {
                    let (permit, given_in) = out.swap_remove(at);
                    breaker.failure(permit, now_ns, open_for_ns).unwrap();
                    if given_in != generation {
                        prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                        continue;
                    }
                    period.failed_in_a_row += 1;
                    let enough = period.hinted || period.failed_in_a_row == FAILURES;
                    let opens = before == State::HalfOpen || enough || open_for_ns.is_some();
                    prop_assert_eq!(breaker.generation() != generation, opens);
                    if opens {
                        let until_ns = latest_ns + open_for_ns.unwrap_or(OPEN_NS);
                        prop_assert_eq!(breaker.state(until_ns), State::HalfOpen);
                        prop_assert!(until_ns == latest_ns || breaker.state(until_ns - 1) == State::Open);
                        period = Period::default();
                    }
                }
                Operation::Ignore(at) => {
                    let (permit, _) = out.swap_remove(at);
                    breaker.ignore(permit, now_ns).unwrap();
                    prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                }
            }
        }
    }

    /// The window forgets whole tenths: a call counts while its tenth is one of the latest ten.
    #[test]
    fn the_rate_opens_exactly_when_the_calls_of_the_window_say_so(
        calls in proptest::collection::vec((0u64..80, any::<bool>()), 1..300),
        percent in 1u32..100,
        window_ns in 1u64..500,
        least_calls in 1u32..12,
    ) {
        let mut breaker = Breaker::new(u32::MAX, OPEN_NS, 1, Some(Rate { percent, window_ns, least_calls }));
        let tenth_ns = window_ns.div_ceil(10);
        let (mut now_ns, mut seen) = (0u64, Vec::new());
        for (wait_ns, failed) in calls {
            now_ns += wait_ns;
            let permit = breaker.permit(now_ns).unwrap();
            seen.push((now_ns / tenth_ns, failed));
            if failed { breaker.failure(permit, now_ns, None).unwrap() } else { breaker.success(permit, now_ns).unwrap() }
            seen.retain(|(tenth, _)| tenth + 10 > now_ns / tenth_ns);
            let failures = seen.iter().filter(|(_, failed)| *failed).count();
            let opens = failed && seen.len() >= least_calls as usize && failures * 100 > percent as usize * seen.len();
            prop_assert_eq!(breaker.state(now_ns) == State::Open, opens);
            if opens {
                prop_assert_eq!(breaker.why(), Some(Why::Rate));
                now_ns += OPEN_NS;
                let trial = breaker.permit(now_ns).unwrap();
                breaker.success(trial, now_ns).unwrap();
                seen.clear();
            }
        }
    }
}

#[test]
fn a_clock_at_its_end_is_no_accident() {
    let mut breaker = Breaker::new(2, u64::MAX, 1, Some(Rate { percent: 50, window_ns: u64::MAX, least_calls: 1 }));
    for now_ns in [0, u64::MAX - 1, u64::MAX, u64::MAX] {
        let permit = breaker.permit(now_ns).unwrap();
        breaker.success(permit, now_ns).unwrap();
    }
    let permit = breaker.permit(u64::MAX).unwrap();
    breaker.failure(permit, u64::MAX, Some(u64::MAX)).unwrap();
    assert_eq!(breaker.state(u64::MAX), State::HalfOpen);
}

#[test]
fn the_width_of_a_ramp_stops_at_its_end() {
    let mut breaker = Breaker::new(1, OPEN_NS, 1, None);
    let failing = breaker.permit(0).unwrap();
    breaker.failure(failing, 0, None).unwrap();
    let trial = breaker.permit(OPEN_NS).unwrap();
    breaker.success(trial, OPEN_NS).unwrap();
    // All that may be out succeed, round after round.
    let mut rounds = Vec::new();
    while rounds.last() != Some(&1000) {
        let out: Vec<u64> = (0..1000).map_while(|_| breaker.permit(OPEN_NS).ok()).collect();
        out.iter().for_each(|permit| breaker.success(*permit, OPEN_NS).unwrap());
        rounds.push(out.len());
    }
    assert_eq!(rounds, [2, 4, 8, 16, 32, 1000]);
}
