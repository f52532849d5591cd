//! Where a text is cut into pieces before its tokens are looked up: the vocabularies' patterns, written out as a state machine.
//!
//! The patterns are in `Pattern`; a regex engine spends most of a counter's time in them. Each rule below is named by the alternative it stands
//! for and takes what the engine takes after all its backtracking, looking at every character a bounded number of times.

use super::class::{self, CASELESS, Classes, LETTER, LOWER, MARK, NEWLINE, NUMBER, SPACE, SYMBOL, UPPER};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s`
    Cl100k,
    /// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`
    /// `|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?`
    /// `|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    O200k,
}

impl Pattern {
    /// The end of the piece that starts at `at`, which must be inside the text.
    #[inline]
    pub(super) fn piece_end(self, text: &[u8], at: usize) -> usize {
        match self {
            Self::Cl100k => cl100k(text, at),
            Self::O200k => o200k(text, at),
        }
    }
}

#[inline]
fn cl100k(text: &[u8], at: usize) -> usize {
    let (first, width) = class::at(text, at);
    let behind = at + width;
    if text[at] == b'\'' {
        let end = contraction(text, at);
        if end > at {
            return end;
        }
    }
    if first & LETTER != 0 {
        return class::run(text, behind, LETTER);
    }
    if first & (SYMBOL | SPACE) != 0 && class::at(text, behind).0 & LETTER != 0 {
        return class::run(text, behind, LETTER);
    }
    if first == NUMBER {
        return number(text, behind);
    }
    symbols(text, at, first, false).unwrap_or_else(|| {
        let spaces = Spaces::scan(text, at);
        if spaces.end == text.len() { spaces.end } else { spaces.cut(text) }
    })
}

#[inline]
fn o200k(text: &[u8], at: usize) -> usize {
    let (first, width) = class::at(text, at);
    let behind = at + width;
    if first & LETTER != 0 {
        return contraction(text, Word::scan(text, at).end());
    }
    if first & (SYMBOL | SPACE) != 0 {
        let word = Word::scan(text, behind);
        // A mark is a prefix or a letter. As a prefix it needs a word of the first alternative behind it: failing that, the first alternative
        // takes the mark alone as its word before the second is tried.
        if let Some(end) = word.lower_end.or((first == MARK).then_some(behind)).or(word.upper_end) {
            return contraction(text, end);
        }
    }
    if first == NUMBER {
        return number(text, behind);
    }
    symbols(text, at, first, true).unwrap_or_else(|| Spaces::scan(text, at).cut(text))
}

/// A word as o200k's first two alternatives see it, without prefix and contraction.
struct Word {
    /// Where `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+` ends.
    lower_end: Option<usize>,
    /// Where `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+` ends.
    upper_end: Option<usize>,
}

impl Word {
    #[inline]
    fn scan(text: &[u8], from: usize) -> Self {
        const EITHER: Classes = CASELESS | MARK;
        let mut end = from;
        let mut last_either = None;
        loop {
            let (class, width) = class::at(text, end);
            if class & LOWER != 0 {
                let end = class::run(text, end + width, LOWER | EITHER);
                return Self { lower_end: Some(end), upper_end: None };
            }
            if class & (UPPER | EITHER) == 0 {
                break;
            }
            end += width;
            if class & EITHER != 0 {
                last_either = Some(end);
            }
        }
        // No lower case letter follows: the first class gives characters back until one can stand for it.
        Self { lower_end: last_either, upper_end: (end > from).then_some(end) }
    }

