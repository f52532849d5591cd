//! Numbers, amounts, times and dates in one canonical form: 5k = 5,000, 3pm = 15:00, a year = 12 months, 200만 = 2,000,000.

use super::words::{Kind, Token};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    pub number: f64,
    pub unit: Unit,
    /// May be missing on the other side: "one" is as often a pronoun as a number.
    pub optional: bool,
}

/// What a number counts. Durations are seconds or months.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    None,
    Seconds,
    Months,
    /// Minutes of a day.
    Time,
    /// 1 is January.
    Month,
    /// 1 is Monday.
    Weekday,
    Percent,
    /// A currency: the index of its name in `CURRENCIES`.
    Money(u8),
    /// Any other measure: its index in `MEASURES`.
    Measure(u8),
    /// A Korean counter: its index in `COUNTERS`.
    Count(u8),
}

impl Unit {
    /// Pounds are money or a weight.
    pub fn is(self, other: Unit) -> bool {
        let pounds = |unit: Unit| matches!(unit, Unit::Measure(at) if MEASURES[usize::from(at)][0] == "pound");
        let either = |unit: Unit| unit == Unit::Money(2) || matches!(unit, Unit::Measure(at) if MEASURES[usize::from(at)][0] == "lb");
        self == other || pounds(self) && either(other) || either(self) && pounds(other)
    }
}

const CURRENCIES: &[&[&str]] = &[
    &["$", "dollar", "dollars", "usd", "buck", "bucks", "달러", "불"],
    &["€", "euro", "euros", "eur", "유로"],
    &["£", "gbp", "quid", "sterling", "파운드"],
    &["₩", "krw", "won", "원"],
    &["¥", "jpy", "yen", "엔"],
    &["cny", "rmb", "yuan", "위안"],
    &["₹", "inr", "rupee", "rupees"],
    &["chf", "franc", "francs"],
    &["cad"],
    &["aud"],
    &["sek", "krona", "kronor"],
    &["btc", "bitcoin", "bitcoins"],
    &["pln", "zloty"],
    &["huf", "forint", "forints"],
    &["dkk", "krone", "kroner"],
    &["lira"],
    &["brl", "reais"],
    &["thb", "baht"],
];
const MEASURES: &[&[&str]] = &[
    &["gb", "gigabyte", "gigabytes", "기가", "기가바이트"],
    &["mb", "megabyte", "megabytes", "메가"],
    &["kb", "kilobyte", "kilobytes"],
    &["tb", "terabyte", "terabytes", "테라"],
    &["kg", "kgs", "kilo", "kilos", "kilogram", "kilograms", "킬로그램"],
    &["g", "gram", "grams", "그램"],
    &["mg", "milligram", "milligrams"],
    &["lb", "lbs"],
    &["oz", "ounce", "ounces"],
    &["km", "kilometer", "kilometers", "kilometre", "kilometres", "킬로미터"],
    &["mile", "miles", "mi"],
    &["m", "meter", "meters", "metre", "metres", "미터"],
    &["cm", "centimeter", "centimeters", "centimetre", "centimetres", "센티"],
    &["mm", "millimeter", "millimeters", "millimetre", "millimetres"],
    &["ft", "foot", "feet"],
    &["inch", "inches"],
    &["l", "liter", "liters", "litre", "litres", "리터"],
    &["ml", "milliliter", "milliliters", "millilitre", "millilitres"],
    &["ms", "millisecond", "milliseconds"],
    &["degree", "degrees", "도", "c", "celsius", "centigrade"],
    &["f", "fahrenheit"],
    &["mbps"],
    &["gbps"],
    &["kwh"],
    &["px", "pixel", "pixels"],
    &["x", "times", "배"],
    &["cent", "cents", "센트"],
    &["pound", "pounds"],
];
const COUNTERS: &[&[&str]] = &[
    &["명", "인"],
    &["개"],
    &["건"],
    &["장", "매"],
    &["번", "회", "차례"],
    &["권"],
    &["대"],
    &["살", "세"],
    &["등급"],
    &["위"],
    &["인분"],
    &["박"],
    &["층"],
    &["호"],
    &["평"],
    &["점"],
    &["단계"],
    &["분기"],
    &["일차"],
    &["잔"],
    &["병"],
    &["곳", "군데"],
    &["가지", "종류"],
    &["박스", "상자"],
    &["행"],
    &["줄"],
    &["자리"],
    &["년차"],
    &["학년"],
    &["시리즈"],
];
const SECONDS: &[(&str, f64)] = &[
    ("s", 1.0),
    ("sec", 1.0),
    ("secs", 1.0),
    ("second", 1.0),
    ("seconds", 1.0),
    ("min", 60.0),
    ("mins", 60.0),
    ("minute", 60.0),
    ("minutes", 60.0),
    ("h", 3600.0),
    ("hr", 3600.0),
    ("hrs", 3600.0),
    ("hour", 3600.0),
    ("hours", 3600.0),
    ("d", 86_400.0),
    ("day", 86_400.0),
    ("days", 86_400.0),
    ("week", 604_800.0),
    ("weeks", 604_800.0),
    ("wk", 604_800.0),
    ("wks", 604_800.0),
    ("초", 1.0),
    ("시간", 3600.0),
    ("일간", 86_400.0),
    ("일", 86_400.0),
    ("주일", 604_800.0),
    ("주간", 604_800.0),
    ("주", 604_800.0),
];
const MONTHS_LONG: &[(&str, f64)] = &[
    ("mo", 1.0),
    ("mos", 1.0),
    ("month", 1.0),
    ("months", 1.0),
    ("y", 12.0),
    ("yr", 12.0),
    ("yrs", 12.0),
    ("year", 12.0),
    ("years", 12.0),
    ("개월", 1.0),
    ("달", 1.0),
    ("년간", 12.0),
    ("년", 12.0),
];
const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const WEEKDAYS_KO: [&str; 7] = ["월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"];
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
const NATIVE: [(&str, f64); 14] = [
    ("한", 1.0),
    ("두", 2.0),
    ("세", 3.0),
    ("석", 3.0),
    ("네", 4.0),
    ("넉", 4.0),
    ("다섯", 5.0),
    ("여섯", 6.0),
    ("일곱", 7.0),
    ("여덟", 8.0),
    ("아홉", 9.0),
    ("열두", 12.0),
    ("열한", 11.0),
    ("열", 10.0),
];
const DAYS_KO: [(&str, f64); 7] =
    [("하루", 1.0), ("이틀", 2.0), ("사흘", 3.0), ("나흘", 4.0), ("열흘", 10.0), ("보름", 15.0), ("일주일", 7.0)];

