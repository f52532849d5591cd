//! Characters as they are compared: widths, accents, quotation marks, dashes, spaces and jamo in one form; case is kept.
//!
//! Not Unicode's NFKC: only what keyboards and copying change without changing what is asked. What is not folded stays different,
//! and different characters refuse a match.

/// The text in its folded form. Zero-width characters and combining marks are gone, white space is one space.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for raw in text.chars() {
        let found = folded_char(raw);
        match found {
            '\0' => {}
            ' ' if folded.is_empty() || folded.ends_with(' ') => {}
            '\u{2026}' => folded.push_str("..."),
            '℃' => folded.push_str("°C"),
            '℉' => folded.push_str("°F"),
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            _ => compose(&mut folded, found),
        }
    }
    if folded.ends_with(' ') {
        folded.pop();
    }
    folded
}

/// `'\0'` for a character that is left out.
fn folded_char(raw: char) -> char {
    if raw.is_ascii() && !raw.is_ascii_control() {
        return raw;
    }
    match raw {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(raw as u32 - 0xff01 + 0x21).unwrap_or(raw),
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fe00}'..='\u{fe0f}' | '\u{202a}'..='\u{202e}' => {
            '\0'
        }
        '\u{300}'..='\u{36f}' => '\0',
        '‘' | '’' | '‚' | '‛' | '´' | 'ʼ' | '′' => '\'',
        '“' | '”' | '„' | '‟' | '«' | '»' | '「' | '」' | '『' | '』' | '″' => '"',
        '‐'..='―' | '−' => '-',
        '、' => ',',
        '。' => '.',
        '₩' | '￦' => '₩',
        raw if raw.is_whitespace() || raw.is_control() => ' ',
        'À'..='ſ' => accentless(raw),
        raw => raw,
    }
}

/// The base letters of Latin-1 and Latin Extended-A, by code point from U+00C0.
fn accentless(raw: char) -> char {
    const BASES: &str = "AAAAAAÆCEEEEIIIIÐNOOOOO×OUUUUYÞßaaaaaaæceeeeiiiiðnooooo÷ouuuuyþy\
        AaAaAaCcCcCcCcDdĐđEeEeEeEeEeGgGgGgGgHhĦħIiIiIiIiIıĲĳJjKkĸLlLlLlĿŀŁłNnNnNnŉŊŋOoOoOoŒœRrRrRrSsSsSsSsTtTtTtUuUuUuUuUuUuWwYyYZzZzZzſ";
    BASES.chars().nth(raw as usize - 0xc0).unwrap_or(raw)
}

/// Pushes a character; conjoining jamo join what stands before them into one syllable (Unicode chapter 3.12).
fn compose(folded: &mut String, next: char) {
    const SYLLABLES: u32 = 0xac00;
    let (code, last) = (next as u32, folded.chars().next_back().map_or(0, |last| last as u32));
    let joined = match code {
        0x1161..=0x1175 if (0x1100..=0x1112).contains(&last) => Some(SYLLABLES + ((last - 0x1100) * 21 + code - 0x1161) * 28),
        0x11a8..=0x11c2 if (SYLLABLES..=0xd7a3).contains(&last) && (last - SYLLABLES) % 28 == 0 => Some(last + code - 0x11a7),
        _ => None,
    };
    match joined.and_then(char::from_u32) {
        Some(syllable) => {
            folded.pop();
            folded.push(syllable);
        }
        None => folded.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keyboards_change_is_folded() {
        for (text, folded) in [
            ("  Hello\u{200b}\tWORLD \n", "Hello WORLD"),
            ("Ｈｅｌｌｏ　１２３", "Hello 123"),
            ("it’s “so”", "it's \"so\""),
            ("caf\u{e9} cafe\u{301} Łódź", "cafe cafe Łodz"),
            ("\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}", "한글"),
            ("a—b", "a-b"),
            ("", ""),
        ] {
            assert_eq!(fold(text), folded);
        }
    }
}
