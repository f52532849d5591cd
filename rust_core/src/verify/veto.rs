//! Differences that change what is asked. Each has a name; the first one found refuses.

use super::align::{Alignment, Level, apart};
use super::analysis::{
    ACTORS, AGENT, Analysis, EXACT, FOR, FROM, HANGUL, NAME, NEGATED, OBJECT, OWNED, OWNER, PATIENT, SUBJECT, Script, TARGETS, TO, Term,
    VALUE,
};
use super::lexicon::{MODIFIER, RELATION, lexicon, question};
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

/// Whoever only wants the name pays for no words.
fn say(explain: bool, words: impl FnOnce() -> String) -> String {
    if explain { words() } else { String::new() }
}

/// What can be told before words are aligned.
pub fn before(a: &Analysis, b: &Analysis, explain: bool) -> Option<Found> {
    if a.long || b.long {
        return Some(("length", say(explain, || "long texts are the same only if they are identical".into())));
    }
    if a.script != b.script {
        return Some(("language", say(explain, || format!("{:?} | {:?}", a.script, b.script))));
    }
    if a.exact != b.exact {
        return Some(("code", say(explain, || format!("{} | {} codes or symbols, not the same", a.exact.len(), b.exact.len()))));
    }
    let spells = |analysis: &Analysis| analysis.spelled != [0; 3];
    if spells(a) && spells(b) && a.spelled != b.spelled {
        return Some(("code", say(explain, || format!("&, + and %: {:?} | {:?} times", a.spelled, b.spelled))));
    }
    if !a.quotes.is_empty() && !b.quotes.is_empty() && a.quotes != b.quotes {
        return Some(("quotation", say(explain, || "quoted texts differ".into())));
    }
    values(&a.values, &b.values, explain)
        .or_else(|| {
            (a.negations % 2 != b.negations % 2).then(|| ("negation", say(explain, || format!("{} | {} times", a.negations, b.negations))))
        })
        .or_else(|| person(a, b, explain))
        .or_else(|| questions(a, b, explain))
}

/// Every value needs its equal on the other side.
fn values(a: &[Value], b: &[Value], explain: bool) -> Option<Found> {
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
        say(explain, || {
            format!(
                "{} {:?} | {}",
                found.number,
                found.unit,
                others.iter().map(|other| format!("{} {:?}", other.number, other.unit)).collect::<Vec<_>>().join(", ")
            )
        }),
    ))
}

fn bare(unit: Unit) -> bool {
    matches!(unit, Unit::None | Unit::Measure(_) | Unit::Count(_))
}

fn equal(a: &Value, b: &Value) -> bool {
    a.unit.is(b.unit) && (a.number - b.number).abs() <= 1e-9 * a.number.abs()
}

/// I and we, he and she; you is who is asked.
fn person(a: &Analysis, b: &Analysis, explain: bool) -> Option<Found> {
    let (ours, theirs) = (a.persons & !4, b.persons & !4);
    let differ = |ours: u8, theirs: u8| ours & theirs == 0 && ours != 0 && theirs != 0;
    let us = (ours ^ theirs) & 2 != 0 && ours & theirs & 1 != 0;
    (differ(ours, theirs) || us).then(|| ("person", say(explain, || format!("{ours:#b} | {theirs:#b}"))))
}

fn questions(a: &Analysis, b: &Analysis, explain: bool) -> Option<Found> {
    let (ours, theirs) = (a.questions, b.questions);
    let differ = if a.script == Script::Hangul {
        one_sided(ours, theirs, question::CORE | question::HOW) || moods(ours, theirs)
    } else {
        one_sided(ours, theirs, question::CORE & !(question::COUNT | question::PRICE))
            || moods(ours, theirs)
            || stated(ours, theirs)
            || stated(theirs, ours)
            || inverted(a, b)
            || done(a, b)
            || done(b, a)
            || uncounted(a, b)
            || uncounted(b, a)
    };
    differ.then(|| ("question", say(explain, || format!("{} | {}", names(ours), names(theirs)))))
}

