//! From a folded text to its terms: questions and politeness taken out, phrases joined.

use super::frames::states;
use super::items::{Item, expand, item_like, join_codes, without_or_not};
use super::roles::{is_inverted, mark_actors, mark_owners, mark_roles, mark_subject, person, role_marks};
use super::voices::mark_voices;
use super::{EXACT, FOR, HANGUL, KNOWN, NAME, NEGATED, Term, VALUE};
use crate::verify::hash;
use crate::verify::korean;
use crate::verify::lexicon::{self, FILLER, Lexicon, MODIFIER, NEGATION, PARTICLE, RELATION, question, short_hash};
use crate::verify::values::{self, FREE, Value};
use crate::verify::words::{self, Kind, Token};

pub(super) struct Builder {
    pub(super) lexicon: &'static Lexicon,
    pub(super) questions: u32,
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
        mark_actors(&mut items, self.lexicon);
        mark_subject(&mut items, self.lexicon);
        mark_owners(&mut items, self.lexicon);
        mark_voices(&mut items, self.lexicon);
        let inverted = is_inverted(&items);
        self.frames(&mut items);
        self.words_that_ask(&mut items);
        if inverted && self.questions & (question::WHICH | question::WHO) != 0 {
            self.questions |= question::INVERTED;
        }
        if self.questions == 0 {
            let states = items.first().is_some_and(|item| item.marks & HANGUL == 0 && states(&item.text));
            self.questions = match (folded.ends_with('?'), states) {
                (true, _) => question::FRAGMENT,
                (false, true) => question::STATEMENT,
                (false, false) => 0,
            };
        }
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
                let past = item.text.ends_with("ed") && stem.len() + 1 < item.text.len() || lexicon::is_past(&item.text);
                self.pasts = self.pasts.saturating_add(u8::from(past));
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
        for (at, (token, &value)) in tokens.iter().zip(part_of.iter()).enumerate() {
            let mut item = Item {
                text: token.text.clone(),
                hash: short_hash(&token.text),
                value,
                exact: false,
                marks: 0,
                gone: false,
                capital: token.capital && !token.opens,
                owner: false,
                opens: token.opens,
                clause: token.clause,
            };
            // Table A is no table.
            let joined = tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Hangul && next.joined);
            if token.text == "a" && token.capital && (!token.opens || joined) {
                item.text = "letter-a".into();
                item.hash = short_hash(&item.text);
            }
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
                // `symbols` has seen these.
                Kind::Symbol if matches!(token.text.as_str(), "&" | "+" | "%") => {}
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

    /// Joins phrases of the lexicon; "turn it off" too, up to three words in between.
    fn phrases(&mut self, items: &mut Vec<Item>) {
        items.retain(|item| {
            let filler = item.value == FREE && !item.exact && self.lexicon.entry(item.hash).is_some_and(|entry| entry.flags & FILLER != 0);
            self.persons |= if filler { person(&item.text) } else { 0 };
            !filler
        });
        let mut at = 0;
        while at < items.len() {
            if items[at].value == FREE && !items[at].gone {
                let verb = items[at].hash;
                for (rest, whole) in self.lexicon.phrases(verb) {
                    let next_to = rest.len() < items.len() - at
                        && rest.iter().zip(&items[at + 1..]).all(|(word, item)| *word == item.hash && !item.gone);
                    if next_to {
                        items[at].hash = *whole;
                        items[at].text = join(items, at, rest.len());
                        items[at + 1..=at + rest.len()].iter_mut().for_each(|item| item.gone = true);
                        break;
                    }
                }
                if items[at].hash == verb
                    && let Some((gap, whole)) = self.particle_of(items, at)
                {
                    items[at].hash = whole;
                    items[at].text = format!("{} {}", items[at].text, items[at + gap].text);
                    items[at + gap].gone = true;
                }
            }
            at += 1;
        }
    }

    /// How far behind a verb its particle stands, and the phrase that they make. "On" in front of a word is a preposition where another one
    /// stands free: turn alerts on my phone off.
    fn particle_of(&self, items: &[Item], at: usize) -> Option<(usize, u32)> {
        let joins = |gap: usize| {
            let particle = items.get(at + gap).filter(|item| !item.gone)?.hash;
            let phrases = self.lexicon.phrases(items[at].hash).iter();
            let mut wholes = phrases.filter(|(rest, _)| rest.len() == 1 && rest[0] == particle && separable(items[at].hash, particle));
            wholes.next().map(|(_, whole)| (gap, *whole))
        };
        let free = |gap: usize| {
            let next = items.get(at + gap + 1);
            next.is_none_or(|next| {
                let flags = self.lexicon.entry(next.hash).map_or(0, |entry| entry.flags);
                next.clause || next.value == FREE && flags & (PARTICLE | RELATION) != 0
            })
        };
        let found: Vec<(usize, u32)> = (2..=4).filter_map(joins).collect();
        found.iter().find(|(gap, _)| free(*gap)).or(found.first()).copied()
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
        let bare = self.values.get(usize::from(item.value)).is_some_and(|value| value.unit == values::Unit::None);
        marks &= if bare || !value { !0 } else { !FOR };
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

fn value_hash(value: Option<&Value>) -> u32 {
    value.map_or(0, |value| hash(&value.number.to_bits().to_le_bytes()) as u32)
}

fn join(items: &[Item], at: usize, more: usize) -> String {
    items[at..=at + more].iter().map(|item| item.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// Verbs that let go of their particle: turn notifications off, send it back.
fn separable(verb: u32, particle: u32) -> bool {
    const VERBS: [(&str, &str); 24] = [
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
        ("log", "off"),
        ("sign", "out"),
        ("opt", "out"),
        ("opt", "in"),
    ];
    VERBS.iter().any(|(first, second)| short_hash(first) == verb && short_hash(second) == particle)
}
