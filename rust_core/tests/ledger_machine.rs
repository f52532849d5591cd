//! Any sequence of operations on the ledger: every unit is accounted for, and each reservation ends once.

use std::collections::HashMap;

use _core::ledger::{Amount, Ledger, LedgerError, Mode, Outcome, Rule, Span, Unit};
use proptest::prelude::*;

const NAMES: [&str; 3] = ["company", "tenant", "user"];

#[derive(Clone, Debug)]
enum Operation {
    Reserve { on: Vec<usize>, ask: Amount, ttl_ns: u64 },
    Post { back: usize, spent: Amount },
    Void { back: usize },
    Expire,
    Wait { by_ns: u64 },
    StepBack { by_ns: u64 },
}

fn amounts() -> impl Strategy<Value = Amount> {
    (0u64..60, 0u64..60).prop_map(|(nano_usd, tokens)| Amount { nano_usd, tokens })
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let on = proptest::sample::subsequence(vec![0, 1, 2], 0..=3);
    let one = prop_oneof![
        4 => (on, amounts(), 1u64..100).prop_map(|(on, ask, ttl_ns)| Operation::Reserve { on, ask, ttl_ns }),
        4 => (0usize..8, amounts()).prop_map(|(back, spent)| Operation::Post { back, spent }),
        1 => (0usize..8).prop_map(|back| Operation::Void { back }),
        1 => Just(Operation::Expire),
        2 => (0u64..60).prop_map(|by_ns| Operation::Wait { by_ns }),
        1 => (0u64..60).prop_map(|by_ns| Operation::StepBack { by_ns }),
    ];
    proptest::collection::vec(one, 1..120)
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Pending,
    Expired,
    Posted,
    Voided,
}

struct Made {
    on: Vec<usize>,
    held: Amount,
    expires_at_ns: u64,
    state: State,
}

/// What every account must hold: all that was posted, and all that is pending. Overshoot is what the limit could not prevent:
/// posts beyond their hold, and posts of holds that had been given back.
#[derive(Clone, Copy, Default)]
struct Expected {
    used: Amount,
    overshoot: Amount,
}

struct Machine {
    ledger: Ledger,
    rule: Rule,
    every_ns: u64,
    now_ns: u64,
    made: HashMap<u64, Made>,
    accounts: [Expected; 3],
}

impl Machine {
    fn rule(&self) -> Rule {
        if self.every_ns == 0 {
            return self.rule;
        }
        let start_ns = self.now_ns / self.every_ns * self.every_ns;
        Rule { span: Span { start_ns, end_ns: Some(start_ns + self.every_ns) }, ..self.rule }
    }

    fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::Reserve { on, ask, ttl_ns } => {
                let accounts: Vec<(&str, Rule)> = on.iter().map(|at| (NAMES[*at], self.rule())).collect();
                match self.ledger.reserve(&accounts, *ask, *ttl_ns, self.now_ns).unwrap() {
                    Outcome::Reserved(reservation) => {
                        assert_eq!(reservation.id, self.made.len() as u64 + 1);
                        let expires_at_ns = self.now_ns + ttl_ns;
                        self.made.insert(reservation.id, Made { on: on.clone(), held: *ask, expires_at_ns, state: State::Pending });
                    }
                    Outcome::Denied(denial) => {
                        assert!(denial.used + denial.pending + denial.asked > denial.limit && denial.asked > 0);
                        assert!([ask.nano_usd, ask.tokens].contains(&denial.asked));
                    }
                }
            }
            Operation::Post { back, spent } => self.post((self.made.len().saturating_sub(*back)) as u64, *spent),
            Operation::Void { back } => {
                let id = self.made.len().saturating_sub(*back) as u64;
                let result = self.ledger.void(id);
                self.check_end(id, result, State::Voided);
            }
            Operation::Expire => {
                let due = |made: &&mut Made| made.state == State::Pending && made.expires_at_ns <= self.now_ns;
                let expired = self.made.values_mut().filter(due).map(|made| made.state = State::Expired).count();
                assert_eq!(self.ledger.expire(self.now_ns), expired as u64);
            }
            Operation::Wait { by_ns } => self.now_ns += by_ns,
            Operation::StepBack { by_ns } => self.now_ns = self.now_ns.saturating_sub(*by_ns),
        }
    }

    fn post(&mut self, id: u64, spent: Amount) {
        let result = self.ledger.post(id, spent, self.now_ns, "");
        if let (Ok(posting), Some(made)) = (&result, self.made.get(&id)) {
            assert_eq!(posting.overrun, spent.beyond(made.held));
            assert_eq!(posting.late, made.state == State::Expired || self.now_ns >= made.expires_at_ns);
            let beyond = if made.state == State::Expired { spent } else { posting.overrun };
            for at in &made.on {
                let account = &mut self.accounts[*at];
                account.used = account.used.plus(spent).unwrap();
                account.overshoot = account.overshoot.plus(beyond).unwrap();
            }
        }
        self.check_end(id, result, State::Posted);
    }

    fn check_end<T: std::fmt::Debug>(&mut self, id: u64, result: Result<T, LedgerError>, ends_as: State) {
        match (self.made.get_mut(&id), result) {
            (None, Err(LedgerError::NeverExisted { .. })) => {}
            (Some(made), Ok(_)) if matches!(made.state, State::Pending | State::Expired) => made.state = ends_as,
            (Some(Made { state: State::Posted, .. }), Err(LedgerError::Settled { how: "posted", .. })) => {}
            (Some(Made { state: State::Voided, .. }), Err(LedgerError::Settled { how: "voided", .. })) => {}
            (_, result) => panic!("reservation {id}: {result:?}"),
        }
    }

    fn check_balances(&self) {
        let pending = self.made.values().filter(|made| made.state == State::Pending);
        assert_eq!(self.ledger.pending(), pending.clone().count());
        for (at, expected) in self.accounts.iter().enumerate() {
            let held = pending.clone().filter(|made| made.on.contains(&at));
            let held = held.fold(Amount::default(), |sum, made| sum.plus(made.held).unwrap());
            let Some(balance) = self.ledger.balance(NAMES[at], self.now_ns) else {
                assert!(held.is_zero() && expected.used.is_zero(), "an account that matters was dropped");
                continue;
            };
            assert_eq!((balance.used, balance.pending), (expected.used, held));
            for unit in Unit::BOTH {
                let most = self.rule.limit(unit).into_iter().chain(self.rule.lease(unit)).min();
                if let Some(most) = most.filter(|_| self.rule.mode == Mode::Refuse) {
                    assert!(expected.used.of(unit) + held.of(unit) <= most + expected.overshoot.of(unit));
                }
            }
        }
    }
}

fn machine(mode: Mode, every_ns: u64) -> Machine {
    let rule = Rule { limit_nano_usd: Some(200), limit_tokens: Some(150), mode, ..Rule::default() };
    let mut ledger = Ledger::new();
    ledger.keep_awake(1); // so that accounts are packed and unpacked all the time
    Machine { ledger, rule, every_ns, now_ns: 1000, made: HashMap::new(), accounts: Default::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn without_windows_every_unit_is_accounted_for(operations in operations(), shadow in any::<bool>(), lease in proptest::option::of(0u64..200)) {
        let mut machine = machine(if shadow { Mode::Shadow } else { Mode::Refuse }, 0);
        machine.rule.lease_nano_usd = lease;
        for operation in &operations {
            machine.carry_out(operation);
            machine.check_balances();
        }
    }

    #[test]
    fn with_windows_each_ends_once_and_nothing_stays_behind(operations in operations()) {
        let mut machine = machine(Mode::Refuse, 70);
        for operation in &operations {
            machine.carry_out(operation);
        }
        for id in 1..=machine.made.len() as u64 {
            let result = machine.ledger.void(id);
            machine.check_end(id, result, State::Voided);
        }
        prop_assert_eq!(machine.ledger.pending(), 0);
        machine.ledger.expire(u64::MAX);
        prop_assert_eq!(machine.ledger.accounts(), 0);
    }
}
