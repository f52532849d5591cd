//! What is known of words: which mean the same, which exclude each other, which say how much or which, which only make a sentence polite.
//!
//! Made once, at first use, from the texts in `data/verify/` (their form is described at their top). About 1 MB.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{english, hash, korean};

const ENGLISH: &str = include_str!("../../data/verify/english.txt");
const KOREAN: &str = include_str!("../../data/verify/korean.txt");
/// Synonyms and opposites of common words, made from WordNet by `tools/verifier/make_wordnet.py`: looser than those by hand.
const WORDNET: &str = include_str!("../../data/verify/wordnet.txt");
/// Common English words by how common they are: a Bloom filter for each of three bands, made by the same program.
const COMMON: &[u8] = include_bytes!("../../data/verify/common.bloom");
const BANDS: usize = 3;
const BLOOM_HASHES: u64 = 8;

/// Groups from here on are WordNet's.
pub const LOOSE: u16 = 8192;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    pub groups: Groups,
    pub flags: u8,
}

/// Where a word's groups of synonyms are, see `Lexicon::groups`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Groups {
    start: u16,
    count: u8,
}

pub const FILLER: u8 = 1;
/// Means something, but its absence changes little: want, thing, information.
pub const LIGHT: u8 = 2;
/// Says how much, which or how: only, all, monthly, international. Its absence changes the question.
pub const MODIFIER: u8 = 4;
/// From, to, before, without: says how others belong together.
pub const RELATION: u8 = 8;
pub const NEGATION: u8 = 16;
/// One of a list of kinds that exclude each other.
pub const KIND: u8 = 32;
/// Says nothing outside of a phrase of the lexicon.
pub const PARTICLE: u8 = 64;

/// What a question asks for, as bits: a text may ask for several.
pub mod question {
    pub const NAMES: [&str; 21] = [
        "how",
        "can",
        "why",
        "when",
        "duration",
        "price",
        "count",
        "who",
        "where",
        "which",
        "what",
        "show",
        "request",
        "whether",
        "should",
        "must",
        "happens",
        "often",
        "fragment",
        "statement",
        "inverted",
    ];
    pub const HOW: u32 = 1;
    pub const CAN: u32 = 1 << 1;
    pub const WHY: u32 = 1 << 2;
    pub const WHEN: u32 = 1 << 3;
    pub const DURATION: u32 = 1 << 4;
    pub const PRICE: u32 = 1 << 5;
    pub const COUNT: u32 = 1 << 6;
    pub const WHO: u32 = 1 << 7;
    pub const WHERE: u32 = 1 << 8;
    pub const WHICH: u32 = 1 << 9;
    pub const WHAT: u32 = 1 << 10;
    pub const SHOW: u32 = 1 << 11;
    pub const REQUEST: u32 = 1 << 12;
    pub const WHETHER: u32 = 1 << 13;
    pub const SHOULD: u32 = 1 << 14;
    pub const MUST: u32 = 1 << 15;
    /// What happens if, what are the consequences of.
    pub const HAPPENS: u32 = 1 << 16;
    pub const OFTEN: u32 = 1 << 17;
    /// A question mark and no word that asks.
    pub const FRAGMENT: u32 = 1 << 18;
    /// No question mark, no word that asks, and a subject in front.
    pub const STATEMENT: u32 = 1 << 19;
    /// Which team did they beat, not which team beat them.
    pub const INVERTED: u32 = 1 << 20;
    /// Why, when, how long, for how much, how many, who, where, what if, how often: one cannot be exchanged for another.
    pub const CORE: u32 = WHY | WHEN | DURATION | PRICE | COUNT | WHO | WHERE | HAPPENS | OFTEN;
    /// How, may I, should I, must I: neither can these.
    pub const MODAL: u32 = HOW | CAN | SHOULD | MUST;
    pub const SHARP: u32 = CORE | MODAL;
}

pub struct Lexicon {
    entries: HashMap<u32, Entry>,
    groups: Vec<u16>,
    /// Phrases by the hash of their first word: the other words' hashes, and the hash of the whole.
    phrases: HashMap<u32, Vec<(Vec<u32>, u32)>>,
    frames: HashMap<u32, Vec<(Vec<u32>, u32)>>,
    /// Sides that words and groups take in pairs of opposites: (pair, side).
    sides: HashMap<u32, Vec<(u16, u8)>>,
    korean: std::collections::HashSet<String>,
    /// Modifiers as they are written: "paid" is one, "pays" is not.
    modifiers: std::collections::HashSet<u32>,
    /// Pairs of opposites up to here are by hand, the others WordNet's.
    pairs_by_hand: u16,
}

pub fn short_hash(text: &str) -> u32 {
    hash(text.as_bytes()) as u32
}

fn group_hash(group: u16) -> u32 {
    hash(&group.to_le_bytes()) as u32
}

