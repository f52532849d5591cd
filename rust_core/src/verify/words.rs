//! A folded text as tokens: words, numbers as they are written, Hangul, and everything that has to be equal to the letter.

/// Where a token came from matters where it stands beside a number or begins a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub kind: Kind,
    /// In lower case.
    pub text: String,
    pub capital: bool,
    /// Of two or more letters, all of them capitals.
    pub caps: bool,
    /// First of a sentence: a capital letter says nothing there.
    pub opens: bool,
    /// First of a part of a sentence: behind a comma too.
    pub clause: bool,
    /// No space before it.
    pub joined: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Word,
    Hangul,
    /// Digits with separators.
    Number,
    /// URL, address, identifier, code: equal or different, nothing between.
    Exact,
    /// A character that is no letter, digit or ordinary punctuation.
    Symbol,
}

const ORDINARY: &[char] = &['.', ',', '!', '?', ';', ':', '(', ')', '[', ']', '"', '\'', '-', '·', '•', '~', '*', '`', '_', '¿', '¡', '°'];

pub fn tokens(folded: &str) -> Vec<Token> {
    let mut reader = Reader { found: Vec::new(), opens: true, clause: true, korean: folded.contains(is_hangul) };
    for chunk in folded.split(' ') {
        reader.chunk(chunk);
    }
    reader.found
}

/// The texts between quotation marks, in lower case; a mark without its partner opens nothing.
pub fn quotes(folded: &str) -> Vec<String> {
    let mut found = Vec::new();
    for mark in ['"', '`'] {
        let mut parts = folded.split(mark);
        parts.next();
        while let (Some(inner), Some(_)) = (parts.next(), parts.next()) {
            found.push(inner.trim_matches(|c: char| c == ' ' || ORDINARY.contains(&c)).to_lowercase());
        }
    }
    // Single marks: only where a space or the text's edge is outside and none inside, or apostrophes would be quotation marks.
    let bytes = folded.as_bytes();
    let mut at = 0;
    while let Some(start) = folded[at..].find('\'').map(|found| found + at) {
        at = start + 1;
        let opens = (start == 0 || bytes[start - 1] == b' ' || bytes[start - 1] == b'(') && bytes.get(at).is_some_and(|&next| next != b' ');
        if !opens {
            continue;
        }
        let closing = folded[at..].char_indices().find(|&(offset, c)| {
            c == '\''
                && offset > 0
                && folded[at + offset + 1..].chars().next().is_none_or(|after| !after.is_alphanumeric() || is_hangul(after))
        });
        if let Some((offset, _)) = closing {
            found.push(folded[at..at + offset].trim_matches(|c: char| c == ' ' || ORDINARY.contains(&c)).to_lowercase());
            at += offset + 1;
        }
    }
    found.retain(|inner| !inner.is_empty());
    found
}

pub fn is_hangul(c: char) -> bool {
    matches!(c, '가'..='힣' | 'ㄱ'..='ㆎ')
}

struct Reader {
    found: Vec<Token>,
    opens: bool,
    clause: bool,
    korean: bool,
}

impl Reader {
    fn chunk(&mut self, chunk: &str) {
        let first = self.found.len();
        let core = chunk
            .trim_matches(|c: char| matches!(c, '.' | ',' | '!' | '?' | ';' | ':' | '(' | ')' | '[' | ']' | '"' | '\'' | '`' | '~' | '*'));
        if is_address(core) {
            self.push(Kind::Exact, core, true);
        } else {
            self.pieces(chunk);
        }
        if let Some(token) = self.found.get_mut(first) {
            token.joined = false;
        }
        // "e.g." and "No." end no sentence, but then a capital letter counts for less, and nothing is lost.
        if chunk.ends_with(['.', '!', '?', ':', ';']) {
            self.opens = true;
        }
        self.clause |= self.opens || chunk.ends_with(',') || matches!(chunk, "-" | "/" | "→");
    }

    /// Runs of Hangul and of everything else.
    fn pieces(&mut self, chunk: &str) {
        let mut start = 0;
        while start < chunk.len() {
            let rest = &chunk[start..];
            let hangul = rest.starts_with(is_hangul);
            let end = rest.find(|c| is_hangul(c) != hangul).unwrap_or(rest.len());
            if hangul {
                self.push(Kind::Hangul, &rest[..end], true);
            } else {
                self.other(&rest[..end]);
            }
            start += end;
        }
    }