/// Whether letters right behind digits make a quantity, as "k", "pm" or "gb" do.
pub fn is_suffix(text: &str) -> bool {
    matches!(text, "" | "k" | "b" | "bn" | "mn" | "tn" | "st" | "nd" | "rd" | "th" | "am" | "pm" | "a.m" | "p.m" | "%" | "pct" | "+" | "s")
        || unit_of(text, true).is_some()
}

fn find(lists: &[&[&str]], word: &str) -> Option<u8> {
    lists.iter().position(|names| names.contains(&word)).map(|at| at as u8)
}

/// The unit and how many of its canonical form it is; short forms only where they are `joined` to the number.
fn unit_of(word: &str, joined: bool) -> Option<(Unit, f64)> {
    if word.is_ascii() && word.len() == 1 && !joined && !matches!(word, "c" | "f") {
        return None;
    }
    if let Some(&(_, factor)) = SECONDS.iter().find(|(name, _)| *name == word) {
        return Some((Unit::Seconds, factor));
    }
    if let Some(&(_, factor)) = MONTHS_LONG.iter().find(|(name, _)| *name == word) {
        return Some((Unit::Months, factor));
    }
    if matches!(word, "%" | "percent" | "pct" | "퍼센트" | "프로") {
        return Some((Unit::Percent, 1.0));
    }
    if matches!(word, "cent" | "cents" | "센트") {
        return Some((Unit::Money(0), 0.01));
    }
    find(CURRENCIES, word).map(|at| (Unit::Money(at), 1.0)).or_else(|| find(MEASURES, word).map(|at| (Unit::Measure(at), 1.0)))
}