pub fn lexicon() -> &'static Lexicon {
    static LEXICON: OnceLock<Lexicon> = OnceLock::new();
    LEXICON.get_or_init(Lexicon::read)
}

/// The stem under which a word of a file, or of a text, is kept.
pub fn stem_of(word: &str) -> String {
    english::stem(word)
}

pub fn is_past(word: &str) -> bool {
    english::is_irregular_past(word)
}

impl Lexicon {
    fn read() -> Lexicon {
        let mut lexicon = Lexicon {
            entries: HashMap::new(),
            groups: Vec::new(),
            phrases: HashMap::new(),
            frames: HashMap::new(),
            sides: HashMap::new(),
            korean: std::collections::HashSet::new(),
            modifiers: std::collections::HashSet::new(),
            pairs_by_hand: 0,
        };
        let (mut group, mut pair) = (0, 0);
        let mut members = Vec::new();
        for (text, is_korean) in [(ENGLISH, false), (KOREAN, true)] {
            lexicon.file(text, is_korean, &mut group, &mut pair, &mut members);
        }
        group = LOOSE;
        lexicon.pairs_by_hand = pair;
        lexicon.file(WORDNET, false, &mut group, &mut pair, &mut members);
        lexicon.settle_groups(members);
        lexicon.spread_sides();
        lexicon
    }