    fn other(&mut self, piece: &str) {
        let core = piece.trim_matches(|c: char| ORDINARY.contains(&c) && c != '_');
        let core = core.strip_suffix("'s").unwrap_or(core);
        // "#55120" is "no. 55120".
        let core = core.strip_prefix('#').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())).unwrap_or(core);
        if self.korean
            && let Some((month, day)) = month_and_day(core)
        {
            for (kind, text) in [(Kind::Number, month), (Kind::Hangul, "월"), (Kind::Number, day), (Kind::Hangul, "일")] {
                self.push(kind, text, true);
            }
            return;
        }
        if let Some((word, number)) = period(core) {
            for part in word {
                self.push(Kind::Word, part, true);
            }
            return self.push(Kind::Number, number, true);
        }
        if !core.is_empty() && is_code(core) {
            return self.push(Kind::Exact, core, true);
        }
        let mut start = 0;
        while let Some(first) = piece[start..].chars().next() {
            let rest = &piece[start..];
            let end = if first.is_ascii_digit() {
                number_end(rest)
            } else if first.is_alphabetic() {
                word_end(rest)
            } else {
                first.len_utf8()
            };
            let text = &rest[..end];
            if first.is_ascii_digit() {
                self.push(Kind::Number, text, true);
            } else if first.is_alphabetic() {
                self.push(Kind::Word, text, true);
            } else if !ORDINARY.contains(&first) && first != '/' || is_sign(piece, start) {
                self.push(Kind::Symbol, text, true);
            }
            start += end;
        }
    }

    fn push(&mut self, kind: Kind, text: &str, joined: bool) {
        let capital = text.starts_with(char::is_uppercase);
        let caps = text.len() > 1 && text.chars().all(char::is_uppercase);
        let text = text.to_lowercase();
        self.found.push(Token {
            kind,
            text,
            capital,
            caps,
            opens: std::mem::take(&mut self.opens),
            clause: std::mem::take(&mut self.clause),
            joined,
        });
    }
}

/// 3/15 in a Korean text is the 15th of March.
fn month_and_day(core: &str) -> Option<(&str, &str)> {
    let fits = |part: &str, most: u32| part.len() <= 2 && part.parse::<u32>().is_ok_and(|number| (1..=most).contains(&number));
    core.split_once('/').filter(|(month, day)| fits(month, 12) && fits(day, 31))
}

/// Q2, H1, FY2024: a period and its number.
fn period(core: &str) -> Option<(&'static [&'static str], &str)> {
    let digits = core.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match (core[..core.len() - digits.len()].to_ascii_lowercase().as_str(), digits.len()) {
        ("q", 1) => Some((&["quarter"], digits)),
        ("h", 1) => Some((&["half"], digits)),
        ("fy", 4) => Some((&["fiscal", "year"], digits)),
        _ => None,
    }
}

/// A minus sign before a number: not a hyphen, not a range.
fn is_sign(piece: &str, at: usize) -> bool {
    at == 0 && piece.starts_with('-') && piece[1..].starts_with(|c: char| c.is_ascii_digit() || c == '$')
}

fn number_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let inner = matches!(bytes[end], b'.' | b',' | b':') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        if !bytes[end].is_ascii_digit() && !inner {
            break;
        }
        end += 1;
    }
    end
}

/// Letters and apostrophes between letters.
fn word_end(text: &str) -> usize {
    let mut last = 0;
    for (at, c) in text.char_indices() {
        let inside = c == '\'' && text[at + 1..].starts_with(char::is_alphabetic) && at > 0;
        if !(c.is_alphabetic() || inside) || is_hangul(c) {
            return at;
        }
        last = at + c.len_utf8();
    }
    last
}

pub fn is_address(core: &str) -> bool {
    let dotted = |text: &str| text.split('.').count() > 1 && text.split('.').all(|part| !part.is_empty());
    core.contains("://") || core.starts_with("www.") || core.split_once('@').is_some_and(|(name, host)| !name.is_empty() && dotted(host))
}

