//! Words on their way to become terms: contractions taken apart, codes in two pieces joined.

use super::super::values::{self, FREE, Value};
use super::super::words::{Kind, Token};
use crate::verify::lexicon::short_hash;

/// A word on its way to become a term.
pub(super) struct Item {
    pub(super) text: String,
    pub(super) hash: u32,
    pub(super) value: u8,
    pub(super) exact: bool,
    pub(super) marks: u32,
    pub(super) gone: bool,
    pub(super) capital: bool,
    /// Written with 's.
    pub(super) owner: bool,
    pub(super) opens: bool,
    pub(super) clause: bool,
}

/// "… or not?" at the end asks nothing more.
pub(super) fn without_or_not(tokens: &mut [Token]) {
    if let [.., or, not] = tokens
        && or.text == "or"
        && not.text == "not"
    {
        not.text.clear();
    }
}

/// "No. 14" is 14, and BA 117 is BA117: a code in two pieces.
pub(super) fn join_codes(tokens: &mut [Token], part_of: &mut [u8], values: &mut [Value]) {
    for at in 0..tokens.len().saturating_sub(1) {
        if tokens[at + 1].kind != Kind::Number || part_of[at] != FREE {
            continue;
        }
        if matches!(tokens[at].text.as_str(), "no" | "nr" | "num" | "#") {
            tokens[at].text.clear();
        } else if tokens[at].caps && tokens[at].text.len() <= 3 && tokens[at].kind == Kind::Word && part_of[at + 1] != FREE {
            let alone = part_of.get(at + 2) != Some(&part_of[at + 1]);
            let value = usize::from(part_of[at + 1]);
            if alone && values.get(value).is_some_and(|value| value.unit == values::Unit::None) {
                tokens[at].text = format!("{}{}", tokens[at].text, tokens[at + 1].text);
                tokens[at].kind = Kind::Exact;
                tokens[at + 1].text.clear();
                part_of[at + 1] = FREE;
                values[value].optional = true;
            }
        }
    }
}

/// Pushes a word, or what its contraction stands for.
pub(super) fn expand(item: Item, items: &mut Vec<Item>) {
    let text = typed(&item.text);
    let parts: Vec<String> = match text {
        "can't" | "cannot" | "cant" => vec!["can".into(), "not".into()],
        "won't" | "wont" => vec!["will".into(), "not".into()],
        "shan't" => vec!["shall".into(), "not".into()],
        "ain't" => vec!["is".into(), "not".into()],
        "dont" | "doesnt" | "didnt" | "isnt" | "wasnt" | "arent" | "couldnt" | "hasnt" | "havent" | "wouldnt" | "shouldnt" => {
            vec![text[..text.len() - 2].into(), "not".into()]
        }
        "whats" | "wheres" | "whos" | "hows" => vec![text[..text.len() - 1].into(), "is".into()],
        "im" => vec!["i".into(), "am".into()],
        "ive" => vec!["i".into(), "have".into()],
        "let's" | "lets" => vec!["let".into(), "us".into()],
        _ => {
            let (stem, rest) = text.split_once('\'').unwrap_or((text, ""));
            match rest {
                "" => vec![stem.into()],
                "t" if stem.ends_with('n') => vec![stem[..stem.len() - 1].into(), "not".into()],
                "s" if matches!(stem, "what" | "where" | "who" | "how" | "when" | "why" | "that" | "there" | "it" | "here") => {
                    vec![stem.into(), "is".into()]
                }
                "s" => vec![stem.into()],
                "re" => vec![stem.into(), "are".into()],
                "m" => vec![stem.into(), "am".into()],
                "ve" => vec![stem.into(), "have".into()],
                "ll" => vec![stem.into(), "will".into()],
                "d" => vec![stem.into(), "would".into()],
                _ => vec![text.replace('\'', "")],
            }
        }
    };
    let (mut opens, mut clause) = (item.opens, item.clause);
    for part in parts {
        let hash = short_hash(&part);
        let (opens, clause) = (std::mem::take(&mut opens), std::mem::take(&mut clause));
        items.push(Item { text: part, hash, opens, clause, owner: item.text.ends_with("'s"), ..item_like(&item) });
    }
}

pub(super) fn item_like(item: &Item) -> Item {
    Item {
        text: String::new(),
        hash: 0,
        value: item.value,
        exact: item.exact,
        marks: item.marks,
        gone: item.gone,
        capital: item.capital,
        owner: item.owner,
        opens: item.opens,
        clause: item.clause,
    }
}

/// Words that only join others, as they are often mistyped: a slip in these is no word of its own.
fn typed(word: &str) -> &str {
    match word {
        "teh" | "hte" => "the",
        "shoud" | "shuold" => "should",
        "woud" | "wuold" => "would",
        "coud" | "cuold" => "could",
        "wich" | "whihc" => "which",
        "wether" => "whether",
        "hwo" => "how",
        "waht" | "wht" => "what",
        "wehn" => "when",
        "becuase" | "becasue" => "because",
        "adn" | "nad" => "and",
        "cna" => "can",
        "thier" => "their",
        "allready" => "already",
        "u" => "you",
        "ur" => "your",
        _ => word,
    }
}