/// The longest unit that a Hangul text starts with, and its length in bytes.
fn unit_ahead(text: &str) -> Option<(Unit, f64, usize)> {
    let mut best: Option<(Unit, f64, usize)> = None;
    let mut offer = |name: &str, unit: Unit, factor: f64| {
        if text.starts_with(name) && best.is_none_or(|(_, _, length)| name.len() > length) {
            best = Some((unit, factor, name.len()));
        }
    };
    SECONDS.iter().for_each(|(name, factor)| offer(name, Unit::Seconds, *factor));
    MONTHS_LONG.iter().for_each(|(name, factor)| offer(name, Unit::Months, *factor));
    for name in ["퍼센트", "프로"] {
        offer(name, Unit::Percent, 1.0);
    }
    type Named = (&'static [&'static [&'static str]], fn(u8) -> Unit);
    let named: [Named; 3] = [(CURRENCIES, Unit::Money), (MEASURES, Unit::Measure), (COUNTERS, Unit::Count)];
    for (lists, unit) in named {
        lists.iter().enumerate().for_each(|(at, names)| names.iter().for_each(|name| offer(name, unit(at as u8), 1.0)));
    }
    offer("분", Unit::Seconds, 60.0);
    offer("월", Unit::Month, 1.0);
    offer("시", Unit::Time, 60.0);
    best
}

fn month(word: &str) -> Option<(usize, bool)> {
    let full = MONTHS.iter().position(|name| *name == word);
    let short = || MONTHS.iter().position(|name| word.len() >= 3 && word.len() <= 4 && name.starts_with(word));
    full.map(|at| (at + 1, at != 2 && at != 4)).or_else(|| short().map(|at| (at + 1, false)))
}

fn weekday(word: &str) -> Option<(usize, bool)> {
    let single = word.strip_suffix('s').unwrap_or(word);
    let full = WEEKDAYS.iter().position(|name| *name == single || *name == word);
    let short = || WEEKDAYS.iter().position(|name| word.len() >= 3 && word.len() <= 5 && name.starts_with(word));
    full.map(|at| (at + 1, true))
        .or_else(|| short().map(|at| (at + 1, matches!(word, "tue" | "tues" | "wed" | "thu" | "thur" | "thurs" | "fri"))))
}

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
        // Multipliers: 5k, 5 million; after a currency m is million, elsewhere it may be metres.
        while let Some(token) = tokens.get(next) {
            let factor = match token.text.as_str() {
                "k" if token.joined => 1e3,
                "m" if token.joined && currency.is_some() => 1e6,
                "mn" | "million" | "mil" => 1e6,
                "b" if token.joined => 1e9,
                "bn" | "billion" => 1e9,
                "tn" | "trillion" => 1e12,
                "thousand" | "grand" => 1e3,
                "hundred" => 1e2,
                "dozen" => 12.0,
                _ => break,
            };
            number *= factor;
            next += 1;
        }
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
            } else if ORDINALS.contains(&before_word(tokens, next)) {
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

    /// Names of months and weekdays, noon and midnight.
    fn calendar(&mut self, tokens: &[Token], at: usize) -> Option<usize> {
        let token = &tokens[at];
        let stem = token.text.strip_suffix("'s").unwrap_or(&token.text);
        if token.kind == Kind::Hangul {
            let day = WEEKDAYS_KO.iter().position(|name| stem.starts_with(name))?;
            self.push(at..at + 1, (day + 1) as f64, Unit::Weekday, false);
            return Some(at + 1);
        }
        if token.kind != Kind::Word {
            return None;
        }
        let word = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text.as_str());
        if matches!(stem, "once" | "twice" | "thrice") {
            let times =
                [("once", 1.0), ("twice", 2.0), ("thrice", 3.0)].iter().find(|(name, _)| *name == stem).map_or(0.0, |found| found.1);
            let unit = unit_of("times", false).map_or(Unit::None, |found| found.0);
            self.push(at..at + 1, times, unit, stem == "once");
            return Some(at + 1);
        }
        if stem == "half" {
            let ahead = 1 + usize::from(matches!(word(1), "a" | "an"));
            if let Some((unit @ (Unit::Seconds | Unit::Months), factor)) = unit_of(word(ahead), false) {
                self.push(at..at + ahead + 1, factor / 2.0, unit, false);
                return Some(at + ahead + 1);
            }
        }
        if matches!(stem, "noon" | "midday" | "midnight") {
            self.push(at..at + 1, if stem == "midnight" { 0.0 } else { 720.0 }, Unit::Time, false);
            return Some(at + 1);
        }
        let digits = |at: Option<usize>| at.and_then(|at| tokens.get(at)).is_some_and(|token| token.kind == Kind::Number);
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text.as_str());
        let calendar_before = matches!(
            before,
            "in" | "of"
                | "by"
                | "since"
                | "until"
                | "till"
                | "last"
                | "next"
                | "this"
                | "during"
                | "every"
                | "early"
                | "late"
                | "mid"
                | "for"
                | "from"
                | "and"
                | "to"
                | "through"
                | "on"
        );
        let named = token.capital && !token.opens
            || digits(Some(at + 1))
            || digits(at.checked_sub(1))
            || calendar_before && stem != "mar" && stem != "sun" && stem != "sat";
        let (number, unit) = match (month(stem), weekday(stem)) {
            (Some((number, sure)), _) if sure || named => (number, Unit::Month),
            (_, Some((number, sure))) if sure || named => (number, Unit::Weekday),
            _ => return None,
        };
        self.push(at..at + 1, number as f64, unit, false);
        Some(at + 1)
    }

    /// The first hour of "6 to 8 pm": in the same half of the day.
    fn begin_of_range(&mut self, tokens: &[Token], first: usize, afternoon: Option<bool>) {
        let (Some(afternoon), Some(before)) = (afternoon, first.checked_sub(1)) else { return };
        let joined = matches!(tokens[before].text.as_str(), "and" | "to" | "until" | "till" | "or" | "through");
        let at = if joined { before.checked_sub(1) } else { tokens[first].joined.then_some(before) };
        let value = at.filter(|&at| self.part_of[at] != FREE).and_then(|at| self.values.get_mut(usize::from(self.part_of[at])));
        if let Some(value) = value.filter(|value| value.unit == Unit::None && (0.0..=12.0).contains(&value.number)) {
            value.number = value.number % 12.0 * 60.0 + if afternoon { 720.0 } else { 0.0 };
            value.unit = Unit::Time;
        }
    }

    /// 2024-03-05 is three values: a number, a month, a number.
    fn iso_date(&mut self, tokens: &[Token], at: usize) -> Option<usize> {
        let [year, month, day] = tokens.get(at..at + 3)? else { return None };
        let is_date = year.text.len() == 4
            && [month, day].iter().all(|part| part.kind == Kind::Number && part.joined && part.text.len() == 2)
            && year.text.bytes().all(|byte| byte.is_ascii_digit());
        let month = month.text.parse::<f64>().ok().filter(|month| is_date && (1.0..=12.0).contains(month))?;
        self.push(at..at + 1, year.text.parse().ok()?, Unit::None, false);
        self.push(at + 1..at + 2, month, Unit::Month, false);
        self.push(at + 2..at + 3, day.text.parse().ok()?, Unit::None, false);
        Some(at + 3)
    }

    /// Numbers written in Hangul: 이백만 원, 세 시, 두 명, 하루.
    fn korean_words(&mut self, tokens: &mut [Token], at: usize) -> Option<usize> {
        let text = tokens[at].text.clone();
        if let Some(&(name, days)) = DAYS_KO.iter().find(|(name, _)| text.starts_with(name)) {
            self.push(at..at + 1, days * 86_400.0, Unit::Seconds, false);
            tokens[at].text = text[name.len()..].to_owned();
            return Some(at + 1);
        }
        let ahead = |rest: &str| {
            if rest.is_empty() {
                tokens.get(at + 1).filter(|next| next.kind == Kind::Hangul).map(|next| next.text.clone())
            } else {
                Some(rest.to_owned())
            }
        };
        let native = NATIVE.iter().find_map(|&(name, number)| {
            let rest = text.strip_prefix(name)?;
            let following = ahead(rest)?;
            let (unit, factor, length) =
                unit_ahead(&following).filter(|(unit, _, _)| matches!(unit, Unit::Count(_) | Unit::Time | Unit::Seconds | Unit::Months))?;
            // A word that merely begins so, as 세금 or 네이버: what follows the unit must be a particle or nothing.
            super::korean::is_particle(&following[length..]).then_some((
                number,
                unit,
                factor,
                rest.is_empty(),
                following[length..].to_owned(),
            ))
        });
        let (mut number, unit, factor, spaced, rest) = match native {
            Some(found) => found,
            None => {
                let (number, length) = sino(&text)?;
                let following = ahead(&text[length..])?;
                let (unit, factor, used) = unit_ahead(&following)?;
                super::korean::is_particle(&following[used..]).then_some(())?;
                (number, unit, factor, length == text.len(), following[used..].to_owned())
            }
        };
        let optional = number == 1.0 && matches!(unit, Unit::Count(_));
        number *= factor;
        let (mut first, mut next) = (at, at + 1 + usize::from(spaced));
        tokens[next - 1].text = rest;
        if unit == Unit::Time {
            self.time_ko(tokens, &mut first, &mut next, &mut number);
        }
        self.push(first..next, number, unit, optional);
        Some(next)
    }

    /// 오전, 오후, 반 and minutes around an hour.
    fn time_ko(&mut self, tokens: &[Token], first: &mut usize, next: &mut usize, minutes: &mut f64) {
        let before = first.checked_sub(1).map_or("", |before| tokens[before].text.as_str());
        if matches!(before, "오전" | "오후" | "저녁" | "밤" | "새벽" | "아침") {
            *first -= 1;
            let afternoon = matches!(before, "오후" | "저녁" | "밤");
            *minutes = *minutes % 720.0 + if afternoon { 720.0 } else { 0.0 };
        }
        if tokens.get(*next).is_some_and(|token| token.text.starts_with('반')) {
            *minutes += 30.0;
            *next += 1;
        } else if let (Some(number), Some(unit)) = (tokens.get(*next), tokens.get(*next + 1))
            && number.kind == Kind::Number
            && unit.text.starts_with('분')
        {
            *minutes += number.text.parse().unwrap_or(0.0);
            *next += 2;
        }
    }
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

