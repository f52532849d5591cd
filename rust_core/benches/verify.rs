//! What the verifier costs: `cargo bench --bench verify` prints the median time of an analysis, of a verdict, and of a look-up among 10,000.
//!
//! `-- WHAT TURNS` does so many and prints nothing: for callgrind, as `benches/ledger.rs` does it.

use std::hint::black_box;
use std::time::Instant;

use _core::verify::index::{PromptIndex, prepare};
use _core::verify::{analyse, compare};

const ENTRIES: u64 = 10_000;
const ASKED: &str = "What's the way to cancel customer 4711's invoice before Friday?";
const STORED: &str = "How do I call off the invoice of customer 4711 before Friday?";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [what, turns, ..] = &words[..]
        && let Ok(turns) = turns.parse()
    {
        return run(what, turns);
    }
    for (what, rounds, turns) in [("analyse", 101, 1000), ("compare", 101, 1000), ("candidates", 101, 10)] {
        println!("{what}: {:.1} µs", median_us(what, rounds, turns));
    }
}

/// Entries of a hundred templates; each names a customer of its own.
fn index() -> PromptIndex {
    const ACTS: [&str; 10] = ["cancel", "print", "find", "extend", "change", "download", "explain", "check", "send", "close"];
    const THINGS: [&str; 10] =
        ["invoice", "refund", "parcel", "ticket", "contract", "salary", "passport", "printer", "dashboard", "password"];
    let mut index = PromptIndex::new(ENTRIES as usize);
    for key in 0..ENTRIES {
        let (act, thing) = (ACTS[key as usize % 10], THINGS[key as usize / 10 % 10]);
        index.add("p", key, prepare(&format!("How do I {act} the {thing} of customer {key} before Friday?")));
    }
    index
}

fn work(what: &str) -> Box<dyn FnMut()> {
    match what {
        "analyse" => Box::new(|| drop(black_box(analyse(black_box(ASKED))))),
        "compare" => {
            let (asked, stored) = (analyse(ASKED), analyse(STORED));
            assert!(compare(&asked, &stored, None).veto.is_empty());
            Box::new(move || drop(black_box(compare(&asked, &stored, None))))
        }
        "candidates" => {
            let mut index = index();
            Box::new(move || drop(black_box(index.candidates("p", &prepare(black_box(ASKED)), 32))))
        }
        other => panic!("found {other}, expected analyse, compare or candidates"),
    }
}

fn run(what: &str, turns: usize) {
    let mut work = work(what);
    for _ in 0..turns {
        work();
    }
}

fn median_us(what: &str, rounds: usize, turns: usize) -> f64 {
    let mut work = work(what);
    let mut found: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..turns {
                work();
            }
            start.elapsed().as_secs_f64() * 1e6 / turns as f64
        })
        .collect();
    found.sort_by(f64::total_cmp);
    found[rounds / 2]
}
