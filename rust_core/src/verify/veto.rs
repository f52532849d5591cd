//! Differences that change what is asked. Each has a name; the first one found refuses.

use super::align::{Alignment, Level, apart};
use super::analysis::{Analysis, FROM, NAME, SUBJECT, TO, Term};
use super::lexicon::{MODIFIER, RELATION, question};
use super::values::{Unit, Value};

/// All names, in the order in which they are looked for.
pub const NAMES: [&str; 17] = [
    "length",
    "language",
    "code",
    "quotation",
    "number",
    "money",
    "unit",
    "time",
    "date",
    "negation",
    "person",
    "question",
    "antonym",
    "direction",
    "name",
    "modifier",
    "words",
];

/// A veto and what it saw, in short.
pub type Found = (&'static str, String);

/// What can be told before words are aligned.
pub fn before(a: &Analysis, b: &Analysis) -> Option<Found> {
    if a.long || b.long {
        return Some(("length", "long texts are the same only if they are identical".into()));
    }
    if a.script != b.script {
        return Some(("language", format!("{:?} | {:?}", a.script, b.script)));
    }
    if a.exact != b.exact {
        return Some(("code", format!("{} | {} codes or symbols, not the same", a.exact.len(), b.exact.len())));
    }
    if !a.quotes.is_empty() && !b.quotes.is_empty() && a.quotes != b.quotes {
        return Some(("quotation", "quoted texts differ".into()));
    }
    values(&a.values, &b.values)
        .or_else(|| (a.negations % 2 != b.negations % 2).then(|| ("negation", format!("{} | {} times", a.negations, b.negations))))
        .or_else(|| person(a, b))
        .or_else(|| questions(a, b))
}

/// Every value needs its equal on the other side.
fn values(a: &[Value], b: &[Value]) -> Option<Found> {
    let alone = |own: &[Value], others: &[Value]| -> Vec<Value> {
        own.iter().filter(|value| !others.iter().any(|other| equal(value, other))).copied().collect()
    };
    let (ours, theirs) = (alone(a, b), alone(b, a));
    // A number without a unit may be the same with one, but not where both are money or times.
    let loosely = |value: &Value, others: &[Value]| {
        others.iter().any(|other| {
            other.number == value.number && (other.unit == Unit::None || value.unit == Unit::None) && bare(value.unit) && bare(other.unit)
        })
    };
    let missing = |own: &[Value], others: &[Value]| own.iter().find(|value| !value.optional && !loosely(value, others)).copied();
    let found = missing(&ours, &theirs).or_else(|| missing(&theirs, &ours))?;
    let (partner, others) = if ours.contains(&found) { (&theirs, &theirs) } else { (&ours, &ours) };
    let same_number = partner.iter().any(|other| other.number == found.number);
    let name = match found.unit {
        _ if same_number => "unit",
        Unit::Money(_) => "money",
        Unit::Time => "time",
        Unit::Month | Unit::Weekday => "date",
        _ => "number",
    };
    Some((
        name,
        format!(
            "{} {:?} | {}",
            found.number,
            found.unit,
            others.iter().map(|other| format!("{} {:?}", other.number, other.unit)).collect::<Vec<_>>().join(", ")
        ),
    ))
}

fn bare(unit: Unit) -> bool {
    matches!(unit, Unit::None | Unit::Measure(_) | Unit::Count(_))
}

fn equal(a: &Value, b: &Value) -> bool {
    a.unit == b.unit && (a.number - b.number).abs() <= 1e-9 * a.number.abs()
}

/// I and we, he and she; you is who is asked.
fn person(a: &Analysis, b: &Analysis) -> Option<Found> {
    let (ours, theirs) = (a.persons & !4, b.persons & !4);
    let differ = |ours: u8, theirs: u8| ours & theirs == 0 && ours != 0 && theirs != 0;
    let us = (ours ^ theirs) & 2 != 0 && ours & theirs & 1 != 0;
    (differ(ours, theirs) || us).then(|| ("person", format!("{ours:#b} | {theirs:#b}")))
}

fn questions(a: &Analysis, b: &Analysis) -> Option<Found> {
    let sharp = |analysis: &Analysis| analysis.questions & question::SHARP;
    let (ours, theirs) = (sharp(a), sharp(b));
    let general = question::SHOW | question::REQUEST | question::WHAT | question::WHICH | question::WHETHER;
    let differ = match (ours, theirs) {
        (0, 0) => false,
        (0, only) | (only, 0) => {
            // How, may I, how many and for how much are often said otherwise: "cancel my order", "the number of". Why and when are not.
            let said = if ours == 0 { a.questions } else { b.questions };
            only & !(question::HOW | question::CAN | question::COUNT | question::PRICE) != 0
                || only == question::CAN && said & general & !question::WHETHER != 0
        }
        _ => ours & theirs == 0,
    };
    differ.then(|| ("question", format!("{} | {}", names(a.questions), names(b.questions))))
}

fn names(questions: u16) -> String {
    let found: Vec<&str> = question::NAMES.iter().enumerate().filter(|(bit, _)| questions >> bit & 1 == 1).map(|(_, name)| *name).collect();
    found.join(" ")
}

/// What the words say.
pub fn after(a: &Analysis, b: &Analysis, alignment: &Alignment) -> Option<Found> {
    let word = |analysis: &Analysis, at: u8| analysis.stem(&analysis.terms[at as usize]).to_owned();
    let [left_a, left_b] = &alignment.left;
    for &i in &alignment.alone[0] {
        for &j in &alignment.alone[1] {
            let (ours, theirs) = (&a.terms[i as usize], &b.terms[j as usize]);
            let relations = ours.flags & theirs.flags & RELATION != 0;
            // Relations are opposites only in front of the same word: under 20 hours, over 20 hours.
            let followed = !relations || alignment.pairs.iter().any(|pair| pair.0 == i + 1 && pair.1 == j + 1);
            if followed && apart(ours, theirs) {
                return Some((if relations { "direction" } else { "antonym" }, format!("{} | {}", word(a, i), word(b, j))));
            }
        }
    }
    if let Some(found) = direction(a, b, alignment) {
        return Some(found);
    }
    let is = |analysis: &Analysis, at: u8, mark: u8| analysis.terms[at as usize].marks & mark != 0;
    let all = |analysis: &Analysis, left: &[u8]| left.iter().map(|&at| word(analysis, at)).collect::<Vec<_>>().join(", ");
    let detail = || format!("{} | {}", all(a, left_a), all(b, left_b));
    let name_of = |analysis: &Analysis, left: &[u8]| left.iter().any(|&at| is(analysis, at, NAME));
    if name_of(a, left_a) || name_of(b, left_b) {
        return Some(("name", detail()));
    }
    let modifier = |analysis: &Analysis, left: &[u8]| left.iter().any(|&at| analysis.terms[at as usize].flags & MODIFIER != 0);
    if modifier(a, left_a) || modifier(b, left_b) {
        return Some(("modifier", detail()));
    }
    if !left_a.is_empty() && !left_b.is_empty() || left_a.len().max(left_b.len()) > 1 {
        return Some(("words", detail()));
    }
    None
}

/// From A to B and from B to A; A beat B and B beat A; 2024 into 2025 and 2025 into 2024.
fn direction(a: &Analysis, b: &Analysis, alignment: &Alignment) -> Option<Found> {
    let pairs = &alignment.pairs;
    for (at, &(i, x, _)) in pairs.iter().enumerate() {
        let (here, there) = (a.terms[i as usize].marks, b.terms[x as usize].marks);
        if here & FROM != 0 && there & (FROM | TO) == TO || here & (FROM | TO) == TO && there & FROM != 0 {
            return Some(("direction", format!("from or to {}", a.stem(&a.terms[i as usize]))));
        }
        for &(j, y, _) in &pairs[at + 1..] {
            let (first, second) = (&a.terms[i as usize], &a.terms[j as usize]);
            if i == j || x == y || a.terms[i as usize].hash == a.terms[j as usize].hash {
                continue;
            }
            if roles_swap(first, second, &b.terms[x as usize], &b.terms[y as usize]) || y < x && exchanged(pairs, (i, x), (j, y)) {
                return Some(("direction", format!("{} … {}", a.stem(first), a.stem(second))));
            }
        }
    }
    None
}

/// 에서 and 로, 이 and the rest, change places.
fn roles_swap(first: &Term, second: &Term, first_there: &Term, second_there: &Term) -> bool {
    let role = |term: &Term| term.marks & (FROM | TO | SUBJECT);
    role(first) != 0
        && role(second) != 0
        && role(first) != role(second)
        && role(first) == role(second_there)
        && role(second) == role(first_there)
}

/// Each stands where the other stood: beside the same word, on the same side of it.
fn exchanged(pairs: &[(u8, u8, Level)], (i, x): (u8, u8), (j, y): (u8, u8)) -> bool {
    let partner = |at: Option<u8>| at.and_then(|at| pairs.iter().find(|pair| pair.0 == at)).map(|pair| pair.1);
    // Whether what stands beside `from` on the one side stands beside `to` on the other.
    let takes = |from: u8, to: u8| {
        let (before, after) = (partner(from.checked_sub(1)), partner(Some(from + 1)));
        before.is_some() && before == to.checked_sub(1) && before != Some(x) && before != Some(y)
            || after.is_some() && after == Some(to + 1) && after != Some(x) && after != Some(y)
    };
    // Neighbours that change places are mostly a date or a compound: 9 April, April 9.
    i.abs_diff(j) > 1 && x.abs_diff(y) > 1 && takes(i, y) && takes(j, x)
}
