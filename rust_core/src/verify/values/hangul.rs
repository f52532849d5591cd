//! Numbers, hours and days written in Hangul.

use super::units::{Unit, unit_ahead};
use super::{Reader, Value, digits};
use crate::verify::korean::is_particle;
use crate::verify::words::{Kind, Token};

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

impl Reader {
    /// Numbers written in Hangul: 이백만 원, 세 시, 두 명, 하루.
    pub(super) fn korean_words(&mut self, tokens: &mut [Token], at: usize) -> Option<usize> {
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
            is_particle(&following[length..]).then_some((number, unit, factor, rest.is_empty(), following[length..].to_owned()))
        });
        let (mut number, unit, factor, spaced, rest) = match native {
            Some(found) => found,
            None => {
                let (number, length) = sino(&text)?;
                let following = ahead(&text[length..])?;
                let (unit, factor, used) = unit_ahead(&following)?;
                is_particle(&following[used..]).then_some(())?;
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
    pub(super) fn time_ko(&mut self, tokens: &[Token], first: &mut usize, next: &mut usize, minutes: &mut f64) {
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

/// Goes on behind digits: 50 + 만 원, 1 + 억 2천만 원, 3 + 시간.
pub(super) fn korean_number(tokens: &mut [Token], at: usize, first: f64) -> (Value, usize) {
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
pub(super) fn sino(text: &str) -> Option<(f64, usize)> {
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
