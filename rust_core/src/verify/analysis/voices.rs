//! Who does it and to whom it is done, where a passive, a relative clause or a plain question with articles says so.

use super::items::Item;
use super::roles::{is_be, past, person};
use super::{AGENT, HANGUL, PATIENT};
use crate::verify::lexicon::{FILLER, Lexicon, PARTICLE, RELATION, short_hash, stem_of};
use crate::verify::values::FREE;

const ARTICLES: [&str; 10] = ["a", "an", "the", "my", "our", "your", "this", "that", "any", "all"];
const ASKING: [&str; 10] = ["do", "does", "did", "can", "could", "will", "would", "should", "may", "must"];

pub(super) fn mark_voices(items: &mut [Item], lexicon: &Lexicon) {
    for at in 0..items.len() {
        if let Some((agent, patient)) = said_by(items, at, lexicon) {
            items[agent].marks |= AGENT;
            items[patient].marks |= PATIENT;
        }
    }
}

/// Who does it and to whom, by what is said around a word.
fn said_by(items: &[Item], at: usize, lexicon: &Lexicon) -> Option<(usize, usize)> {
    let says = |at: usize| items.get(at).is_some_and(|item| is_content(item, lexicon));
    let article = |at: usize| items.get(at).is_some_and(|item| ARTICLES.contains(&item.text.as_str()));
    let noun = |at: usize| Some(at + usize::from(article(at))).filter(|&at| says(at));
    let is_past = |at: usize| items.get(at).is_some_and(|item| past(&item.text));
    let before = at.checked_sub(1);
    match items[at].text.as_str() {
        // The users blocked by Maria; was the driver rated by the passenger?
        "by" => {
            let verb = before.filter(|&verb| is_past(verb))?;
            let patient = (verb.saturating_sub(2)..verb).rev().find(|&at| says(at))?;
            Some((noun(at + 1)?, patient))
        }
        "who" | "that" | "which" => {
            let head = before.filter(|&head| says(head))?;
            let named = items.get(at + 1).is_some_and(|item| item.capital);
            let agent = noun(at + 1)?;
            let theirs = article(at + 1) || named || !is_past(agent) && is_past(agent + 1);
            if theirs { says(agent + 1).then_some((agent, head)) } else { Some((head, noun(agent + 1)?)) }
        }
        // Does the parser call the lexer?
        word if at == 0 && ASKING.contains(&word) && article(1) => {
            let agent = noun(1)?;
            (says(agent + 1) && article(agent + 2)).then_some((agent, noun(agent + 2)?))
        }
        // The users Maria blocked.
        _ if items[at].capital && is_past(at + 1) => {
            let head = before.filter(|&head| says(head) && !items[head].capital)?;
            let named = says(at) && items.get(at + 2).is_none_or(|item| item.text != "by");
            (named && !items.iter().any(|item| is_be(&item.text))).then_some((at, head))
        }
        _ => None,
    }
}

fn is_content(item: &Item, lexicon: &Lexicon) -> bool {
    let flags = lexicon.entry(short_hash(&stem_of(&item.text))).map_or(0, |entry| entry.flags);
    let word = item.value == FREE && item.marks & HANGUL == 0 && !item.text.is_empty();
    word && flags & (FILLER | PARTICLE | RELATION) == 0 && person(&item.text) == 0 && !is_be(&item.text)
}
