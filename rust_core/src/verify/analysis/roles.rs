//! Who does what to whom, as far as particles, prepositions and pronouns say.

use super::items::Item;
use super::{
    FIRST_DOES, FOR, FROM, HANGUL, MINE, OBJECT, OWNER, SUBJECT, THEIRS, THIRD_DOES, TO, TO_FIRST, TO_THIRD, TO_YOU, YOU_DO, YOURS,
};
use crate::verify::korean::Role;
use crate::verify::lexicon::{FILLER, Lexicon, PARTICLE, RELATION, is_past, short_hash, stem_of};
use crate::verify::values::FREE;

/// What follows "from" and "to" is marked as a Korean particle marks it.
pub(super) fn mark_roles(items: &mut [Item]) {
    for at in 1..items.len() {
        if items[at - 1].value != FREE || items[at].marks & HANGUL != 0 {
            continue;
        }
        // The last word of a phrase too: "put into", "go to".
        let before = items[at - 1].text.rsplit(' ').next().unwrap_or("");
        items[at].marks |= match before {
            "from" => FROM,
            "to" | "into" | "toward" | "towards" => TO,
            "for" => FOR,
            _ => 0,
        };
    }
}

pub(super) fn role_marks(role: Role) -> u32 {
    match role {
        Role::From => FROM,
        Role::To => TO,
        Role::Recipient => TO | TO_THIRD,
        Role::Topic => SUBJECT,
        Role::Subject => SUBJECT | THIRD_DOES,
        Role::Object => OBJECT,
        Role::None => 0,
    }
}

pub(super) fn person(word: &str) -> u8 {
    match word {
        "i" | "me" | "my" | "mine" | "myself" => 1,
        "we" | "us" | "our" | "ours" | "ourselves" => 2,
        "you" | "your" | "yours" | "yourself" => 4,
        "he" | "him" | "his" | "himself" => 8,
        "she" | "her" | "hers" | "herself" => 16,
        "they" | "them" | "their" | "theirs" => 32,
        _ => 0,
    }
}

/// People who act for themselves behind "my", "our" or "your".
const OTHERS: [&str; 34] = [
    "wife",
    "husband",
    "partner",
    "spouse",
    "mother",
    "mom",
    "mum",
    "father",
    "dad",
    "son",
    "daughter",
    "child",
    "kid",
    "children",
    "kids",
    "parents",
    "brother",
    "sister",
    "friend",
    "colleague",
    "coworker",
    "boss",
    "manager",
    "neighbor",
    "neighbour",
    "roommate",
    "flatmate",
    "landlord",
    "tenant",
    "employer",
    "assistant",
    "supervisor",
    "grandmother",
    "grandfather",
];
/// The first fifteen stand in front of another verb; "is" need not.
const AUXILIARIES: [&str; 24] = [
    "do", "does", "did", "can", "could", "will", "would", "shall", "should", "may", "might", "must", "have", "has", "had", "are", "is",
    "were", "was", "if", "when", "that", "and", "but",
];

