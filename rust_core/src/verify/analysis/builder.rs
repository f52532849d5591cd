//! From a folded text to its terms: contractions taken apart, questions and politeness taken out, phrases joined.

use super::{EXACT, FROM, HANGUL, KNOWN, NAME, NEGATED, SUBJECT, TO, Term, VALUE};
use crate::verify::hash;
use crate::verify::korean::{self, Role};
use crate::verify::lexicon::{self, FILLER, Lexicon, MODIFIER, NEGATION, PARTICLE, RELATION, question, short_hash};
use crate::verify::values::{self, FREE, Value};
use crate::verify::words::{self, Kind, Token};

/// A word on its way to become a term.
struct Item {
    text: String,
    hash: u32,
    value: u8,
    exact: bool,
    marks: u16,
    gone: bool,
    capital: bool,
    opens: bool,
    clause: bool,
}

pub(super) struct Builder {
    pub(super) lexicon: &'static Lexicon,
    pub(super) questions: u16,
    pub(super) persons: u8,
    pub(super) negations: u8,
    pub(super) pasts: u8,
    pub(super) prices: bool,
    pub(super) negated: bool,
    pub(super) terms: Vec<Term>,
    pub(super) values: Vec<Value>,
    pub(super) exact: Vec<u32>,
    pub(super) quotes: Vec<u32>,
    pub(super) letters: String,
}

impl Builder {
    pub(super) fn new(lexicon: &'static Lexicon) -> Builder {
        let (terms, values, exact, quotes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Builder {
            lexicon,
            questions: 0,
            persons: 0,
            negations: 0,
            pasts: 0,
            prices: false,
            negated: false,
            terms,
            values,
            exact,
            quotes,
            letters: String::new(),
        }
    }

    pub(super) fn read(&mut self, folded: &str) {
        let mut tokens = words::tokens(folded);
        let mut read = values::read(&mut tokens);
        self.values = std::mem::take(&mut read.values);
        self.quotes = words::quotes(folded).iter().map(|quote| short_hash(quote)).collect();
        let mut items = self.items(&mut tokens, &mut read.part_of);
        self.frames(&mut items);
        if self.prices
            && let Some(asked) = items.iter_mut().find(|item| item.gone && item.marks & HANGUL == 0)
        {
            // "How much is" is about a price, as "what does it cost" is.
            (asked.text, asked.gone) = ("howmuch".into(), false);
        }
        items.retain(|item| !item.gone);
        for item in &mut items {
            if item.value == FREE && !item.exact && item.marks & HANGUL == 0 {
                let stem = lexicon::stem_of(&item.text);
                self.pasts = self.pasts.saturating_add(u8::from(item.text.ends_with("ed") && stem.len() + 1 < item.text.len()));
                item.hash = short_hash(&stem);
            }
        }
        self.phrases(&mut items);
        items.retain(|item| !item.gone);
        mark_roles(&mut items);
        for item in items {
            self.term(item);
        }
    }

    /// Words with their contractions taken apart, values once each, and codes.
    fn items(&mut self, tokens: &mut [Token], part_of: &mut [u8]) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut last_value = FREE;
        join_codes(tokens, part_of, &mut self.values);
        without_or_not(tokens);
        for (token, &value) in tokens.iter().zip(part_of.iter()) {
            let mut item = Item {
                text: token.text.clone(),
                hash: short_hash(&token.text),
                value,
                exact: false,
                marks: 0,
                gone: false,
                capital: token.capital && !token.opens,
                opens: token.opens,
                clause: token.clause,
            };
            if value != FREE {
                if value != last_value {
                    items.push(Item { text: String::new(), ..item });
                }
                last_value = value;
                // What is left of Hangul behind its unit is a particle; it says where from and where to.
                if token.kind == Kind::Hangul
                    && let Some(item) = items.last_mut()
                {
                    item.marks |= role_marks(lexicon::korean_stem(&format!("값{}", token.text)).1);
                    if let Some(bound) = korean::bound(&token.text) {
                        let text: String = korean::letters(bound).into_iter().collect();
                        let item = Item { hash: short_hash(&text), text, value: FREE, marks: HANGUL, ..item_like(item) };
                        items.push(item);
                    }
                }
                continue;
            }
            last_value = FREE;
            if token.text.is_empty() {
                continue; // taken by what stands before it
            }
            match token.kind {
                Kind::Exact => {
                    item.exact = true;
                    self.exact.push(item.hash);
                    items.push(item);
                }
                Kind::Symbol if token.text == "&" || token.text == "+" => {}
                Kind::Symbol if token.text == "→" => items.push(Item { text: "to".into(), hash: short_hash("to"), ..item }),
                Kind::Symbol => self.exact.push(item.hash),
                Kind::Hangul => self.hangul(&token.text, token.joined, item, &mut items),
                Kind::Number => items.push(item),
                Kind::Word => expand(item, &mut items),
            }
        }
        items
    }

