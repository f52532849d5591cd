//! Every veto, by the table that Python's tests read too.

use _core::verify::{VETOES, analyse, compare};

#[test]
fn every_veto_refuses_what_the_table_says() {
    let table = include_str!("../../tests/core/tables/verify.txt");
    let mut wrong = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for line in table.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let [expected, a, b] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("three columns: {line}") };
        for (a, b) in [(a, b), (b, a)] {
            let verdict = compare(&analyse(a), &analyse(b), None);
            let found = if verdict.veto.is_empty() { "same" } else { verdict.veto };
            if found != expected {
                wrong.push(format!("{line}: {found} {:?}", verdict.deciding));
            }
        }
        seen.insert(expected);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let untested: Vec<_> = VETOES.iter().filter(|name| **name != "length" && !seen.contains(**name)).collect();
    assert!(untested.is_empty(), "no line for {untested:?}");
}
