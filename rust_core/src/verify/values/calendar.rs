//! Months, weekdays and hours, as English writes them.

use super::units::{Unit, WEEKDAYS_KO, month, unit_of, weekday};
use super::{FREE, Reader};
use crate::verify::words::{Kind, Token};

impl Reader {
    /// Names of months and weekdays, noon and midnight.
    pub(super) fn calendar(&mut self, tokens: &[Token], at: usize) -> Option<usize> {
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
    pub(super) fn begin_of_range(&mut self, tokens: &[Token], first: usize, afternoon: Option<bool>) {
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
    pub(super) fn iso_date(&mut self, tokens: &[Token], at: usize) -> Option<usize> {
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
}

pub(super) fn near_month(tokens: &[Token], at: usize) -> bool {
    let is_month =
        |at: Option<usize>| at.and_then(|at| tokens.get(at)).is_some_and(|token| month(token.text.trim_end_matches("'s")).is_some());
    is_month(at.checked_sub(1)) || is_month(Some(at + 2)) || is_month(Some(at + 3))
}

pub(super) fn below(text: &str, limit: u32) -> bool {
    text.parse::<u32>().is_ok_and(|number| number < limit)
}

/// The hour that a clock shows: 3pm, 3 p.m., 15:00, 3 o'clock, 3 in the afternoon; where it ends, and whether it is said to be in the
/// afternoon. `number` becomes minutes.
pub(super) fn clock(tokens: &[Token], at: usize, next: usize, number: &mut f64) -> Option<(usize, Option<bool>)> {
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