/// Whether one of the kinds is asked for on one side only.
fn one_sided(ours: u32, theirs: u32, kinds: u32) -> bool {
    // Whoever asks how many asks for no price, though "how much" may be both.
    let counted = ours & theirs & question::COUNT != 0;
    (ours ^ theirs) & kinds & !(if counted { question::PRICE } else { 0 }) != 0
}

/// How, may I, should I and must I against each other and against other questions.
fn moods(ours: u32, theirs: u32) -> bool {
    use question::{CAN, CORE, HOW, MODAL, REQUEST, SHOW, WHAT, WHETHER, WHICH};
    let disjoint = |kinds: u32| ours & kinds != 0 && theirs & kinds != 0 && ours & theirs & kinds == 0;
    let only_one = |kinds: u32| (ours & kinds == 0) != (theirs & kinds == 0);
    let other_than = |kind: u32| if ours & kind == 0 { ours } else { theirs };
    // "Cancel my order" may stand for how to, "does it" and "what is" may not; nor may "show me" for may I.
    let how = only_one(HOW) && other_than(HOW) & (REQUEST | SHOW | CAN) == 0 && other_than(HOW) & (WHETHER | WHAT | WHICH) != 0;
    let can = only_one(CAN) && other_than(CAN) & (SHOW | REQUEST | WHAT | WHICH) != 0 && other_than(CAN) & MODAL == 0;
    disjoint(CORE) || disjoint(MODAL) || how || can
}

/// What one side asks and the other one states, orders, or asks otherwise.
fn stated(ours: u32, theirs: u32) -> bool {
    use question::{CAN, COUNT, HOW, MODAL, PRICE, REQUEST, SHOW, STATEMENT, WHAT, WHETHER, WHICH, WHO};
    let asks = |kinds: u32| theirs & kinds != 0;
    // Is there a discount? How high is it? How do I pay it?
    let number = ours & (COUNT | PRICE) != 0 && !asks(COUNT | PRICE | WHAT | SHOW) && asks(WHETHER | HOW | CAN | WHO | WHICH | STATEMENT);
    // Is it installed? Install it!
    let only_whether = ours & WHETHER != 0 && ours & (REQUEST | SHOW | WHAT | WHICH | MODAL) == 0;
    let order = theirs & !(REQUEST | HOW | STATEMENT | WHAT | WHICH | SHOW) == 0;
    // Can I still switch? Switch!
    let may = ours & CAN != 0 && ours & REQUEST == 0 && theirs & !STATEMENT == 0;
    // How do I use the card? I use the card.
    let told = ours & (HOW | WHICH | REQUEST) != 0 && asks(STATEMENT);
    number || only_whether && order || may || told
}

/// Which team beat Arsenal? Which team did Arsenal beat?
fn inverted(a: &Analysis, b: &Analysis) -> bool {
    let by = |analysis: &Analysis| analysis.terms.iter().any(|term| analysis.stem(term) == "by");
    let which = |analysis: &Analysis| analysis.questions & (question::WHICH | question::WHO) != 0;
    (a.questions ^ b.questions) & question::INVERTED != 0 && which(a) && which(b) && !by(a) && !by(b)
}

/// What does it cost to freeze it? Freeze it!
fn uncounted(a: &Analysis, b: &Analysis) -> bool {
    const AMOUNTS: [&str; 11] = ["howmuch", "pric", "cost", "fee", "rat", "charg", "number", "amount", "total", "sum", "count"];
    a.questions & (question::COUNT | question::PRICE) != 0
        && b.questions & !question::REQUEST == 0
        && !b.terms.iter().any(|term| AMOUNTS.iter().any(|amount| b.stem(term).starts_with(amount)))
}

/// It was frozen; freeze it.
fn done(a: &Analysis, b: &Analysis) -> bool {
    a.questions == question::STATEMENT && b.questions == 0 && a.pasts > b.pasts
}

fn names(questions: u32) -> String {
    let found: Vec<&str> = question::NAMES.iter().enumerate().filter(|(bit, _)| questions >> bit & 1 == 1).map(|(_, name)| *name).collect();
    found.join(" ")
}

