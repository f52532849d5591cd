//! What reserve and post on five accounts cost without Python: `cargo bench --bench ledger` prints the median time of one.
//!
//! `-- TURNS` does so many and prints nothing: for callgrind, whose count of instructions does not depend on a busy machine. The
//! difference of two runs with different turns is what the turns cost; `python -m tests.bench.bench_core` does that sum.

use std::hint::black_box;
use std::time::Instant;

use _core::journal::{self, Fsync, Options};
use _core::ledger::{Amount, Ledger, Mode, Outcome, Rule, Span};

const DAY: Span = Span { start_ns: 1_800_057_600_000_000_000, end_ns: Some(1_800_144_000_000_000_000) };
const RULE: Rule = Rule {
    limit_nano_usd: Some(1 << 60),
    limit_tokens: Some(1 << 50),
    lease_nano_usd: None,
    lease_tokens: None,
    span: DAY,
    warn_percent: 80,
    mode: Mode::Refuse,
};
const ROUND: usize = 1000;
const ROUNDS: usize = 301;

fn main() {
    let turns = std::env::args().skip(1).find_map(|word| word.parse::<usize>().ok());
    if let Some(turns) = turns {
        return run(&mut Ledger::new(), turns);
    }
    println!("reserve + post, 5 accounts: {} ns", median_ns(&mut Ledger::new()));
    let folder = std::env::temp_dir().join(format!("sidecar-bench-{}", std::process::id()));
    let options = Options { fsync: Fsync::Settle, most_waiting_bytes: usize::MAX, segment_bytes: 64 << 20 };
    let (journal, recovered, _) = journal::open(&folder, options).expect("an empty folder");
    println!("the same with a journal: {} ns", median_ns(&mut Ledger::journaled(journal, recovered)));
    let _ = std::fs::remove_dir_all(&folder);
}

fn median_ns(ledger: &mut Ledger) -> u128 {
    let mut rounds: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run(ledger, ROUND);
            start.elapsed().as_nanos() / ROUND as u128
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}

fn run(ledger: &mut Ledger, turns: usize) {
    let names: Vec<String> = (0..5).map(|number| format!("tenant:account-{number}:day")).collect();
    let accounts: Vec<(&str, Rule)> = names.iter().map(|name| (name.as_str(), RULE)).collect();
    let (most, spent) = (Amount { nano_usd: 5_000_000, tokens: 1200 }, Amount { nano_usd: 4_000_000, tokens: 900 });
    for turn in 0..turns as u64 {
        let now_ns = DAY.start_ns + turn;
        let Ok(Outcome::Reserved(made)) = ledger.reserve(black_box(&accounts), most, 600_000_000_000, now_ns) else { panic!("refused") };
        black_box(ledger.post(made.id, spent, now_ns, "01JDABCDEFGHJKMNPQRSTVWXYZ").expect("posted"));
    }
}
