//! Any sequence of takes: never more than the limit and what has flowed in, and a wait that is neither too short nor too long.

use _core::limiter::{Limiter, Stated, Unit};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Take(u64),
    GiveBack(u64, u64),
    Wait(u64),
    StepBack(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let one = prop_oneof![
        6 => (0u64..40).prop_map(Operation::Take),
        1 => (0u64..20, 0u64..2).prop_map(|(tokens, requests)| Operation::GiveBack(tokens, requests)),
        3 => (0u64..300).prop_map(Operation::Wait),
        1 => (0u64..300).prop_map(Operation::StepBack),
    ];
    proptest::collection::vec(one, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn taken_is_never_more_than_the_limit_and_the_inflow(
        operations in operations(), requests in 1u64..9, tokens in 1u64..60, window_ns in 1u64..1500,
    ) {
        let mut limiter = Limiter::new(Some(requests), Some(tokens), window_ns);
        let (start_ns, mut now_ns, mut latest_ns) = (5000u64, 5000u64, 5000u64);
        limiter.remaining(start_ns);
        let mut taken = [0u64, 0u64];
        for operation in operations {
            if !matches!(operation, Operation::Wait(_) | Operation::StepBack(_)) {
                latest_ns = latest_ns.max(now_ns);
            }
            match operation {
                Operation::Wait(by_ns) => now_ns += by_ns,
                Operation::StepBack(by_ns) => now_ns -= by_ns.min(now_ns),
                Operation::GiveBack(tokens, requests) => {
                    let (tokens, requests) = (tokens.min(taken[1]), requests.min(taken[0]));
                    limiter.give_back(tokens, requests, now_ns);
                    taken = [taken[0] - requests, taken[1] - tokens];
                }
                Operation::Take(ask) => match limiter.take(ask, now_ns) {
                    None => {
                        taken = [taken[0] + 1, taken[1] + ask];
                        for (taken, limit) in taken.into_iter().zip([requests, tokens]) {
                            let inflow = (latest_ns - start_ns) as u128 * limit as u128;
                            prop_assert!(taken as u128 * window_ns as u128 <= limit as u128 * window_ns as u128 + inflow);
                        }
                    }
                    Some(exceeded) => {
                        let (limit, asked) = if exceeded.unit == Unit::Requests { (requests, 1) } else { (tokens, ask) };
                        prop_assert_eq!(exceeded.limit, limit);
                        prop_assert!(exceeded.remaining < asked);
                        prop_assert_eq!(exceeded.retry_after_ns.is_none(), ask > tokens);
                        if let Some(wait_ns) = exceeded.retry_after_ns {
                            // Refused until the last nanosecond, then let through.
                            prop_assert!(limiter.take(ask, latest_ns + wait_ns - 1).is_some());
                            prop_assert!(limiter.take(ask, latest_ns + wait_ns).is_none());
                            latest_ns += wait_ns;
                            now_ns = latest_ns;
                            taken = [taken[0] + 1, taken[1] + ask];
                        }
                    }
                },
            }
        }
    }

    #[test]
    fn after_any_statement_the_wait_is_still_exact(
        limit in 1u64..50, stated in proptest::option::of(0u64..50), remaining in proptest::option::of(0u64..50),
        reset_after_ns in proptest::option::of(0u64..5000), ask in 1u64..50, pause_ns in 0u64..3000,
    ) {
        let mut limiter = Limiter::new(None, Some(limit), 1000);
        limiter.observe(Unit::Tokens, Stated { limit: stated, remaining, reset_after_ns }, 77);
        let in_force = stated.filter(|stated| *stated > 0).map_or(limit, |stated| stated.min(limit));
        prop_assert!(limiter.remaining(77)[1].unwrap() <= remaining.unwrap_or(in_force).min(in_force));
        let now_ns = 77 + pause_ns;
        if let Some(exceeded) = limiter.take(ask, now_ns) {
            prop_assert_eq!(exceeded.retry_after_ns.is_none(), ask > in_force);
            if let Some(wait_ns) = exceeded.retry_after_ns {
                prop_assert!(limiter.take(ask, now_ns + wait_ns - 1).is_some());
                prop_assert!(limiter.take(ask, now_ns + wait_ns).is_none());
            }
        }
    }

    #[test]
    fn no_number_is_too_large(
        limits in any::<(u64, u64)>(), window_ns in 1u64.., takes in proptest::collection::vec(any::<(u64, u64, u64)>(), 1..20),
    ) {
        let mut limiter = Limiter::new(Some(limits.0), Some(limits.1), window_ns);
        for (tokens, now_ns, reset_after_ns) in takes {
            limiter.take(tokens, now_ns);
            limiter.give_back(tokens / 2, 1, now_ns);
            let stated = Stated { limit: Some(tokens), remaining: Some(now_ns), reset_after_ns: Some(reset_after_ns) };
            limiter.observe(Unit::Tokens, stated, now_ns);
            limiter.take(tokens, now_ns);
        }
    }
}

#[test]
fn a_reset_far_away_slows_the_inflow_until_then() {
    let mut limiter = Limiter::new(None, Some(1000), 1000);
    limiter.observe(Unit::Tokens, Stated { limit: None, remaining: Some(0), reset_after_ns: Some(10_000) }, 0);
    assert_eq!(limiter.remaining(1000)[1], Some(100));
    assert_eq!(limiter.remaining(10_000)[1], Some(1000));
}

#[test]
fn a_stated_limit_comes_into_force_also_where_none_was_configured() {
    let mut limiter = Limiter::new(None, None, 1000);
    assert_eq!(limiter.remaining(0), [None, None]);
    limiter.observe(Unit::Requests, Stated { limit: Some(5), remaining: Some(2), ..Stated::default() }, 0);
    assert_eq!(limiter.remaining(0), [Some(2), None]);
    limiter.observe(Unit::Requests, Stated { limit: Some(0), ..Stated::default() }, 0);
    assert_eq!(limiter.remaining(1000), [Some(5), None]);
}