    #[inline]
    fn end(&self) -> usize {
        self.lower_end.or(self.upper_end).expect("a word that starts with a letter has an end")
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)?`: the end of the contraction at `at`, or `at`. The long s (U+017F) is an s without its case.
#[inline]
fn contraction(text: &[u8], at: usize) -> usize {
    if text.get(at) != Some(&b'\'') {
        return at;
    }
    let letter = |offset: usize| text.get(at + offset).map_or(0, u8::to_ascii_lowercase);
    match (letter(1), letter(2)) {
        (b's' | b't' | b'm' | b'd', _) => at + 2,
        (b'r' | b'v', b'e') | (b'l', b'l') | (0xc5, 0xbf) => at + 3,
        _ => at,
    }
}

/// `\p{N}{1,3}` behind its first character.
#[inline]
fn number(text: &[u8], behind: usize) -> usize {
    let mut end = behind;
    for _ in 0..2 {
        let (class, width) = class::at(text, end);
        if class != NUMBER {
            break;
        }
        end += width;
    }
    end
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*`, the last class with a slash if `slash`; None when the text at `at` is not of that kind.
#[inline]
fn symbols(text: &[u8], at: usize, first: Classes, slash: bool) -> Option<usize> {
    let from = if first & SYMBOL != 0 {
        at
    } else if text[at] == b' ' && class::at(text, at + 1).0 & SYMBOL != 0 {
        at + 1
    } else {
        return None;
    };
    let mut end = class::run(text, from, SYMBOL);
    loop {
        end = class::run(text, end, NEWLINE);
        if !(slash && text.get(end) == Some(&b'/')) {
            return Some(end);
        }
        end += 1;
    }
}

/// A run of white space.
struct Spaces {
    end: usize,
    /// Behind its last `\r` or `\n`, if it has one.
    newline_end: Option<usize>,
    /// Where its last character starts.
    last: usize,
    from: usize,
}

impl Spaces {
    #[inline]
    fn scan(text: &[u8], from: usize) -> Self {
        let mut spaces = Self { end: from, newline_end: None, last: from, from };
        loop {
            let (class, width) = class::at(text, spaces.end);
            if class & (SPACE | NEWLINE) == 0 {
                return spaces;
            }
            spaces.last = spaces.end;
            spaces.end += width;
            if class == NEWLINE {
                spaces.newline_end = Some(spaces.end);
            }
        }
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`: through the last newline; else all of the run at the end of the text; else all but its last character,
    /// which belongs to what follows, unless it is the only one.
    #[inline]
    fn cut(&self, text: &[u8]) -> usize {
        self.newline_end.unwrap_or(if self.end == text.len() || self.last == self.from { self.end } else { self.last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(pattern: Pattern, text: &str) -> Vec<&str> {
        let mut start = 0;
        std::iter::from_fn(|| {
            let end = (start < text.len()).then(|| pattern.piece_end(text.as_bytes(), start))?;
            let piece = &text[start..end]; // panics where a piece does not end between two characters
            start = end;
            Some(piece)
        })
        .collect()
    }

    #[test]
    fn contractions_belong_to_the_word_in_o200k_only() {
        let text = "I'M you'll don'ſ 's";
        assert_eq!(pieces(Pattern::O200k, text), ["I'M", " you'll", " don'ſ", " '", "s"]);
        assert_eq!(pieces(Pattern::Cl100k, text), ["I", "'M", " you", "'ll", " don", "'ſ", " '", "s"]);
    }

    #[test]
    fn o200k_cuts_where_the_case_changes() {
        assert_eq!(pieces(Pattern::O200k, "HTTPServer camelCase ABC"), ["HTTPServer", " camel", "Case", " ABC"]);
        assert_eq!(pieces(Pattern::O200k, "ABªCD"), ["ABª", "CD"]);
        assert_eq!(pieces(Pattern::Cl100k, "HTTPServer camelCase ABªCD"), ["HTTPServer", " camelCase", " ABªCD"]);
    }

    #[test]
    fn a_mark_before_capitals_stands_alone_in_o200k() {
        assert_eq!(pieces(Pattern::O200k, "\u{301}ABC"), ["\u{301}", "ABC"]);
        assert_eq!(pieces(Pattern::O200k, "\u{301}'sABC"), ["\u{301}'s", "ABC"]);
        assert_eq!(pieces(Pattern::O200k, "\u{301}Abc"), ["\u{301}Abc"]);
        assert_eq!(pieces(Pattern::Cl100k, "\u{301}ABC"), ["\u{301}ABC"]);
    }

    #[test]
    fn white_space_leaves_its_last_character_to_what_follows() {
        for pattern in [Pattern::O200k, Pattern::Cl100k] {
            assert_eq!(pieces(pattern, "a   b 1  2"), ["a", "  ", " b", " ", "1", " ", " ", "2"]);
            assert_eq!(pieces(pattern, "a \n b"), ["a", " \n", " b"]);
        }
        assert_eq!(pieces(Pattern::O200k, "a \n "), ["a", " \n", " "]);
        assert_eq!(pieces(Pattern::Cl100k, "a \n "), ["a", " \n "]);
    }

    #[test]
    fn slashes_follow_symbols_and_newlines_in_o200k_only() {
        assert_eq!(pieces(Pattern::O200k, "!\n//\n x"), ["!\n//\n", " x"]);
        assert_eq!(pieces(Pattern::Cl100k, "!\n//\n x"), ["!\n", "//\n", " x"]);
    }

    #[test]
    fn numbers_go_in_threes() {
        for pattern in [Pattern::O200k, Pattern::Cl100k] {
            assert_eq!(pieces(pattern, "1234567 ٣٤٥٦"), ["123", "456", "7", " ", "٣٤٥", "٦"]);
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_the_text(text in r"(\PC|[\r\n\t '/ſA-Cs-t1ª\u{301}]){0,60}") {
            for pattern in [Pattern::O200k, Pattern::Cl100k] {
                let pieces = pieces(pattern, &text);
                prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
                prop_assert_eq!(pieces.concat(), text.as_str());
            }
        }
    }
}