/// What the words say.
pub fn after(a: &Analysis, b: &Analysis, alignment: &Alignment, explain: bool) -> Option<Found> {
    let word = |analysis: &Analysis, at: u8| analysis.stem(&analysis.terms[at as usize]).to_owned();
    let [left_a, left_b] = &alignment.left;
    for &i in &alignment.alone[0] {
        for &j in &alignment.alone[1] {
            let (ours, theirs) = (&a.terms[i as usize], &b.terms[j as usize]);
            let relations = ours.flags & theirs.flags & RELATION != 0;
            // Relations are opposites only in front of the same word: under 20 hours, over 20 hours.
            let followed = !relations || alignment.pairs.iter().any(|pair| pair.0 == i + 1 && pair.1 == j + 1);
            if followed && apart(ours, theirs) {
                return Some((
                    if relations { "direction" } else { "antonym" },
                    say(explain, || format!("{} | {}", word(a, i), word(b, j))),
                ));
            }
        }
    }
    if let Some(found) =
        direction(a, b, alignment, explain).or_else(|| negated(a, b, alignment, explain)).or_else(|| bounds(a, b, alignment, explain))
    {
        return Some(found);
    }
    if counted(a, b, alignment) {
        return Some(("number", say(explain, || "for so many, or so many of them".into())));
    }
    let is = |analysis: &Analysis, at: u8, mark: u32| analysis.terms[at as usize].marks & mark != 0;
    let all = |analysis: &Analysis, left: &[u8]| left.iter().map(|&at| word(analysis, at)).collect::<Vec<_>>().join(", ");
    let detail = || say(explain, || format!("{} | {}", all(a, left_a), all(b, left_b)));
    let name_of = |analysis: &Analysis, left: &[u8]| left.iter().any(|&at| is(analysis, at, NAME));
    if name_of(a, left_a) || name_of(b, left_b) {
        return Some(("name", detail()));
    }
    let modifier = |analysis: &Analysis, left: &[u8]| left.iter().any(|&at| analysis.terms[at as usize].flags & MODIFIER != 0);
    if modifier(a, left_a) || modifier(b, left_b) {
        return Some(("modifier", detail()));
    }
    // One word more in three is another question, however well the others match.
    let share = |analysis: &Analysis, left: &[u8]| {
        let weigh = |terms: &mut dyn Iterator<Item = &Term>| terms.map(|term| u32::from(term.weight)).sum::<u32>();
        let all = weigh(&mut analysis.terms.iter().filter(|term| term.flags & RELATION == 0));
        10 * weigh(&mut left.iter().map(|&at| &analysis.terms[at as usize])) >= 3 * all.max(1)
    };
    let much = !left_a.is_empty() && share(a, left_a) || !left_b.is_empty() && share(b, left_b);
    // The start date, the rent increase: a word that has an opposite and stands in front of a word that both have says which. And for
    // "request" a word that says little may not stand in for "cancel".
    let opposite = |analysis: &Analysis, side: usize, light: u8| {
        alignment.left[side].iter().any(|&at| {
            let said = usize::from(at) + 1 < analysis.terms.len() && !alignment.alone[side].contains(&(at + 1));
            (said || light > 0) && lexicon().has_sides(analysis.terms[at as usize].hash)
        })
    };
    let replaced = opposite(a, 0, alignment.light[1]) || opposite(b, 1, alignment.light[0]);
    if much || replaced || !left_a.is_empty() && !left_b.is_empty() || left_a.len().max(left_b.len()) > 1 {
        return Some(("words", detail()));
    }
    None
}

