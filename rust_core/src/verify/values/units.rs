//! What numbers count: money, durations, measures, counters, and the names of months and weekdays.

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

pub(super) const CURRENCIES: &[&[&str]] = &[
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

pub(super) const MEASURES: &[&[&str]] = &[
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

pub(super) const COUNTERS: &[&[&str]] = &[
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

pub(super) const SECONDS: &[(&str, f64)] = &[
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

pub(super) const MONTHS_LONG: &[(&str, f64)] = &[
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

pub(super) const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];

pub(super) const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

pub(super) const WEEKDAYS_KO: [&str; 7] = ["월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"];

/// Whether letters right behind digits make a quantity, as "k", "pm" or "gb" do.
pub fn is_suffix(text: &str) -> bool {
    matches!(text, "" | "k" | "b" | "bn" | "mn" | "tn" | "st" | "nd" | "rd" | "th" | "am" | "pm" | "a.m" | "p.m" | "%" | "pct" | "+" | "s")
        || unit_of(text, true).is_some()
}

pub(super) fn find(lists: &[&[&str]], word: &str) -> Option<u8> {
    lists.iter().position(|names| names.contains(&word)).map(|at| at as u8)
}

/// The unit and how many of its canonical form it is; short forms only where they are `joined` to the number.
pub(super) fn unit_of(word: &str, joined: bool) -> Option<(Unit, f64)> {
    if word.is_ascii() && word.len() == 1 && !joined && !matches!(word, "c" | "f" | "%") {
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
pub(super) fn unit_ahead(text: &str) -> Option<(Unit, f64, usize)> {
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

pub(super) fn month(word: &str) -> Option<(usize, bool)> {
    let full = MONTHS.iter().position(|name| *name == word);
    let short = || MONTHS.iter().position(|name| word.len() >= 3 && word.len() <= 4 && name.starts_with(word));
    full.map(|at| (at + 1, at != 2 && at != 4)).or_else(|| short().map(|at| (at + 1, false)))
}

pub(super) fn weekday(word: &str) -> Option<(usize, bool)> {
    let single = word.strip_suffix('s').unwrap_or(word);
    let full = WEEKDAYS.iter().position(|name| *name == single || *name == word);
    let short = || WEEKDAYS.iter().position(|name| word.len() >= 3 && word.len() <= 5 && name.starts_with(word));
    full.map(|at| (at + 1, true))
        .or_else(|| short().map(|at| (at + 1, matches!(word, "tue" | "tues" | "wed" | "thu" | "thur" | "thurs" | "fri"))))
}

/// US dollars, Japanese yen, Swiss francs.
pub(super) fn national(country: &str, money: &str) -> Option<u8> {
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
