//! The ledger against the text tables of `tests/core/tables`, which the Python tests read as well.

use std::collections::HashMap;
use std::path::Path;

use _core::ledger::{Amount, Balance, Ledger, LedgerError, Mode, Outcome, Rule};

#[test]
fn every_line_of_every_table_answers_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/core/tables");
    let mut cases = 0;
    for entry in std::fs::read_dir(&folder).expect("the tables are in the repository") {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("ledger_") {
            continue;
        }
        let (mut ledger, mut rules) = (Ledger::new(), HashMap::new());
        for (at, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.starts_with("case ") {
                cases += 1;
                (ledger, rules) = (Ledger::new(), HashMap::new());
            } else if line.starts_with("rule ") {
                let (name, rule) = rule(line);
                rules.insert(name, rule);
            } else if !line.is_empty() && !line.starts_with('#') {
                let (operation, expected) = line.split_once(" -> ").expect("operation -> expected");
                let place = format!("{}:{}", path.display(), at + 1);
                match (carry_out(&mut ledger, &rules, operation), expected.strip_prefix("error ")) {
                    (Ok(found), None) => assert_eq!(found, expected, "{place}"),
                    (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{place}: {error}"),
                    (found, _) => panic!("{place}: found {found:?}, expected {expected}"),
                }
            }
        }
    }
    assert!(cases >= 30, "found {cases} cases in {}", folder.display());
}

fn rule(line: &str) -> (String, Rule) {
    let mut words = line.split(' ').skip(1);
    let name = words.next().expect("a name").to_owned();
    let mut rule =
        Rule { limit_nano_usd: None, limit_tokens: None, window_ns: 0, window_offset_ns: 0, warn_percent: 80, mode: Mode::Refuse };
    for (key, value) in words.map(|pair| pair.split_once('=').expect("key=value")) {
        match key {
            "limit_nano_usd" => rule.limit_nano_usd = Some(value.parse().unwrap()),
            "limit_tokens" => rule.limit_tokens = Some(value.parse().unwrap()),
            "window_ns" => rule.window_ns = value.parse().unwrap(),
            "window_offset_ns" => rule.window_offset_ns = value.parse().unwrap(),
            "warn_percent" => rule.warn_percent = value.parse().unwrap(),
            "mode" => {
                let modes = [Mode::Refuse, Mode::Warn, Mode::Shadow];
                rule.mode = modes.into_iter().find(|mode| mode.name() == value).expect("a mode");
            }
            _ => panic!("no such key: {key}"),
        }
    }
    (name, rule)
}

fn carry_out(ledger: &mut Ledger, rules: &HashMap<String, Rule>, operation: &str) -> Result<String, LedgerError> {
    let (word, pairs) = operation.split_once(' ').unwrap_or((operation, ""));
    let given: HashMap<&str, &str> = pairs.split(' ').filter_map(|pair| pair.split_once('=')).collect();
    let number = |key: &str| given[key].parse::<u64>().unwrap();
    let amount = || Amount { nano_usd: number("nano_usd"), tokens: number("tokens") };
    Ok(match word {
        "reserve" => {
            let on = given["on"].split(',').filter_map(|pair| pair.split_once(':'));
            let accounts: Vec<(&str, Rule)> = on.map(|(name, rule)| (name, rules[rule])).collect();
            match ledger.reserve(&accounts, amount(), number("ttl"), number("at"))? {
                Outcome::Reserved(made) => format!("reserved {}{}", made.id, warns(&made.warnings)),
                Outcome::Denied(denial) => format!(
                    "denied {} {} limit={} used={} pending={} asked={} resets={}",
                    denial.account,
                    denial.unit.name(),
                    denial.limit,
                    denial.used,
                    denial.pending,
                    denial.asked,
                    or_never(denial.resets_at_ns)
                ),
            }
        }
        "post" => {
            let posting = ledger.post(number("id"), amount(), number("at"))?;
            let Amount { nano_usd, tokens } = posting.overrun;
            let overrun = if posting.overrun.is_zero() { String::new() } else { format!(" overrun={nano_usd},{tokens}") };
            format!("posted{overrun}{}{}", if posting.late { " late" } else { "" }, warns(&posting.warnings))
        }
        "void" => {
            ledger.void(number("id"))?;
            "voided".to_owned()
        }
        "expire" => format!("expired {}", ledger.expire(number("at"))),
        "balance" => ledger.balance(given["account"], number("at")).map_or("unknown".to_owned(), said),
        "count" => format!("accounts={} pending={}", ledger.accounts(), ledger.pending()),
        _ => panic!("no such operation: {word}"),
    })
}

fn said(balance: Balance) -> String {
    let (used, pending) = (balance.used, balance.pending);
    format!(
        "used={},{} pending={},{} resets={} overruns={} refusals={}",
        used.nano_usd,
        used.tokens,
        pending.nano_usd,
        pending.tokens,
        or_never(balance.resets_at_ns),
        balance.overruns,
        balance.refusals
    )
}

fn or_never(resets_at_ns: Option<u64>) -> String {
    resets_at_ns.map_or("never".to_owned(), |at| at.to_string())
}

fn warns(accounts: &[String]) -> String {
    if accounts.is_empty() { String::new() } else { format!(" warns {}", accounts.join(" ")) }
}
