//! The classes of characters that the vocabularies' patterns tell apart.

/// A set of classes; one character has exactly one class, the end of the text has none.
pub(super) type Classes = u8;

pub(super) const END: Classes = 0;
/// `\p{Lu}` and `\p{Lt}`.
pub(super) const UPPER: Classes = 1;
/// `\p{Ll}`.
pub(super) const LOWER: Classes = 2;
/// `\p{Lm}` and `\p{Lo}`: letters without case, which the patterns take for either.
pub(super) const CASELESS: Classes = 4;
/// `\p{M}`.
pub(super) const MARK: Classes = 8;
/// `\p{N}`.
pub(super) const NUMBER: Classes = 16;
/// `\s` but `\r` and `\n`.
pub(super) const SPACE: Classes = 32;
/// `\r` and `\n`.
pub(super) const NEWLINE: Classes = 64;
/// Everything else: punctuation, symbols, controls, code points without a character.
pub(super) const OTHER: Classes = 128;

pub(super) const LETTER: Classes = UPPER | LOWER | CASELESS;
/// `[^\s\p{L}\p{N}]`.
pub(super) const SYMBOL: Classes = MARK | OTHER;

static INDEX: &[u8; 0x1100] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.index"));
static BLOCKS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.blocks"));

/// The classes of the ASCII characters, in their own table because they are asked for most; 0 for all other bytes.
static ASCII: [Classes; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'A'..=b'Z' => UPPER,
            b'a'..=b'z' => LOWER,
            b'0'..=b'9' => NUMBER,
            b'\r' | b'\n' => NEWLINE,
            b' ' | b'\t' | 0x0b | 0x0c => SPACE,
            _ => OTHER,
        };
        byte += 1;
    }
    classes
};

/// The class of a code point.
#[inline]
fn of(point: u32) -> Classes {
    let block = usize::from(INDEX[(point >> 8) as usize]);
    BLOCKS[block << 8 | (point & 0xff) as usize]
}

/// The class of the character at `at` and its length in bytes; `END` and 0 behind the last one.
#[inline]
pub(super) fn at(text: &[u8], at: usize) -> (Classes, usize) {
    super::work::step(1);
    let Some(&lead) = text.get(at) else { return (END, 0) };
    if lead < 0x80 { (ASCII[usize::from(lead)], 1) } else { wide(text, at, lead) }
}

fn wide(text: &[u8], at: usize, lead: u8) -> (Classes, usize) {
    // The text was a `str`, so the bytes that the lead byte promises are there.
    let tail = |offset: usize| u32::from(text[at + offset] & 0x3f);
    let lead = u32::from(lead);
    match lead {
        0..0xe0 => (of((lead & 0x1f) << 6 | tail(1)), 2),
        0xe0..0xf0 => (of((lead & 0x0f) << 12 | tail(1) << 6 | tail(2)), 3),
        _ => (of((lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3)), 4),
    }
}

/// Where the run of characters of these classes that starts at `from` ends.
#[inline]
pub(super) fn run(text: &[u8], from: usize, classes: Classes) -> usize {
    let mut end = from;
    loop {
        if classes & LOWER != 0 {
            // Words are most of most texts, and few bytes long: eight are looked at together.
            while let Some(word) = text[end..].first_chunk::<8>() {
                let letters = leading_lower(u64::from_le_bytes(*word));
                super::work::step(1);
                end += letters;
                if letters < 8 {
                    break;
                }
            }
        }
        // Bytes beyond ASCII have class 0 here, so they end the inner loop without a test of their own.
        while let Some(&byte) = text.get(end) {
            if ASCII[usize::from(byte)] & classes == 0 {
                break;
            }
            super::work::step(1);
            end += 1;
        }
        let (class, width) = at(text, end);
        if class & classes == 0 {
            return end;
        }
        end += width;
    }
}

/// How many of eight bytes, from the first on, are `a` to `z`.
#[inline]
fn leading_lower(word: u64) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    // Per byte, without carries between them: the high bit of the sums says "at least a" and "beyond z".
    let low = word & !HIGH;
    let from_a = low + (0x80 - b'a' as u64) * EACH;
    let beyond_z = low + (0x80 - b'z' as u64 - 1) * EACH;
    let others = !(from_a & !beyond_z & !word) & HIGH;
    others.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_has_the_classes_of_the_large_table() {
        for point in 0..128_u8 {
            assert_eq!(ASCII[usize::from(point)], of(point.into()), "{point:#x}");
        }
    }

    #[test]
    fn every_character_is_read_with_its_class_and_length() {
        for character in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let text = character.encode_utf8(&mut buffer).as_bytes();
            assert_eq!(at(text, 0), (of(character.into()), text.len()), "{character:?}");
        }
    }

    #[test]
    fn behind_the_text_is_no_class() {
        assert_eq!(at(b"a", 1), (END, 0));
        assert_eq!(at(b"", 0), (END, 0));
    }

    #[test]
    fn eight_bytes_looked_at_together_are_as_one_by_one() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut bytes = *b"azazmnop";
                bytes[place] = byte;
                let expected = if byte.is_ascii_lowercase() { 8 } else { place };
                assert_eq!(leading_lower(u64::from_le_bytes(bytes)), expected, "{bytes:?}");
            }
        }
    }
}
