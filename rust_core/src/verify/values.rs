//! Numbers, amounts, times and dates in one canonical form: 5k = 5,000, 3pm = 15:00, a year = 12 months, 200만 = 2,000,000.

mod calendar;
mod hangul;
mod units;

use calendar::{clock, near_month};
use hangul::korean_number;
use units::{CURRENCIES, find, national, unit_of};
pub use units::{Unit, is_suffix};

use super::words::{Kind, Token};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    pub number: f64,
    pub unit: Unit,
    /// May be missing on the other side: "one" is as often a pronoun as a number.
    pub optional: bool,
}

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
/// "First" stays a word: "earliest" may stand for it.
const ORDINALS: [&str; 13] =
    ["", "", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"];

pub struct Read {
    pub values: Vec<Value>,
    /// For each token: which value it is part of, or `FREE`.
    pub part_of: Vec<u8>,
}

pub const FREE: u8 = u8::MAX;
/// More values than this are a table: such a text is compared by identity.
pub const MOST_VALUES: usize = 24;

/// Takes the values out of the tokens. Hangul behind a number loses its unit and keeps its particle.
pub fn read(tokens: &mut [Token]) -> Read {
    let mut reader = Reader { part_of: vec![FREE; tokens.len()], values: Vec::new() };
    let mut at = 0;
    while at < tokens.len() && reader.values.len() < usize::from(FREE) {
        at = reader.step(tokens, at);
    }
    Read { values: reader.values, part_of: reader.part_of }
}

struct Reader {
    part_of: Vec<u8>,
    values: Vec<Value>,
}

impl Reader {
    /// Reads what begins at a token; returns where to go on.
    fn step(&mut self, tokens: &mut [Token], at: usize) -> usize {
        if tokens[at].kind == Kind::Exact {
            return at + 1;
        }
        if let Some(next) = self.calendar(tokens, at) {
            return next;
        }
        if tokens[at].kind == Kind::Hangul
            && let Some(next) = self.korean_words(tokens, at)
        {
            return next;
        }
        let Some((mut number, mut next, optional)) = number_at(tokens, at) else { return at + 1 };
        if let Some(next) = self.iso_date(tokens, at) {
            return next;
        }
        let before = at.checked_sub(1).map(|before| tokens[before].text.as_str()).unwrap_or("");
        let mut first = at;
        // "won" in front of a number is the verb; other currencies stand in front as signs or as codes of three letters.
        let is_sign = before.len() == 3 && before != "won" || !before.starts_with(char::is_alphabetic);
        let currency = find(CURRENCIES, before).filter(|_| is_sign && tokens[at].kind == Kind::Number && self.part_of[at - 1] == FREE);
        if currency.is_some() {
            first = at - 1;
        }
        if first > 0 && tokens[first - 1].text == "-" && self.part_of[first - 1] == FREE && tokens[first - 1].kind == Kind::Symbol {
            (number, first) = (-number, first - 1);
        }
        (number, next) = multiplied(tokens, next, number, currency.is_some());
        let (mut unit, mut optional) = (currency.map_or(Unit::None, Unit::Money), optional);
        if tokens.get(next).is_some_and(|token| token.kind == Kind::Hangul) {
            let (value, end) = korean_number(tokens, next, number);
            (number, unit, next) = (value.number, if currency.is_some() { unit } else { value.unit }, end);
            // 1회 and 첫 번째, 1개 and none: said or not.
            optional |= number == 1.0 && matches!(unit, Unit::Count(_));
            if unit == Unit::Time {
                self.time_ko(tokens, &mut first, &mut next, &mut number);
            }
        } else if let Some((end, afternoon)) = clock(tokens, at, next, &mut number) {
            (unit, next) = (Unit::Time, end);
            self.begin_of_range(tokens, first, afternoon);
        } else if let (Some(country), Some(money)) = (tokens.get(next), tokens.get(next + 1))
            && let Some(currency) = national(&country.text, &money.text)
        {
            (unit, next) = (Unit::Money(currency), next + 2);
        } else if let Some(token) = tokens.get(next) {
            let word = token.text.as_str();
            let per_cent = word == "per" && tokens.get(next + 1).is_some_and(|token| token.text == "cent");
            if per_cent {
                (unit, next) = (Unit::Percent, next + 2);
            } else if word == "st" && number == 1.0 && !near_month(tokens, at) {
                (tokens[at].kind, tokens[at].text) = (Kind::Word, "first".to_owned());
                tokens[next].text.clear();
                return next + 1;
            } else if matches!(word, "st" | "nd" | "rd" | "th") && token.joined || word == "s" && token.joined && number >= 1000.0 {
                next += 1;
            } else if ORDINALS[2..].contains(&before_word(tokens, next)) {
                // "Second day" is no two days.
            } else if let Some((found, factor)) = unit_of(word, token.joined)
                && (unit == Unit::None || found == unit)
            {
                (number, unit, next) = (thousands(&tokens[at].text, number, found) * factor, found, next + 1);
                optional = false;
            }
        }
        self.share_unit(tokens, first, unit, next);
        self.push(first..next, number, unit, optional);
        next
    }

    /// The first number of "3 to 5 days", "5,000 to 7,500 euros".
    fn share_unit(&mut self, tokens: &[Token], first: usize, unit: Unit, next: usize) {
        let word = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map_or("", |token| token.text.as_str());
        let range = matches!(word(first.checked_sub(1)), "to" | "or");
        let at = if range { first.checked_sub(2) } else { first.checked_sub(1).filter(|_| tokens[first].joined) };
        let factor = unit_of(word(next.checked_sub(1)), true).filter(|found| found.0 == unit).map_or(1.0, |found| found.1);
        let value = at.filter(|&at| self.part_of[at] != FREE).and_then(|at| self.values.get_mut(usize::from(self.part_of[at])));
        if let Some(value) =
            value.filter(|value| value.unit == Unit::None && !matches!(unit, Unit::None | Unit::Time | Unit::Month | Unit::Weekday))
        {
            (value.unit, value.number) = (unit, value.number * factor);
        }
    }

    fn push(&mut self, tokens: std::ops::Range<usize>, number: f64, unit: Unit, optional: bool) {
        let id = self.values.len().min(usize::from(FREE) - 1) as u8;
        self.values.push(Value { number, unit, optional });
        for at in tokens {
            if let Some(part_of) = self.part_of.get_mut(at) {
                *part_of = id;
            }
        }
    }
}

/// A number times what stands behind it: 5k, 5 million. Behind a currency m is million, elsewhere it may be metres.
fn multiplied(tokens: &[Token], mut next: usize, mut number: f64, money: bool) -> (f64, usize) {
    while let Some(token) = tokens.get(next) {
        number *= match token.text.as_str() {
            "k" if token.joined => 1e3,
            "m" if token.joined && money => 1e6,
            "mn" | "million" | "mil" => 1e6,
            "b" if token.joined => 1e9,
            "bn" | "billion" => 1e9,
            "tn" | "trillion" => 1e12,
            "thousand" | "grand" => 1e3,
            "hundred" => 1e2,
            "dozen" => 12.0,
            _ => break,
        };
        next += 1;
    }
    (number, next)
}

/// A number that begins at a token, in digits or English words; the token behind it; whether it may be none at all.
fn number_at(tokens: &[Token], at: usize) -> Option<(f64, usize, bool)> {
    let token = &tokens[at];
    match token.kind {
        Kind::Number => Some((digits(&token.text), at + 1, false)),
        Kind::Word => number_words(tokens, at),
        _ => None,
    }
}

fn digits(text: &str) -> f64 {
    if let Some((hours, minutes)) = text.split_once(':') {
        return hours.parse().unwrap_or(0.0) * 60.0 + minutes.split(':').next().and_then(|minutes| minutes.parse().ok()).unwrap_or(0.0);
    }
    // Commas stand for thousands where three digits follow each of them, else for the decimal point.
    let thousands = text.split(',').skip(1).all(|part| part.split('.').next().is_some_and(|part| part.len() == 3));
    let plain = if thousands { text.replace(',', "") } else { text.replacen(',', ".", 1).replace(',', "") };
    let dots = plain.matches('.').count();
    if dots > 1 { plain.replace('.', "").parse().unwrap_or(0.0) } else { plain.parse().unwrap_or(0.0) }
}

fn number_words(tokens: &[Token], at: usize) -> Option<(f64, usize, bool)> {
    let (mut total, mut part, mut next, mut any) = (0.0, 0.0, at, false);
    while let Some(token) = tokens.get(next).filter(|token| token.kind == Kind::Word) {
        let word = token.text.as_str();
        if let Some(small) = SMALL.iter().position(|name| *name == word) {
            if any && part % 10.0 != 0.0 || any && part == 0.0 && total == 0.0 {
                break; // "two three" are two numbers
            }
            part += small as f64;
        } else if let Some(tens) = TENS.iter().position(|name| *name == word) {
            if any && part % 100.0 != 0.0 {
                break;
            }
            part += (tens as f64 + 2.0) * 10.0;
        } else if word == "hundred" && any {
            part *= 100.0;
        } else if word == "thousand" && any {
            (total, part) = (total + part * 1e3, 0.0);
        } else if word == "and"
            && any
            && part >= 100.0
            && tokens.get(next + 1).is_some_and(|token| SMALL.contains(&token.text.as_str()) || TENS.contains(&token.text.as_str()))
        {
        } else if let Some(ordinal) = ORDINALS.iter().position(|name| *name == word && !name.is_empty()) {
            if any && part % 10.0 != 0.0 || ordinal == 2 && !any && is_unit_second(tokens, next) {
                break;
            }
            return Some((total + part + ordinal as f64, next + 1, false));
        } else if any
            || !matches!(word, "a" | "an")
            || tokens
                .get(next + 1)
                .is_none_or(|token| !matches!(token.text.as_str(), "hundred" | "thousand" | "million" | "billion" | "dozen"))
        {
            break;
        } else {
            part = 1.0; // "a hundred"
        }
        any = true;
        next += 1;
    }
    any.then_some((total + part, next, total + part == 1.0 && next == at + 1))
}

fn is_unit_second(tokens: &[Token], at: usize) -> bool {
    at > 0 && matches!(tokens[at - 1].text.as_str(), "per" | "a" | "every" | "each" | "one" | "half" | "single")
}

fn before_word(tokens: &[Token], at: usize) -> &str {
    at.checked_sub(1).map_or("", |before| tokens[before].text.as_str())
}

/// 250.000 euros are as many as 250,000 are: a point in front of exactly three digits of an amount of money.
fn thousands(text: &str, number: f64, unit: Unit) -> f64 {
    let points = matches!(unit, Unit::Money(_)) && text.split_once('.').is_some_and(|(_, rest)| rest.len() == 3 && !text.contains(','));
    if points { number * 1e3 } else { number }
}
