//! Exact token counts for OpenAI's vocabularies, without a download, a file or memory to load.
//!
//! `split` cuts the text into pieces, `vocabulary` knows the pieces that are tokens, `merge` counts the tokens of the others.

mod class;
mod merge;
mod split;
mod table;
mod vocabulary;
mod work;

use std::collections::HashMap;

use merge::Merger;
use table::NO_TOKEN;
use vocabulary::{Token, VOCABULARIES, Vocabulary};

/// Counts the tokens of texts in one encoding, as tiktoken's `encode_ordinary` makes them: special tokens are plain text.
///
/// Why not tiktoken: its maps take tens of megabytes and half a second to build, and a sidecar sits in every pod. The tables here are read-only
/// pages of the binary.
#[derive(Clone, Copy)]
pub struct TokenCounter {
    vocabulary: &'static Vocabulary,
}

impl TokenCounter {
    /// The names of the encodings there are.
    pub fn encodings() -> impl Iterator<Item = &'static str> {
        VOCABULARIES.iter().map(|vocabulary| vocabulary.name)
    }

    /// The counter for `encoding`; None if there is none of that name.
    pub fn new(encoding: &str) -> Option<Self> {
        let vocabulary = VOCABULARIES.iter().find(|vocabulary| vocabulary.name == encoding)?;
        Some(Self { vocabulary })
    }

    /// The name of this counter's encoding.
    pub fn encoding(&self) -> &'static str {
        self.vocabulary.name
    }

    /// The number of tokens in `text`. Takes time in proportion to the text's length, whatever is in it.
    ///
    /// # Panics
    /// On a text with 4 GiB or more of one kind of character in a row.
    pub fn count(&self, text: &str) -> usize {
        self.count_at_most(text, usize::MAX).expect("no count is over the largest number")
    }

    /// The number of tokens in `text`, or None if it is over `limit`. Gives up as soon as that is certain: the time is bounded by `limit`.
    pub fn count_at_most(&self, text: &str, limit: usize) -> Option<usize> {
        let text = text.as_bytes();
        if at_least(text.len()) > limit {
            return None;
        }
        let mut merger = Merger::default();
        let mut count = 0;
        let mut start = 0;
        while start < text.len() {
            let end = self.vocabulary.pattern.piece_end(text, start);
            count += match self.vocabulary.rank(text, start, end) {
                NO_TOKEN => merge::count(self.vocabulary, text, start..end, &mut merger),
                _ => 1,
            };
            if count > limit {
                return None;
            }
            start = end;
        }
        Some(count)
    }

    /// The bytes of each text given as tokens, which may begin or end within a character. All texts at once, for they share a pass over the
    /// table. Err is the place of a number that is no token: which text, and where in it.
    pub fn decode(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<u8>>, (usize, usize)> {
        let mut known: HashMap<u32, Option<Token>> = texts.iter().flatten().map(|&token| (token, None)).collect();
        for (rank, token) in self.vocabulary.tokens() {
            if let Some(place) = known.get_mut(&rank) {
                *place = Some(token);
            }
        }
        let decoded = texts.iter().enumerate().map(|(text, tokens)| {
            let mut bytes = Vec::with_capacity(4 * tokens.len());
            for (place, token) in tokens.iter().enumerate() {
                bytes.extend_from_slice(known[token].as_ref().ok_or((text, place))?.bytes());
            }
            Ok(bytes)
        });
        decoded.collect()
    }
}