/// From A to B and from B to A; A beat B and B beat A; 2024 into 2025 and 2025 into 2024.
fn direction(a: &Analysis, b: &Analysis, alignment: &Alignment, explain: bool) -> Option<Found> {
    let pairs = &alignment.pairs;
    for (at, &(i, x, _)) in pairs.iter().enumerate() {
        let (here, there) = (a.terms[i as usize].marks, b.terms[x as usize].marks);
        if acts(here, there) || here & OWNED != 0 && there & OWNED != 0 && here & there & OWNED == 0 {
            return Some(("direction", say(explain, || format!("who does it: {}", a.stem(&a.terms[i as usize])))));
        }
        if here & FROM != 0 && there & (FROM | TO) == TO || here & (FROM | TO) == TO && there & FROM != 0 {
            return Some(("direction", say(explain, || format!("from or to {}", a.stem(&a.terms[i as usize])))));
        }
        for &(j, y, _) in &pairs[at + 1..] {
            let (first, second) = (&a.terms[i as usize], &a.terms[j as usize]);
            if i == j || x == y || a.terms[i as usize].hash == a.terms[j as usize].hash {
                continue;
            }
            let (first_there, second_there) = (b.terms[x as usize].marks, b.terms[y as usize].marks);
            if swapped(SUBJECT, OBJECT, [first.marks, second.marks], [first_there, second_there])
                || first.marks & second.marks & NAME != 0 && (first.marks ^ first_there) & (second.marks ^ second_there) & OWNER != 0
                || swapped(AGENT, PATIENT, [first.marks, second.marks], [first_there, second_there])
                || j == i + 1 && x == y + 1 && beneficiaries([first.marks, second.marks], [second_there, first_there])
                || modifiers_exchanged(a, b, pairs, (i, x), (j, y))
                || roles_swap(first, second, &b.terms[x as usize], &b.terms[y as usize])
                || y < x && exchanged(pairs, (i, x), (j, y))
                || neighbours_exchanged(a, pairs, (i, x), (j, y))
            {
                return Some(("direction", say(explain, || format!("{} … {}", a.stem(first), a.stem(second)))));
            }
        }
    }
    None
}

/// A number that says for how many on one side, and how many on the other: a table for six, six tables.
fn counted(a: &Analysis, b: &Analysis, alignment: &Alignment) -> bool {
    let has = |analysis: &Analysis, at: u8| analysis.terms[usize::from(at)].marks & (FOR | VALUE) == FOR | VALUE;
    let paired = |i: Option<u8>, x: Option<u8>| alignment.pairs.iter().any(|pair| Some(pair.0) == i && Some(pair.1) == x);
    alignment.pairs.iter().any(|&(i, x, _)| match (has(a, i), has(b, x)) {
        (true, false) => paired(i.checked_sub(1), Some(x + 1)),
        (false, true) => paired(Some(i + 1), x.checked_sub(1)),
        _ => false,
    })
}

/// Whether one has the one role here and the other there, and the other one the other way round.
fn swapped(one: u32, other: u32, here: [u32; 2], there: [u32; 2]) -> bool {
    let takes = |marks: [u32; 2], first: u32, second: u32| marks[0] & first != 0 && marks[1] & second != 0;
    takes(here, one, other) && takes(there, other, one) || takes(here, other, one) && takes(there, one, other)
}

/// Whether one does what another one does, or what is done to him.
fn acts(here: u32, there: u32) -> bool {
    // Marks of targets stand three bits higher than those of actors, person by person.
    let turned = |here: u32, there: u32| {
        let (does, done) = (here & ACTORS, (there & TARGETS) >> 3);
        does & done != 0 && there & ACTORS & does == 0
    };
    let (ours, theirs) = (here & ACTORS, there & ACTORS);
    ours != 0 && theirs != 0 && ours & theirs == 0 || turned(here, there) || turned(there, here)
}

/// This instead of that, and that instead of this.
fn negated(a: &Analysis, b: &Analysis, alignment: &Alignment, explain: bool) -> Option<Found> {
    let only = |here: bool| {
        alignment.pairs.iter().find(|pair| {
            let (ours, theirs) = (a.terms[pair.0 as usize].marks & NEGATED, b.terms[pair.1 as usize].marks & NEGATED);
            if here { ours > theirs } else { ours < theirs }
        })
    };
    let (ours, theirs) = (only(true)?, only(false)?);
    Some(("negation", say(explain, || format!("not {} | not {}", a.stem(&a.terms[ours.0 as usize]), b.stem(&b.terms[theirs.1 as usize])))))
}