fn near_month(tokens: &[Token], at: usize) -> bool {
    let is_month =
        |at: Option<usize>| at.and_then(|at| tokens.get(at)).is_some_and(|token| month(token.text.trim_end_matches("'s")).is_some());
    is_month(at.checked_sub(1)) || is_month(Some(at + 2)) || is_month(Some(at + 3))
}

fn below(text: &str, limit: u32) -> bool {
    text.parse::<u32>().is_ok_and(|number| number < limit)
}

/// US dollars, Japanese yen, Swiss francs.
fn national(country: &str, money: &str) -> Option<u8> {
    let code = match (country, money.trim_end_matches('s')) {
        ("us" | "american", "dollar") => "usd",
        ("canadian", "dollar") => "cad",
        ("australian", "dollar") => "aud",
        ("british", "pound") => "gbp",
        ("japanese", "yen") => "jpy",
        ("korean", "won") => "krw",
        ("chinese", "yuan") => "cny",
        ("swiss", "franc") => "chf",
        ("indian", "rupee") => "inr",
        _ => return None,
    };
    find(CURRENCIES, code)
}

fn before_word(tokens: &[Token], at: usize) -> &str {
    at.checked_sub(1).map_or("", |before| tokens[before].text.as_str())
}

/// 250.000 euros are as many as 250,000 are: a point in front of exactly three digits of an amount of money.
fn thousands(text: &str, number: f64, unit: Unit) -> f64 {
    let points = matches!(unit, Unit::Money(_)) && text.split_once('.').is_some_and(|(_, rest)| rest.len() == 3 && !text.contains(','));
    if points { number * 1e3 } else { number }
}

