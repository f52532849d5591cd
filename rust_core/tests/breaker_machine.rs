//! Any sequence of calls through the breaker.

use _core::breaker::{Breaker, State};
use proptest::prelude::*;

const FAILURES: u32 = 3;
const OPEN_NS: u64 = 100;

#[derive(Clone, Debug)]
enum Operation {
    Permit,
    Success(usize),
    Failure(usize, Option<u64>),
    Ignore(usize),
    Wait(u64),
    StepBack(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        5 => Just(Operation::Permit),
        2 => (0usize..6).prop_map(Operation::Success),
        4 => (0usize..6, proptest::option::weighted(0.2, 0u64..200)).prop_map(|(at, long)| Operation::Failure(at, long)),
        1 => (0usize..6).prop_map(Operation::Ignore),
        2 => (0u64..120).prop_map(Operation::Wait),
        1 => (0u64..120).prop_map(Operation::StepBack),
    ];
    proptest::collection::vec(one, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn trials_are_never_more_than_allowed_and_open_lets_nothing_through(operations in operations(), trials in 1u32..4) {
        let mut breaker = Breaker::new(FAILURES, OPEN_NS, trials);
        // The time, and the latest time the breaker was told.
        let (mut now_ns, mut latest_ns) = (1000u64, 0u64);
        // Permits that are out, each with the generation in which it was given.
        let mut out: Vec<(u64, u64)> = Vec::new();
        let mut succeeded_in_half_open = 0;
        let mut failed_in_a_row = 0;
        for operation in operations {
            let is_told = match operation {
                Operation::Permit => true,
                Operation::Success(at) | Operation::Failure(at, _) | Operation::Ignore(at) => at < out.len(),
                Operation::Wait(_) | Operation::StepBack(_) => false,
            };
            latest_ns = if is_told { latest_ns.max(now_ns) } else { latest_ns };
            let (before, generation) = (breaker.state(now_ns), breaker.generation());
            match operation {
                Operation::Wait(by_ns) => now_ns += by_ns,
                Operation::StepBack(by_ns) => now_ns = now_ns.saturating_sub(by_ns),
                Operation::Permit => {
                    let answer = breaker.permit(now_ns);
                    if breaker.generation() != generation {
                        prop_assert_eq!(before, State::HalfOpen);
                        succeeded_in_half_open = 0;
                    }
                    let trials_out = out.iter().filter(|(_, given_in)| *given_in == breaker.generation()).count() as u32;
                    match (before, answer) {
                        (State::Closed, answer) => prop_assert!(answer.is_ok()),
                        (State::Open, Err(refusal)) => prop_assert!(refusal.retry_at_ns.is_some_and(|at_ns| at_ns > latest_ns)),
                        (State::Open, Ok(_)) => prop_assert!(false, "let through while open"),
                        (State::HalfOpen, answer) => {
                            prop_assert_eq!(answer.is_ok(), trials_out + succeeded_in_half_open < trials);
                        }
                    }
                    out.extend(answer.ok().map(|permit| (permit, breaker.generation())));
                }
                Operation::Success(at) | Operation::Failure(at, _) | Operation::Ignore(at) if out.len() <= at => {}
                Operation::Success(at) => {
                    let (permit, given_in) = out.swap_remove(at);
                    breaker.success(permit, now_ns).unwrap();
                    if given_in != generation {
                        prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                    } else if before == State::HalfOpen {
                        succeeded_in_half_open += 1;
                        let after = if succeeded_in_half_open == trials { State::Closed } else { State::HalfOpen };
                        prop_assert_eq!(breaker.state(now_ns), after);
                    }
                    failed_in_a_row = if given_in == generation { 0 } else { failed_in_a_row };
                }
                Operation::Failure(at, open_for_ns) => {
                    let (permit, given_in) = out.swap_remove(at);
                    breaker.failure(permit, now_ns, open_for_ns).unwrap();
                    if given_in != generation {
                        prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                        continue;
                    }
                    failed_in_a_row += 1;
                    let opens = before == State::HalfOpen || failed_in_a_row == FAILURES || open_for_ns.is_some();
                    prop_assert_eq!(breaker.generation() != generation, opens);
                    if opens {
                        let until_ns = latest_ns + open_for_ns.unwrap_or(OPEN_NS);
                        prop_assert_eq!(breaker.state(until_ns), State::HalfOpen);
                        prop_assert!(until_ns == latest_ns || breaker.state(until_ns - 1) == State::Open);
                    }
                }
                Operation::Ignore(at) => {
                    let (permit, _) = out.swap_remove(at);
                    breaker.ignore(permit, now_ns).unwrap();
                    prop_assert_eq!((before, generation), (breaker.state(now_ns), breaker.generation()));
                }
            }
            failed_in_a_row = if breaker.generation() == generation { failed_in_a_row } else { 0 };
        }
    }
}