    fn file(&mut self, text: &str, is_korean: bool, group: &mut u16, pair: &mut u16, members: &mut Vec<(u32, u16)>) {
        let mut section = "";
        for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty()) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
                continue;
            }
            match section {
                "same" => {
                    *group += 1;
                    for word in line.split(',') {
                        members.push((self.known(word.trim(), is_korean), *group));
                    }
                }
                "apart" | "kinds" => {
                    *pair += 1;
                    let between = if section == "apart" { '|' } else { ',' };
                    for (side, words) in line.split(between).enumerate() {
                        for word in words.split(',') {
                            let hash = self.known(word.trim(), is_korean);
                            self.sides.entry(hash).or_default().push((*pair, side as u8));
                            if section == "kinds" {
                                self.entries.entry(hash).or_default().flags |= KIND;
                            }
                        }
                    }
                }
                "questions" => {
                    let (name, frames) = line.split_once(':').expect("a line of questions has a colon");
                    let bit = question::NAMES.iter().position(|known| *known == name).expect("a known question") as u32;
                    for frame in frames.split(';') {
                        let words: Vec<u32> = frame
                            .split_whitespace()
                            .map(|word| short_hash(&korean::letters(word).into_iter().collect::<String>()))
                            .collect();
                        if is_korean {
                            self.korean.insert(korean::letters(frame.trim()).into_iter().collect());
                        }
                        let known = self.frames.entry(words[0]).or_default();
                        match known.iter_mut().find(|(rest, _)| *rest == words[1..]) {
                            Some((_, kinds)) => *kinds |= 1 << bit,
                            None => known.push((words[1..].to_vec(), 1 << bit)),
                        }
                    }
                }
                _ => {
                    let flag = match section {
                        "fillers" => FILLER,
                        "particles" => PARTICLE,
                        "light" => LIGHT,
                        "modifiers" => MODIFIER,
                        "relations" => RELATION,
                        "negations" => NEGATION,
                        "words" => 0,
                        other => panic!("unknown section {other}"),
                    };
                    for word in line.split(',') {
                        let hash = self.known(word.trim(), is_korean);
                        if flag == MODIFIER && !is_korean && !word.trim().contains(' ') {
                            self.modifiers.insert(short_hash(word.trim()));
                        } else {
                            self.entries.entry(hash).or_default().flags |= flag;
                        }
                    }
                }
            }
        }
    }

    /// The hash of a word or phrase, which is known from now on.
    fn known(&mut self, phrase: &str, is_korean: bool) -> u32 {
        if is_korean {
            let letters: String = korean::letters(phrase).into_iter().collect();
            let hash = short_hash(&letters);
            self.korean.insert(letters);
            self.entries.entry(hash).or_default();
            return hash;
        }
        let words: Vec<u32> = phrase.split_whitespace().map(|word| short_hash(&stem_of(word))).collect();
        let said = |word: &&u32| self.entries.get(*word).is_none_or(|entry| entry.flags & FILLER == 0);
        let words: Vec<u32> = if words.len() > 1 { words.iter().filter(said).copied().collect() } else { words };
        if words.is_empty() {
            return 0;
        }
        let hash = phrase_hash(&words);
        if words.len() > 1 {
            let known = self.phrases.entry(words[0]).or_default();
            if !known.iter().any(|(_, whole)| *whole == hash) {
                known.push((words[1..].to_vec(), hash));
                known.sort_by_key(|(rest, _)| std::cmp::Reverse(rest.len()));
            }
        }
        self.entries.entry(hash).or_default();
        hash
    }

    /// Lays the groups of each word side by side.
    fn settle_groups(&mut self, mut members: Vec<(u32, u16)>) {
        members.sort_unstable();
        members.dedup();
        for word in members.chunk_by(|one, other| one.0 == other.0) {
            let start = u16::try_from(self.groups.len()).expect("fewer than 65,536 places in groups");
            self.groups.extend(word.iter().map(|member| member.1));
            self.entries.entry(word[0].0).or_default().groups = Groups { start, count: word.len() as u8 };
        }
    }

    /// The numbers of a word's groups, rising.
    pub fn groups(&self, groups: Groups) -> &[u16] {
        &self.groups[usize::from(groups.start)..][..usize::from(groups.count)]
    }

    /// A word in one strict group only lends its side to the group, so that "turn on" is the opposite of "disable" as "enable" is.
    fn spread_sides(&mut self) {
        let lent: Vec<(u32, Vec<(u16, u8)>)> = self
            .sides
            .iter()
            .filter_map(|(hash, sides)| Some((group_hash(only_group(self.groups(self.entries.get(hash)?.groups))?), sides.clone())))
            .collect();
        for (group, sides) in lent {
            self.sides.entry(group).or_default().extend(sides);
        }
        for frames in self.frames.values_mut() {
            frames.sort_by_key(|(rest, _)| std::cmp::Reverse(rest.len()));
        }
    }

    pub fn entry(&self, hash: u32) -> Option<Entry> {
        self.entries.get(&hash).copied()
    }

    pub fn phrases(&self, first: u32) -> &[(Vec<u32>, u32)] {
        self.phrases.get(&first).map_or(&[], Vec::as_slice)
    }

    pub fn frames(&self, first: u32) -> &[(Vec<u32>, u32)] {
        self.frames.get(&first).map_or(&[], Vec::as_slice)
    }

    pub fn is_modifier(&self, written: &str) -> bool {
        self.modifiers.contains(&short_hash(written))
    }

    /// Whether a Korean stem, given in letters, is known.
    pub fn is_korean(&self, word: &str) -> bool {
        self.korean.contains(word)
    }

    /// Whether the word has an opposite, or excludes others of its kind, by hand.
    pub fn has_sides(&self, hash: u32) -> bool {
        self.sides.get(&hash).is_some_and(|sides| sides.iter().any(|side| side.0 <= self.pairs_by_hand))
    }

    /// Whether the two take different sides of one pair.
    pub fn are_apart(&self, a: (u32, Groups), b: (u32, Groups)) -> bool {
        let sides = |(hash, groups): (u32, Groups)| -> &[(u16, u8)] {
            let lent = || only_group(self.groups(groups)).and_then(|group| self.sides.get(&group_hash(group)));
            self.sides.get(&hash).or_else(lent).map_or(&[], Vec::as_slice)
        };
        let ours = sides(a);
        if ours.is_empty() {
            return false;
        }
        let theirs = sides(b);
        // A pair in which one takes both sides (first, second) says nothing.
        ours.iter()
            .any(|&(pair, side)| theirs.iter().any(|&(other, theirs)| other == pair && theirs != side) && !theirs.contains(&(pair, side)))
    }

    /// 0 for the most common English words, `BANDS` for a word that is in no list.
    pub fn band(&self, word: &str) -> u8 {
        let hash = hash(word.as_bytes());
        let (first, step) = (hash & 0xffff_ffff, hash >> 32 | 1);
        let mut rest = COMMON;
        let found = (0..BANDS).find(|_| {
            let (length, bits) = rest.split_first_chunk::<4>().expect("a band starts with its length");
            let (bits, others) = bits.split_at(u32::from_le_bytes(*length) as usize);
            rest = others;
            (0..BLOOM_HASHES).all(|turn| {
                let bit = (first.wrapping_add(turn.wrapping_mul(step)) % (bits.len() as u64 * 8)) as usize;
                bits[bit / 8] >> (bit % 8) & 1 == 1
            })
        });
        found.unwrap_or(BANDS) as u8
    }
}

fn only_group(groups: &[u16]) -> Option<u16> {
    let mut strict = groups.iter().copied().filter(|group| (1..LOOSE).contains(group));
    strict.next().filter(|_| strict.next().is_none())
}

pub fn phrase_hash(words: &[u32]) -> u32 {
    match words {
        [one] => *one,
        _ => words.iter().fold(0x9e37_79b9_u32, |hash, word| (hash ^ word).wrapping_mul(0x0100_0193).rotate_left(13)),
    }
}

/// The Korean stem of a word, as the lexicon knows it.
pub fn korean_stem(word: &str) -> (String, korean::Role) {
    let lexicon = lexicon();
    korean::stem(word, |word| lexicon.is_korean(word))
}
