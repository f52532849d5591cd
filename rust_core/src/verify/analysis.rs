//! What is kept of a prompt: its words as terms in order, its values, what must be equal to the letter, and what it asks for.

mod builder;
mod frames;
mod items;
mod roles;
mod voices;

use builder::Builder;

use super::lexicon::{self, lexicon};
use super::symbols::symbols;
use super::values::{self, Value};
use super::words;
use super::{fold, hash};

/// Texts longer than this, folded, or with more terms, are only ever equal if they are identical: time stays linear, entries small.
pub const MOST_BYTES: usize = 480;
pub const MOST_TERMS: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Of the stem.
    pub hash: u32,
    pub groups: lexicon::Groups,
    /// Where its letters begin in `letters`, and how many bytes they are.
    pub at: u16,
    pub length: u8,
    pub flags: u8,
    pub marks: u32,
    /// How much it says: 4 for the most common words, up to 10.
    pub weight: u8,
}

/// Marks of a term, beside the flags that its entry in the lexicon has.
pub const NAME: u32 = 1;
/// In a list of known words, or in the lexicon: not a slip of the pen by itself.
pub const KNOWN: u32 = 2;
pub const VALUE: u32 = 4;
pub const HANGUL: u32 = 8;
pub const FROM: u32 = 16;
pub const TO: u32 = 32;
pub const SUBJECT: u32 = 64;
pub const EXACT: u32 = 128;
/// The first word behind a negation.
pub const NEGATED: u32 = 256;
/// Of a verb: I or we do it, you do, somebody else does; it is done to me or us, to you, to somebody else.
pub const FIRST_DOES: u32 = 512;
pub const YOU_DO: u32 = 1024;
pub const THIRD_DOES: u32 = 2048;
pub const TO_FIRST: u32 = 4096;
pub const TO_YOU: u32 = 8192;
pub const TO_THIRD: u32 = 16384;
pub const ACTORS: u32 = FIRST_DOES | YOU_DO | THIRD_DOES;
pub const TARGETS: u32 = TO_FIRST | TO_YOU | TO_THIRD;
/// 를: to which something is done.
pub const OBJECT: u32 = 1 << 15;
/// Mine or ours, yours, somebody else's; and who owns what follows: Lee's.
pub const MINE: u32 = 1 << 16;
pub const YOURS: u32 = 1 << 17;
pub const THEIRS: u32 = 1 << 18;
pub const OWNED: u32 = MINE | YOURS | THEIRS;
pub const OWNER: u32 = 1 << 19;
/// A word or bare number behind "for": a table for six are not six tables.
pub const FOR: u32 = 1 << 20;
/// Who does it, and to whom it is done, as a clause says.
pub const AGENT: u32 = 1 << 21;
pub const PATIENT: u32 = 1 << 22;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Script {
    None,
    Latin,
    Hangul,
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// Of the folded text without case and closing punctuation.
    pub identity: u64,
    /// Of its letters, digits and odd symbols alone, so that spacing and punctuation do not count; of `symbols` too.
    pub letters_only: u64,
    pub bytes: u32,
    pub script: Script,
    /// Too long to be anything but identical.
    pub long: bool,
    pub questions: u32,
    /// Whose: a bit for I, we, you, he, she, they.
    pub persons: u8,
    pub negations: u8,
    /// Past tense or passive forms.
    pub pasts: u8,
    pub terms: Box<[Term]>,
    pub values: Box<[Value]>,
    /// Hashes of codes, addresses and symbols, sorted.
    pub exact: Box<[u32]>,
    /// How often `&`, `+` and `%` stand alone.
    pub spelled: [u8; 3],
    /// Hashes of quoted texts, sorted.
    pub quotes: Box<[u32]>,
    /// The stems of the terms, one after the other.
    pub letters: Box<str>,
}

impl Analysis {
    pub fn stem(&self, term: &Term) -> &str {
        self.letters.get(term.at as usize..term.at as usize + term.length as usize).unwrap_or("")
    }
}

pub fn analyse(text: &str) -> Analysis {
    let folded = fold(text);
    let lower = folded.to_lowercase();
    let plain = lower.trim_matches(|c: char| matches!(c, '.' | '!' | '?' | ' '));
    let identity = hash(plain.as_bytes());
    let symbols = symbols(&folded);
    let runs = symbols.runs.join(" ");
    let mut letters_only = letters_only(&lower);
    letters_only.push_str(&runs);
    let letters_only = hash(letters_only.as_bytes());
    let mut builder = Builder::new(lexicon());
    let long = folded.len() > MOST_BYTES;
    if !long {
        builder.read(&folded);
    }
    let long = long || builder.terms.len() > MOST_TERMS || builder.values.len() > values::MOST_VALUES;
    if long {
        builder = Builder::new(lexicon());
    }
    if !long && !runs.is_empty() {
        builder.exact.push(lexicon::short_hash(&format!("symbols {runs}")));
    }
    builder.exact.sort_unstable();
    builder.exact.dedup();
    builder.quotes.sort_unstable();
    builder.quotes.dedup();
    Analysis {
        identity,
        letters_only,
        bytes: folded.len() as u32,
        script: script(&folded),
        long,
        questions: builder.questions,
        persons: builder.persons,
        negations: builder.negations,
        pasts: builder.pasts,
        terms: builder.terms.into(),
        values: builder.values.into(),
        exact: builder.exact.into(),
        spelled: symbols.spelled,
        quotes: builder.quotes.into(),
        letters: builder.letters.into(),
    }
}

/// Letters, digits and symbols that mean something; points and commas only between digits.
fn letters_only(lower: &str) -> String {
    let mut found = String::with_capacity(lower.len());
    let mut before = ' ';
    let mut chars = lower.chars().peekable();
    while let Some(c) = chars.next() {
        let after = chars.peek().copied().unwrap_or(' ');
        let between_digits = before.is_ascii_digit() && after.is_ascii_digit();
        let kept = match c {
            ' ' => between_digits,
            '.' | ',' | ':' | '-' | '\'' => between_digits || c == '-' && before == ' ' && after.is_ascii_digit(),
            '!' | '?' | ';' | '(' | ')' | '[' | ']' | '"' | '`' | '~' | '*' | '·' | '•' => false,
            _ => true,
        };
        if kept {
            found.push(c);
        }
        before = c;
    }
    found
}

fn script(folded: &str) -> Script {
    let (mut latin, mut hangul, mut other) = (0, 0, 0);
    for c in folded.chars() {
        if c.is_ascii_alphabetic() {
            latin += 1;
        } else if words::is_hangul(c) {
            hangul += 3; // a syllable says as much as three letters
        } else if c.is_alphabetic() {
            other += 2;
        }
    }
    match latin.max(hangul).max(other) {
        0 => Script::None,
        most if most == other => Script::Other,
        // Korean texts name products and codes in Latin letters: a few words of Hangul make a text Korean.
        _ if hangul * 3 >= latin => Script::Hangul,
        _ => Script::Latin,
    }
}