/// The least number of tokens that this many bytes can be.
pub fn at_least(bytes: usize) -> usize {
    bytes.div_ceil(table::LONGEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters() -> impl Iterator<Item = TokenCounter> {
        TokenCounter::encodings().map(|encoding| TokenCounter::new(encoding).unwrap())
    }

    /// Texts meant to be slow, of about this many bytes. Numbers that look random come from a fixed sequence.
    fn hostile(bytes: usize) -> Vec<(&'static str, String)> {
        let repeated = |unit: &str| unit.repeat(bytes / unit.len());
        let mut state = 1_u64;
        let mut random = |most: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % most
        };
        let letters = (0..bytes).map(|_| char::from(b'a' + random(26) as u8)).collect();
        let points = (0..bytes / 4).filter_map(|_| char::from_u32(random(0x11_0000) as u32)).collect();
        vec![
            ("one letter", repeated("a")),
            ("capitals", repeated("A")),
            ("a letter without case, then capitals", format!("ª{}", repeated("A"))),
            ("marks", repeated("\u{301}")),
            ("a mark and a capital", repeated("\u{301}A")),
            ("dashes", repeated("-")),
            ("spaces", repeated(" ")),
            ("spaces before a word", repeated(" ") + "x"),
            ("newlines", repeated("\n")),
            ("spaces and newlines", repeated(" \n")),
            ("spaces and tabs before a word", repeated(" \t") + "x"),
            ("slashes and newlines", repeated("/\n")),
            ("apostrophes", repeated("'")),
            ("mixed apostrophes", repeated("'s’t'ſ'LL'")),
            ("emoji joiners", repeated("\u{200d}")),
            ("joined emoji", repeated("\u{1f469}\u{200d}\u{1f467}\u{200d}")),
            ("digits", repeated("7")),
            ("syllables", repeated("가")),
            ("random letters", letters),
            ("random code points", points),
        ]
    }

    #[test]
    fn work_grows_with_the_length_only() {
        for counter in counters() {
            for ((kind, text), (_, tenth)) in hostile(100_000).iter().zip(hostile(10_000)) {
                let all = work::steps_of(|| _ = counter.count(text));
                let part = work::steps_of(|| _ = counter.count(&tenth));
                assert!(all < 11 * part + 1000, "{} {kind}: {part} steps, and {all} for ten times the text", counter.encoding());
                assert!(all < 60 * text.len() as u64, "{} {kind}: {all} steps for {} bytes", counter.encoding(), text.len());
            }
        }
    }

    #[test]
    fn a_limit_bounds_the_work() {
        for counter in counters() {
            for (kind, text) in hostile(100_000) {
                let steps = work::steps_of(|| assert_eq!(counter.count_at_most(&text, 20), None));
                assert!(steps < 20 * 60 * table::LONGEST as u64, "{} {kind}: {steps} steps to exceed 20 tokens", counter.encoding());
            }
        }
    }

    #[test]
    fn an_empty_text_has_no_tokens() {
        for counter in counters() {
            assert_eq!((counter.count(""), counter.count_at_most("", 0)), (0, Some(0)));
        }
    }

    #[test]
    fn special_tokens_are_plain_text() {
        for counter in counters() {
            assert_eq!(counter.count("<|endoftext|>"), 7);
        }
    }

    #[test]
    fn tokens_are_decoded() {
        let counter = TokenCounter::new("cl100k_base").unwrap();
        assert_eq!(counter.decode(&[vec![15_339, 1917], vec![], vec![0]]), Ok(vec![b"hello world".to_vec(), vec![], b"!".to_vec()]));
        assert_eq!(counter.decode(&[vec![0], vec![15_339, 100_257, 1917]]), Err((1, 1))); // a special token is none
        assert_eq!(counter.decode(&[vec![u32::MAX]]), Err((0, 0)));
    }

    #[test]
    fn unknown_encodings_are_none() {
        assert!(TokenCounter::new("p50k_base").is_none());
    }

    proptest! {
        #[test]
        fn a_limit_changes_no_count(text in r"(\PC|[a-z ]|---|\s){0,80}", limit in 0..100_usize) {
            for counter in counters() {
                let count = counter.count(&text);
                prop_assert_eq!(counter.count_at_most(&text, limit), (count <= limit).then_some(count));
                prop_assert_eq!(counter.count_at_most(&text, count), Some(count));
                prop_assert_eq!(counter.count(&text), count);
                prop_assert!(at_least(text.len()) <= count && count <= text.len());
            }
        }
    }
}
