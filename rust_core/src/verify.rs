//! Are two prompts the same question? Vetoes refuse, trees score what is left: see `compare`.
//!
//! A veto is a difference that changes what is asked, by name; any one is enough. What no veto refuses gets a score from 0 to 1.
//! Everything works on `Analysis`, so that what is stored is analysed once.

mod fold;
pub mod index;

pub use fold::fold;

/// Texts longer than this, folded, are only ever equal if they are identical: the time stays linear and an entry small.
pub const MOST_BYTES: usize = 600;

/// What is kept of a prompt to compare it.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// Of the folded text without case and closing punctuation.
    identity: u64,
    text: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// 0 where something refuses, 1 for identical texts.
    pub score: f64,
    /// What refuses; empty if nothing does.
    pub veto: &'static str,
    pub features: Vec<(&'static str, f32)>,
    /// In words: what decided.
    pub deciding: Vec<String>,
}

pub fn analyse(text: &str) -> Analysis {
    let text = fold(text).to_lowercase();
    let plain = text.trim_end_matches(['.', '!', '?', ' ']);
    Analysis { identity: hash(plain.as_bytes()), text: if text.len() > MOST_BYTES { "".into() } else { text.into() } }
}

/// Scores the question `asked` against the one `stored`; `cosine` of their embeddings, where there are any.
pub fn compare(asked: &Analysis, stored: &Analysis, cosine: Option<f32>) -> Verdict {
    let features = cosine.map(|cosine| vec![("cosine", cosine)]).unwrap_or_default();
    if asked.identity == stored.identity {
        return Verdict { score: 1.0, veto: "", features, deciding: vec!["identical".into()] };
    }
    Verdict { score: 0.0, veto: "words", features, deciding: Vec::new() }
}

/// FNV-1a, mixed once more (splitmix64's finish), so that all bits are good.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let plain = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (plain ^ (plain >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