/// Before, after, under, outside and their like on one side only.
fn bounds(a: &Analysis, b: &Analysis, alignment: &Alignment, explain: bool) -> Option<Found> {
    const ALWAYS: [&str; 4] = ["before", "after", "outside", "until"];
    // Under a law, over the past year: bounds only in front of a number.
    const OF_NUMBERS: [&str; 4] = ["under", "below", "above", "over"];
    let found = [(a, 0), (b, 1)].into_iter().find_map(|(analysis, side)| {
        let bounds = |&&at: &&u8| {
            let word = analysis.stem(&analysis.terms[usize::from(at)]);
            let number = analysis.terms.get(usize::from(at) + 1).is_some_and(|next| next.marks & VALUE != 0);
            ALWAYS.contains(&word) || number && OF_NUMBERS.contains(&word)
        };
        alignment.alone[side].iter().find(bounds).map(|&at| analysis.stem(&analysis.terms[usize::from(at)]))
    });
    found.map(|word| ("direction", say(explain, || format!("{word} on one side"))))
}

/// 에서 and 로, 이 and the rest, change places.
fn roles_swap(first: &Term, second: &Term, first_there: &Term, second_there: &Term) -> bool {
    let role = |term: &Term, roles: u32| term.marks & roles;
    let swap = |roles: u32| {
        role(first, roles) != role(second, roles)
            && role(first, roles) == role(second_there, roles)
            && role(second, roles) == role(first_there, roles)
    };
    // 은 and 는 mark what a sentence is about, so a subject that has no partner with a role of its own says nothing.
    // "From Q2" and "from the second quarter" mark two parts of one thing.
    let values = (first.marks | second.marks) & VALUE != 0;
    !values && swap(FROM | TO) || swap(FROM | TO | SUBJECT) && [first, second].iter().all(|term| role(term, FROM | TO | SUBJECT) != 0)
}

/// Charge the company for the guest, and the guest for the company.
fn beneficiaries(here: [u32; 2], there: [u32; 2]) -> bool {
    let second = |marks: [u32; 2]| (marks[0] | marks[1]) & VALUE == 0 && marks[0] & FOR == 0 && marks[1] & FOR != 0;
    second(here) && second(there)
}

/// 민수 동생 계좌 and 동생 민수 계좌: bare nouns in front of the same word, each of the one behind it.
fn modifiers_exchanged(a: &Analysis, b: &Analysis, pairs: &[(u8, u8, Level)], (i, x): (u8, u8), (j, y): (u8, u8)) -> bool {
    const ROLES: u32 = FROM | TO | SUBJECT | OBJECT | VALUE | EXACT;
    let bare = |analysis: &Analysis, at: u8| analysis.terms[usize::from(at)].marks & (ROLES | HANGUL) == HANGUL;
    let sides = |at: u8| lexicon().has_sides(a.terms[usize::from(at)].hash);
    let next_to = j == i + 1 && x == y + 1 && pairs.iter().any(|pair| (pair.0, pair.1) == (j + 1, x + 1));
    next_to && bare(a, i) && bare(a, j) && bare(b, x) && bare(b, y) && !sides(i) && !sides(j)
}

/// Neighbours that changed places: mostly a date or a compound, but not behind a verb of exchange, and not where it is asked who did it.
fn neighbours_exchanged(a: &Analysis, pairs: &[(u8, u8, Level)], (i, x): (u8, u8), (j, y): (u8, u8)) -> bool {
    const EXCHANGES: [&str; 9] = ["replace", "swap", "exchange", "substitute", "trade", "change", "convert", "turn", "switch"];
    if i.abs_diff(j) != 1 || x.abs_diff(y) != 1 || y > x {
        return false;
    }
    let (first, second) = (&a.terms[i as usize], &a.terms[j as usize]);
    let who = a.questions & question::WHO != 0 && (first.marks | second.marks) & NAME != 0;
    let verb = i.min(j).checked_sub(1).filter(|&at| pairs.iter().any(|pair| pair.0 == at && Some(pair.1) == x.min(y).checked_sub(1)));
    who || verb.is_some_and(|at| EXCHANGES.contains(&a.stem(&a.terms[at as usize])))
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