    fn hangul(&mut self, text: &str, joined: bool, mut item: Item, items: &mut Vec<Item>) {
        if korean::is_mood(text) {
            return;
        }
        if joined && korean::is_particle(text) && items.last().is_some_and(|last| last.exact || last.marks & HANGUL == 0) && !item.clause {
            // A particle behind a Latin word or a code: ATM에서.
            if let Some(last) = items.last_mut() {
                last.marks |= role_marks(lexicon::korean_stem(&format!("값{text}")).1);
            }
            return;
        }
        let negates = korean::negates(text);
        self.negations += u8::from(negates);
        let text = if negates && text.starts_with('안') && text.chars().count() > 2 { &text['안'.len_utf8()..] } else { text };
        if matches!(text, "안" | "못") {
            return;
        }
        let (stem, role) = lexicon::korean_stem(text);
        item.marks = HANGUL | role_marks(role);
        item.hash = short_hash(&stem);
        item.text = stem;
        items.push(item);
    }

    /// Takes out the phrases that make a question or a request, and notes which.
    fn frames(&mut self, items: &mut [Item]) {
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
        }
    }

    /// Joins phrases of the lexicon; "turn it off" too, up to three words in between.
    fn phrases(&mut self, items: &mut Vec<Item>) {
        items.retain(|item| {
            let filler = item.value == FREE && !item.exact && self.lexicon.entry(item.hash).is_some_and(|entry| entry.flags & FILLER != 0);
            self.persons |= if filler { person(&item.text) } else { 0 };
            !filler
        });
        let mut at = 0;
        while at < items.len() {
            if items[at].value == FREE {
                for (rest, whole) in self.lexicon.phrases(items[at].hash) {
                    let next_to = rest.len() < items.len() - at
                        && rest.iter().zip(&items[at + 1..]).all(|(word, item)| *word == item.hash && !item.gone);
                    if next_to {
                        items[at].hash = *whole;
                        items[at].text = join(items, at, rest.len());
                        items[at + 1..=at + rest.len()].iter_mut().for_each(|item| item.gone = true);
                        break;
                    }
                    let parts = rest.len() == 1 && separable(items[at].hash, rest[0]);
                    let gap = (2..=4).find(|gap| parts && items.get(at + gap).is_some_and(|item| item.hash == rest[0] && !item.gone));
                    if let Some(gap) = gap {
                        items[at].hash = *whole;
                        items[at].text = format!("{} {}", items[at].text, items[at + gap].text);
                        items[at + gap].gone = true;
                        break;
                    }
                }
            }
            at += 1;
        }
    }

    fn term(&mut self, item: Item) {
        let entry = self.lexicon.entry(item.hash).unwrap_or_default();
        let value = item.value != FREE;
        if !value && !item.exact && entry.flags & PARTICLE != 0 {
            return;
        }
        if !value && !item.exact && entry.flags & NEGATION != 0 {
            // Korean words that say no were counted as they were written.
            self.negations = self.negations.saturating_add(u8::from(item.marks & HANGUL == 0));
            self.negated = true;
            return;
        }
        let phrase = item.text.contains(' ');
        let korean = item.marks & HANGUL != 0;
        let known_entry = self.lexicon.entry(item.hash).is_some();
        let band = if value || item.exact {
            2
        } else if korean {
            if known_entry { 1 } else { 3 }
        } else {
            self.lexicon.band(&item.text)
        };
        let known = known_entry || band < 3 || phrase;
        let mut marks = item.marks;
        marks |= if std::mem::take(&mut self.negated) { NEGATED } else { 0 };
        marks |= if known && !item.exact { KNOWN } else { 0 };
        marks |= if value { VALUE } else { 0 };
        marks |= if item.exact { EXACT } else { 0 };
        marks |= if item.capital && !value && !phrase && !known_entry && (band >= 2 || item.exact) { NAME } else { 0 };
        let stem = item.text;
        let hash = if value { value_hash(self.values.get(item.value as usize)) } else { item.hash };
        let at = self.letters.len();
        self.letters.push_str(&stem);
        let weight = if value {
            6
        } else if entry.flags & RELATION != 0 {
            2
        } else if entry.flags & lexicon::LIGHT != 0 {
            3
        } else {
            4 + 2 * band
        };
        let groups = if value { lexicon::Groups::default() } else { entry.groups };
        let flags = if value { 0 } else { entry.flags | if self.lexicon.is_modifier(&stem) { MODIFIER } else { 0 } };
        let flags = if flags & MODIFIER != 0 { flags & !lexicon::LIGHT } else { flags };
        self.terms.push(Term { hash, groups, at: at as u16, length: stem.len() as u8, flags, marks, weight });
    }
}

