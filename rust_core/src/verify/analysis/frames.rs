//! Phrases that make a question or a request: taken out, and noted.

use super::builder::Builder;
use super::items::Item;
use super::roles::person;
use super::{ACTORS, HANGUL, TARGETS, YOU_DO};
use crate::verify::lexicon::question;
use crate::verify::values::FREE;

impl Builder {
    /// Takes out the phrases that make a question or a request, and notes which.
    pub(super) fn frames(&mut self, items: &mut [Item]) {
        let mut at = 0;
        while at < items.len() {
            let found = self.lexicon.frames(items[at].hash).iter().find(|(rest, kind)| {
                let rest_fits = rest.len() < items.len() - at
                    && rest.iter().zip(&items[at + 1..]).all(|(word, item)| *word == item.hash && item.value == FREE && !item.gone);
                rest_fits && items[at].value == FREE && (!rest.is_empty() || asks_alone(items, at, *kind))
            });
            let Some((rest, kind)) = found else {
                at += 1;
                continue;
            };
            self.questions |= kind;
            self.prices |= kind & question::PRICE != 0;
            for item in &mut items[at..=at + rest.len()] {
                item.gone = true;
                self.persons |= person(&item.text);
            }
            at += rest.len() + 1;
            // Whoever is asked to do something, or how "you" do it, is nobody in particular.
            let nobody = if kind & (question::REQUEST | question::SHOW) != 0 { ACTORS | TARGETS } else { YOU_DO };
            if kind & (question::REQUEST | question::HOW | question::SHOW) != 0
                && let Some(verb) = items[at..].iter_mut().take(2).find(|item| item.marks & nobody != 0)
            {
                verb.marks &= !nobody;
            }
        }
    }

    /// "Is a permit required?" asks what "do I need a permit?" does, "what is the start date?" what "when does it start?" does.
    pub(super) fn words_that_ask(&mut self, items: &mut [Item]) {
        let of = |this: &Builder, kind: u32| this.questions & kind != 0;
        for at in 0..items.len() {
            let before = at.checked_sub(1).map_or("", |before| items[before].text.as_str());
            let item = &items[at];
            if item.gone || item.value != FREE || item.marks & HANGUL != 0 {
                continue;
            }
            let kind = match item.text.as_str() {
                "mandatory" | "required" | "necessary" | "compulsory" | "obligatory" | "needed" if of(self, question::WHETHER) => {
                    question::MUST
                }
                "allowed" | "permitted" | "possible" | "ok" | "okay" if of(self, question::WHETHER) => question::CAN,
                "date" if of(self, question::WHAT) => question::WHEN,
                "time" if of(self, question::WHAT) && takes_time(before) => question::DURATION,
                "time" if of(self, question::WHAT) && has_a_time(before) => question::WHEN,
                _ => continue,
            };
            self.questions |= kind;
            self.questions &= !if kind & (question::WHEN | question::DURATION) != 0 { question::WHAT } else { 0 };
            items[at].gone = true;
        }
    }
}

/// Processing time is how long it takes, closing time is when it is.
fn takes_time(before: &str) -> bool {
    ["process", "deliver", "wait", "respon", "turnaround", "travel", "handling", "lead", "shipping", "repair", "transit"]
        .iter()
        .any(|stem| before.starts_with(stem))
}

fn has_a_time(before: &str) -> bool {
    ["clos", "open", "start", "end", "depart", "arriv", "check", "pickup", "boarding", "begin"].iter().any(|stem| before.starts_with(stem))
        || before == "in"
}

/// A question word alone asks at the beginning of a sentence, in front of a verb like "do" or "is", behind a word of telling (which is
/// gone by then), and at the very end; elsewhere "when" and "who" join clauses.
fn asks_alone(items: &[Item], at: usize, kind: u32) -> bool {
    const VERBS: [&str; 17] =
        ["do", "does", "did", "is", "are", "was", "were", "can", "could", "will", "would", "may", "must", "should", "have", "has", "shall"];
    let before_verb = items.get(at + 1).is_some_and(|next| VERBS.contains(&next.text.as_str()));
    let opens = items[at].opens && (kind != question::WHEN || before_verb);
    let last = at + 1 == items.len() && kind & question::SHARP != 0;
    kind == question::REQUEST && items[at].clause
        || items[at].marks & HANGUL != 0
        || opens
        || items[at].clause && before_verb
        || last
        || at > 0 && items[at - 1].gone && kind & (question::CORE | question::WHAT | question::WHICH) != 0
}

/// A sentence that begins so and asks nothing tells something.
pub(super) fn states(word: &str) -> bool {
    const WORDS: [&str; 15] = ["i", "my", "we", "our", "it", "its", "there", "he", "she", "they", "his", "her", "their", "the", "this"];
    WORDS.contains(&word)
}