/// An identifier, a path, a version, a code with letters and digits, something with a dot inside.
fn is_code(core: &str) -> bool {
    let bytes = core.as_bytes();
    let has = |test: fn(&u8) -> bool| bytes.iter().any(test);
    let (letters, digits) = (has(u8::is_ascii_alphabetic), has(u8::is_ascii_digit));
    if core.contains(['_', '\\', '=', '{', '}', '<', '>', '@', '#', '|', '^']) || core.contains("::") || core.contains("++") {
        return letters || digits;
    }
    if letters && (core.starts_with('/') || core.starts_with("--") || core.matches('/').count() > 1) {
        return true;
    }
    if core.starts_with('$') && letters && !digits {
        return true;
    }
    let dotted = core.split('.').filter(|part| part.len() > 1 && part.starts_with(|c: char| c.is_ascii_alphabetic())).count();
    if dotted > 1 && core.split('.').all(|part| !part.is_empty()) && !core.contains(' ') && !core.contains("...") {
        return true;
    }
    if core.matches('.').count() > 1 && digits && !core.contains(',') {
        return true; // a version or an address
    }
    if letters && digits {
        return !is_quantity(core);
    }
    // Hyphens between digits: telephone numbers and codes. Dates and short ranges (3-10) are numbers.
    let is_range = core.split('-').count() == 2 && core.split('-').all(|part| (1..=2).contains(&part.len()));
    digits && core.contains('-') && !core.starts_with('-') && !is_iso_date(core) && !is_range || digits && core.contains('/')
}

fn is_iso_date(core: &str) -> bool {
    let parts: Vec<&str> = core.split('-').collect();
    parts.len() == 3 && parts[0].len() == 4 && parts.iter().all(|part| part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Digits and a known ending, as in 5k, 10gb, 3pm, 1st, $5m, 24h, or hyphenated words as in 3-month.
fn is_quantity(core: &str) -> bool {
    let plain = core.trim_start_matches(['$', '€', '£', '₩', '¥', '-', '+', '~']);
    let end = number_end(plain);
    if end == 0 {
        // "covid-19", "top-10": a word, a hyphen and a number are read as such; "b2b", "mp3" are codes.
        let parts: Vec<&str> = core.split('-').collect();
        return parts.len() > 1
            && parts.iter().all(|part| {
                part.bytes().all(|b| b.is_ascii_digit()) || part.len() > 2 && part.chars().all(|c| c.is_alphabetic() || c == '\'')
            });
    }
    let rest = plain[end..].trim_end_matches('.').to_lowercase();
    let rest = rest.trim_start_matches(['-', '°']);
    super::values::is_suffix(rest)
        || rest.contains('-')
        || plain[end..].starts_with('-') && rest.chars().all(|c| c.is_alphabetic() || c == '\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, String)> {
        tokens(text).into_iter().map(|token| (token.kind, token.text)).collect()
    }

    #[test]
    fn words_numbers_and_codes_are_told_apart() {
        use Kind::*;
        let cases: &[(&str, &[(Kind, &str)])] = &[
            (
                "Don't pay $12.4k, e.g. now!",
                &[(Word, "don't"), (Word, "pay"), (Symbol, "$"), (Number, "12.4"), (Word, "k"), (Word, "e"), (Word, "g"), (Word, "now")],
            ),
            (
                "see https://a.b/c?d. x_y foo.bar v1.2.3",
                &[(Word, "see"), (Exact, "https://a.b/c?d"), (Exact, "x_y"), (Exact, "foo.bar"), (Exact, "v1.2.3")],
            ),
            (
                "B2B order A-17 on 2024-03-05",
                &[(Exact, "b2b"), (Word, "order"), (Exact, "a-17"), (Word, "on"), (Number, "2024"), (Number, "03"), (Number, "05")],
            ),
            ("ATM에서 50만원", &[(Word, "atm"), (Hangul, "에서"), (Number, "50"), (Hangul, "만원")]),
            ("cut-off at 15:00", &[(Word, "cut"), (Word, "off"), (Word, "at"), (Number, "15:00")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(kind, text)| (*kind, (*text).to_owned())).collect();
            assert_eq!(kinds(text), expected, "{text}");
        }
    }

    #[test]
    fn quotations_are_found() {
        assert_eq!(quotes("say \"Hello There\" and 'ok then'"), ["hello there", "ok then"]);
        assert_eq!(quotes("the user's and the users' it's"), Vec::<String>::new());
    }
}