/// The hour that a clock shows: 3pm, 3 p.m., 15:00, 3 o'clock, 3 in the afternoon; where it ends, and whether it is said to be in the
/// afternoon. `number` becomes minutes.
fn clock(tokens: &[Token], at: usize, next: usize, number: &mut f64) -> Option<(usize, Option<bool>)> {
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let colon = tokens[at].text.contains(':');
    if colon && !tokens[at].text.split_once(':').is_some_and(|(hours, minutes)| below(hours, 25) && below(minutes, 60)) {
        return None;
    }
    let half_past = at > 1 && word(at - 1) == "past" && word(at - 2) == "half";
    let minutes = if colon { *number } else { *number * 60.0 + if half_past { 30.0 } else { 0.0 } };
    let said = |at: usize| match (word(at), word(at + 1), word(at + 2)) {
        ("am", _, _) => Some((false, at + 1)),
        ("pm", _, _) => Some((true, at + 1)),
        ("a", "m", _) if tokens[at + 1].joined => Some((false, at + 2)),
        ("p", "m", _) if tokens[at + 1].joined => Some((true, at + 2)),
        ("in", "the", "morning") => Some((false, at + 3)),
        ("in", "the", "afternoon" | "evening") => Some((true, at + 3)),
        ("at", "night", _) => Some((true, at + 2)),
        _ => None,
    };
    let oclock = word(next) == "o'clock";
    let end = next + usize::from(oclock);
    let is_hour = *number <= 12.0 && number.fract() == 0.0 || colon;
    let (afternoon, end) = match said(end).filter(|_| is_hour) {
        Some((afternoon, end)) => (Some(afternoon), end),
        None if colon || oclock || half_past => (None, end),
        None => return None,
    };
    *number = afternoon.map_or(minutes, |afternoon| minutes % 720.0 + if afternoon { 720.0 } else { 0.0 });
    Some((end, afternoon))
}