/// A question word alone asks at the beginning of a sentence, in front of a verb like "do" or "is", behind a word of telling (which is
/// gone by then), and at the very end; elsewhere "when" and "who" join clauses.
fn asks_alone(items: &[Item], at: usize, kind: u16) -> bool {
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

/// What follows "from" and "to" is marked as a Korean particle marks it.
fn mark_roles(items: &mut [Item]) {
    for at in 1..items.len() {
        if items[at - 1].value != FREE || items[at].marks & HANGUL != 0 {
            continue;
        }
        // The last word of a phrase too: "put into", "go to".
        let before = items[at - 1].text.rsplit(' ').next().unwrap_or("");
        items[at].marks |= match before {
            "from" => FROM,
            "to" | "into" | "toward" | "towards" => TO,
            _ => 0,
        };
    }
}

/// "… or not?" at the end asks nothing more.
fn without_or_not(tokens: &mut [Token]) {
    if let [.., or, not] = tokens
        && or.text == "or"
        && not.text == "not"
    {
        not.text.clear();
    }
}

/// "No. 14" is 14, and BA 117 is BA117: a code in two pieces.
fn join_codes(tokens: &mut [Token], part_of: &mut [u8], values: &mut [Value]) {
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

fn value_hash(value: Option<&Value>) -> u32 {
    value.map_or(0, |value| hash(&value.number.to_bits().to_le_bytes()) as u32)
}

fn join(items: &[Item], at: usize, more: usize) -> String {
    items[at..=at + more].iter().map(|item| item.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// Verbs that let go of their particle: turn notifications off, send it back.
fn separable(verb: u32, particle: u32) -> bool {
    const VERBS: [(&str, &str); 20] = [
        ("turn", "on"),
        ("turn", "off"),
        ("switch", "on"),
        ("switch", "off"),
        ("set", "up"),
        ("pick", "up"),
        ("send", "back"),
        ("give", "back"),
        ("pay", "back"),
        ("pay", "off"),
        ("call", "off"),
        ("take", "out"),
        ("take", "back"),
        ("put", "off"),
        ("sort", "out"),
        ("hand", "in"),
        ("turn", "down"),
        ("bring", "back"),
        ("lay", "off"),
        ("log", "out"),
    ];
    VERBS.iter().any(|(first, second)| short_hash(first) == verb && short_hash(second) == particle)
}

fn role_marks(role: Role) -> u16 {
    match role {
        Role::From => FROM,
        Role::To => TO,
        Role::Subject => SUBJECT,
        Role::None | Role::Object => 0,
    }
}

fn person(word: &str) -> u8 {
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

/// Pushes a word, or what its contraction stands for.
fn expand(item: Item, items: &mut Vec<Item>) {
    let text = item.text.as_str();
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
        items.push(Item { text: part, hash, opens, clause, ..item_like(&item) });
    }
}

fn item_like(item: &Item) -> Item {
    Item {
        text: String::new(),
        hash: 0,
        value: item.value,
        exact: item.exact,
        marks: item.marks,
        gone: item.gone,
        capital: item.capital,
        opens: item.opens,
        clause: item.clause,
    }
}