/// Marks verbs with who does them, and to whom, where pronouns or kin say so: in front of them and behind them.
pub(super) fn mark_actors(items: &mut [Item], lexicon: &Lexicon) {
    for at in 0..items.len() {
        if items[at].value != FREE || items[at].exact || items[at].marks & HANGUL != 0 {
            continue;
        }
        let before = at.checked_sub(1).map_or("", |before| items[before].text.as_str());
        let other = OTHERS.contains(&items[at].text.as_str()) && !items[at].owner && matches!(before, "my" | "our" | "your");
        let (does, to) = match items[at].text.as_str() {
            "i" | "we" => (FIRST_DOES, TO_FIRST),
            "he" | "she" | "they" => (THIRD_DOES, TO_THIRD),
            "you" if at == 0 || AUXILIARIES.contains(&before) => (YOU_DO, TO_YOU),
            "me" | "us" => (0, TO_FIRST),
            "you" => (0, TO_YOU),
            "him" | "them" => (0, TO_THIRD),
            _ if other => (THIRD_DOES, TO_THIRD),
            _ => continue,
        };
        let says = |item: &Item| {
            let flags = lexicon.entry(short_hash(&stem_of(&item.text))).map_or(0, |entry| entry.flags);
            item.value == FREE && flags & (FILLER | PARTICLE | RELATION) == 0
        };
        if before == "by" {
            let verb = (at.saturating_sub(3)..at).rev().find(|&verb| says(&items[verb]));
            if let Some(verb) = verb {
                items[verb].marks |= if to == TO_FIRST { FIRST_DOES } else { THIRD_DOES };
            }
        } else if does == 0 {
            // "Do it for me" is not done to me.
            let verb = (at.saturating_sub(3)..at).rev().find(|&verb| says(&items[verb])).filter(|_| before != "for");
            if let Some(verb) = verb {
                items[verb].marks |= to;
            }
        } else if let Some(verb) = (at + 1..items.len().min(at + 4)).find(|&verb| says(&items[verb])) {
            let passive = items[at.saturating_sub(1)..verb].iter().any(|item| is_be(&item.text)) && items[verb].text.ends_with("ed");
            // "I have pain" is no deed.
            let has = matches!(items[verb - 1].text.as_str(), "have" | "has" | "had") && !past(&items[verb].text);
            items[verb].marks |= if has {
                0
            } else if passive {
                to
            } else {
                does
            };
        }
    }
}

/// "Did the caterer confirm it?", "My manager approved it": what stands behind the first noun is done by somebody else.
pub(super) fn mark_subject(items: &mut [Item], lexicon: &Lexicon) {
    let auxiliary = items.iter().take(2).position(|item| AUXILIARIES[..15].contains(&item.text.as_str()));
    let at = auxiliary.map_or(0, |at| at + 1);
    if !items.get(at).is_some_and(|item| matches!(item.text.as_str(), "the" | "my" | "our" | "your" | "a" | "an")) {
        return;
    }
    let says = |item: &Item| lexicon.entry(short_hash(&stem_of(&item.text))).is_none_or(|entry| entry.flags & (FILLER | PARTICLE) == 0);
    let mut nouns = 0;
    for item in items[at + 1..].iter_mut().take(4) {
        let ends = lexicon.entry(short_hash(&stem_of(&item.text))).is_some_and(|entry| entry.flags & RELATION != 0);
        if ends || is_be(&item.text) || item.value != FREE || person(&item.text) != 0 {
            return;
        }
        if says(item) {
            item.marks |= if nouns > 0 && item.marks & (FIRST_DOES | YOU_DO) == 0 { THIRD_DOES } else { 0 };
            nouns += 1;
        }
    }
}

/// My account, her account.
pub(super) fn mark_owners(items: &mut [Item], lexicon: &Lexicon) {
    for at in 0..items.len().saturating_sub(1) {
        let mark = match items[at].text.as_str() {
            "my" | "our" => MINE,
            "your" => YOURS,
            "his" | "her" | "their" => THEIRS,
            _ => continue,
        };
        let says = |item: &&mut Item| {
            item.value == FREE && lexicon.entry(short_hash(&stem_of(&item.text))).is_none_or(|entry| entry.flags & (FILLER | PARTICLE) == 0)
        };
        if let Some(owned) = items[at + 1..].iter_mut().take(1).find(says) {
            owned.marks |= mark;
        }
    }
    for item in items.iter_mut().filter(|item| item.owner) {
        item.marks |= OWNER;
    }
}

/// "Which team did Arsenal beat?": what is asked for is not who does it.
pub(super) fn is_inverted(items: &[Item]) -> bool {
    let Some(asked) = items.iter().position(|item| matches!(item.text.as_str(), "which" | "who" | "whom" | "what")) else { return false };
    let verb = items[asked + 1..].iter().take(4).position(|item| matches!(item.text.as_str(), "do" | "does" | "did"));
    verb.and_then(|verb| items.get(asked + verb + 2)).is_some_and(|subject| person(&subject.text) == 0)
}

pub(super) fn past(word: &str) -> bool {
    word.ends_with("ed") || is_past(word)
}

pub(super) fn is_be(word: &str) -> bool {
    matches!(word, "am" | "is" | "are" | "was" | "were" | "be" | "been" | "being" | "get" | "got")
}