/// Goes on behind digits: 50 + 만 원, 1 + 억 2천만 원, 3 + 시간.
fn korean_number(tokens: &mut [Token], at: usize, first: f64) -> (Value, usize) {
    let (mut total, mut part, mut at) = (0.0, first, at);
    while let Some(token) = tokens.get(at).filter(|token| token.kind == Kind::Hangul) {
        let text = token.text.clone();
        let mut used = 0;
        let mut factor = 1.0;
        for c in text.chars() {
            let found = match c {
                '십' => 1e1,
                '백' => 1e2,
                '천' => 1e3,
                '만' => 1e4,
                '억' => 1e8,
                '조' => 1e12,
                _ => break,
            };
            factor *= found;
            used += c.len_utf8();
        }
        let rest = &text[used..];
        if used > 0 && factor >= 1e4 {
            (total, part) = (total + part * factor, 0.0);
        } else {
            part *= factor;
        }
        // 1억 5천만: more digits follow a multiplier.
        if used > 0
            && rest.is_empty()
            && tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Number)
            && tokens.get(at + 2).is_some_and(|next| next.kind == Kind::Hangul)
            && factor >= 1e4
        {
            part = digits(&tokens[at + 1].text);
            tokens[at].text.clear();
            at += 2;
            continue;
        }
        let spaced = used > 0 && rest.is_empty();
        let ahead = if spaced {
            tokens.get(at + 1).filter(|next| next.kind == Kind::Hangul).map(|next| next.text.clone())
        } else {
            Some(rest.to_owned())
        };
        if let Some((unit, scale, length)) = ahead.as_deref().and_then(unit_ahead) {
            if spaced {
                tokens[at].text.clear();
            }
            let at = at + usize::from(spaced);
            tokens[at].text = ahead.unwrap_or_default()[length..].to_owned();
            let years = unit == Unit::Months && scale == 12.0 && (1900.0..2200.0).contains(&(total + part));
            let (unit, scale) = if years { (Unit::None, 1.0) } else { (unit, scale) };
            return (Value { number: (total + part) * scale, unit, optional: false }, at + 1);
        }
        if used > 0 {
            tokens[at].text = rest.to_owned();
            at += 1;
        }
        break;
    }
    (Value { number: total + part, unit: Unit::None, optional: false }, at)
}

/// Sino-Korean numerals with at least one multiplier, and their length in bytes.
fn sino(text: &str) -> Option<(f64, usize)> {
    let (mut total, mut part, mut digit, mut used, mut factors) = (0.0, 0.0, 0.0, 0, 0);
    for c in text.chars() {
        if let Some(found) = "영일이삼사오육칠팔구".chars().position(|name| name == c) {
            digit = found as f64;
        } else if let Some(factor) = match c {
            '십' => Some(1e1),
            '백' => Some(1e2),
            '천' => Some(1e3),
            _ => None,
        } {
            part += if digit == 0.0 { 1.0 } else { digit } * factor;
            (digit, factors) = (0.0, factors + 1);
        } else if let Some(factor) = match c {
            '만' => Some(1e4),
            '억' => Some(1e8),
            _ => None,
        } {
            let whole: f64 = part + digit;
            total += if whole == 0.0 { 1.0 } else { whole } * factor;
            (part, digit, factors) = (0.0, 0.0, factors + 1);
        } else {
            break;
        }
        used += c.len_utf8();
    }
    let short = used == text.len() || unit_ahead(&text[used..]).is_some();
    (factors > 0 && short).then_some((total + part + digit, used))
}
