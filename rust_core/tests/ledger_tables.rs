//! The ledger against the text tables of `tests/core/tables`, which the Python tests read as well.

use std::collections::HashMap;
use std::path::Path;

use _core::ledger::{Amount, Balance, Ledger, LedgerError, Mode, Outcome, Reason, Rule, Span};

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

/// A rule of which only the window is missing: `every` so many nanoseconds, `offset` from the epoch; or from..to.
struct Shape {
    rule: Rule,
    every: u64,
    offset: u64,
}

impl Shape {
    fn at(&self, now_ns: u64) -> Rule {
        let start_ns = now_ns.checked_sub(self.offset).map(|since| now_ns - since % self.every.max(1));
        let end_ns = start_ns.map_or(self.offset, |start_ns| start_ns + self.every);
        let span = Span { start_ns: start_ns.unwrap_or(0), end_ns: Some(end_ns) };
        if self.every == 0 { self.rule } else { Rule { span, ..self.rule } }
    }
}

fn rule(line: &str) -> (String, Shape) {
    let mut words = line.split(' ').skip(1);
    let name = words.next().expect("a name").to_owned();
    let rule = Rule::default();
    let mut shape = Shape { rule, every: 0, offset: 0 };
    for (key, value) in words.map(|pair| pair.split_once('=').expect("key=value")) {
        match key {
            "limit_nano_usd" => shape.rule.limit_nano_usd = Some(value.parse().unwrap()),
            "limit_tokens" => shape.rule.limit_tokens = Some(value.parse().unwrap()),
            "lease_nano_usd" => shape.rule.lease_nano_usd = Some(value.parse().unwrap()),
            "lease_tokens" => shape.rule.lease_tokens = Some(value.parse().unwrap()),
            "every" => shape.every = value.parse().unwrap(),
            "offset" => shape.offset = value.parse().unwrap(),
            "window" => {
                let (start, end) = value.split_once("..").expect("from..to");
                shape.rule.span = Span { start_ns: start.parse().unwrap(), end_ns: Some(end.parse().unwrap()) };
            }
            "warn_percent" => shape.rule.warn_percent = value.parse().unwrap(),
            "mode" => {
                let modes = [Mode::Refuse, Mode::Warn, Mode::Shadow];
                shape.rule.mode = modes.into_iter().find(|mode| mode.name() == value).expect("a mode");
            }
            _ => panic!("no such key: {key}"),
        }
    }
    (name, shape)
}

fn carry_out(ledger: &mut Ledger, rules: &HashMap<String, Shape>, operation: &str) -> Result<String, LedgerError> {
    let (word, pairs) = operation.split_once(' ').unwrap_or((operation, ""));
    let given: HashMap<&str, &str> = pairs.split(' ').filter_map(|pair| pair.split_once('=')).collect();
    let number = |key: &str| given[key].parse::<u64>().unwrap();
    let amount = || Amount { nano_usd: number("nano_usd"), tokens: number("tokens") };
    Ok(match word {
        "reserve" => {
            let on = given["on"].split(',').filter_map(|pair| pair.split_once(':'));
            let accounts: Vec<(&str, Rule)> = on.map(|(name, rule)| (name, rules[rule].at(number("at")))).collect();
            match ledger.reserve(&accounts, amount(), number("ttl"), number("at"))? {
                Outcome::Reserved(made) => format!("reserved {}{}", made.id, warns(&made.warnings)),
                Outcome::Denied(denial) if !matches!(denial.reason, Reason::Limit | Reason::Lease) => {
                    format!("denied {} {}", denial.account, denial.reason.name())
                }
                Outcome::Denied(denial) => format!(
                    "denied {} {} {}={} used={} pending={} asked={} resets={}",
                    denial.account,
                    denial.unit.name(),
                    denial.reason.name(),
                    denial.limit,
                    denial.used,
                    denial.pending,
                    denial.asked,
                    or_never(denial.resets_at_ns)
                ),
            }
        }
        "post" => {
            let posting = ledger.post(number("id"), amount(), number("at"), "")?;
            let Amount { nano_usd, tokens } = posting.overrun;
            let overrun = if posting.overrun.is_zero() { String::new() } else { format!(" overrun={nano_usd},{tokens}") };
            format!("posted{overrun}{}{}", if posting.late { " late" } else { "" }, warns(&posting.warnings))
        }
        "void" => {
            ledger.void(number("id"))?;
            "voided".to_owned()
        }
        "top_up" => said(ledger.top_up(given["account"], rules[given["rule"]].at(number("at")), amount(), number("at"))?),
        "freeze" => if ledger.freeze(given["account"])? { "frozen" } else { "as it was" }.to_owned(),
        "unfreeze" => if ledger.unfreeze(given["account"]) { "thawed" } else { "as it was" }.to_owned(),
        "close" => ledger.close(given["account"]).map_or("unknown".to_owned(), said),
        "expire" => format!("expired {}", ledger.expire(number("at"))),
        "balance" => ledger.balance(given["account"], number("at")).map_or("unknown".to_owned(), said),
        "count" => format!("accounts={} pending={}", ledger.accounts(), ledger.pending()),
        _ => panic!("no such operation: {word}"),
    })
}

fn said(balance: Balance) -> String {
    let (used, pending) = (balance.used, balance.pending);
    let mut said = format!(
        "used={},{} pending={},{} resets={} overruns={} refusals={}",
        used.nano_usd,
        used.tokens,
        pending.nano_usd,
        pending.tokens,
        or_never(balance.resets_at_ns),
        balance.overruns,
        balance.refusals
    );
    if !balance.topped_up.is_zero() {
        let limit = |limit: Option<u64>| limit.map_or("none".to_owned(), |limit| limit.to_string());
        said += &format!(" limits={},{}", limit(balance.limit_nano_usd), limit(balance.limit_tokens));
    }
    if balance.is_frozen { said + " frozen" } else { said }
}

fn or_never(resets_at_ns: Option<u64>) -> String {
    resets_at_ns.map_or("never".to_owned(), |at| at.to_string())
}

fn warns(accounts: &[String]) -> String {
    if accounts.is_empty() { String::new() } else { format!(" warns {}", accounts.join(" ")) }
}
