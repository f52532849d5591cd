//! Are two prompts the same question? Vetoes refuse, trees score what is left: see `compare`.
//!
//! A veto is a difference that changes what is asked, by name; any one is enough. What no veto refuses gets a score from 0 to 1.
//! Everything works on `Analysis`, so that what is stored is analysed once.

mod align;
mod analysis;
mod english;
mod features;
mod fold;
pub mod index;
mod korean;
mod lexicon;
mod symbols;
mod trees;
mod values;
mod veto;
mod words;

pub use analysis::{Analysis, MOST_BYTES, MOST_TERMS, analyse};
pub use fold::fold;
pub use veto::NAMES as VETOES;

/// Equal but for spacing and punctuation between words.
const REPEAT: f64 = 0.999;

#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// 0 where something refuses, 1 for identical texts.
    pub score: f64,
    /// What refuses; empty if nothing does.
    pub veto: &'static str,
    pub features: [f32; features::COUNT],
    /// In words: what decided.
    pub deciding: Vec<String>,
}

impl Verdict {
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f32)> {
        features::NAMES.into_iter().zip(self.features)
    }
}

/// Scores the question `asked` against the one `stored`, and says why; `cosine` of their embeddings, where there are any.
pub fn compare(asked: &Analysis, stored: &Analysis, cosine: Option<f32>) -> Verdict {
    let (asked, stored) = ordered(asked, stored);
    let alignment = align::align(asked, stored);
    let features = features::features(asked, stored, &alignment, cosine);
    let done = |score: f64, veto: &'static str, deciding: Vec<String>| Verdict { score, veto, features, deciding };
    if let Some(score) = repeat(asked, stored) {
        return done(score, "", vec![if score == 1.0 { "identical".into() } else { "a repeat, but for spaces and punctuation".into() }]);
    }
    if let Some((name, detail)) = veto::before(asked, stored, true).or_else(|| veto::after(asked, stored, &alignment, true)) {
        return done(0.0, name, vec![detail]);
    }
    let trees = trees::trees();
    done(trees.score(&features), "", costs(trees, &features))
}

/// The score and veto alone, with no more work than they need.
fn judge(asked: &Analysis, stored: &Analysis) -> (f64, &'static str) {
    let (asked, stored) = ordered(asked, stored);
    if let Some(score) = repeat(asked, stored) {
        return (score, "");
    }
    if let Some((name, _)) = veto::before(asked, stored, false) {
        return (0.0, name);
    }
    let alignment = align::align(asked, stored);
    if let Some((name, _)) = veto::after(asked, stored, &alignment, false) {
        return (0.0, name);
    }
    (trees::trees().score(&features::features(asked, stored, &alignment, None)), "")
}

/// What refuses without a look at the words, if they are no repeat of each other.
fn refused_at_once(asked: &Analysis, stored: &Analysis) -> Option<&'static str> {
    let (asked, stored) = ordered(asked, stored);
    if repeat(asked, stored).is_some() { None } else { veto::before(asked, stored, false).map(|found| found.0) }
}

/// One order for both directions, so that the verdict is symmetric.
fn ordered<'a>(a: &'a Analysis, b: &'a Analysis) -> (&'a Analysis, &'a Analysis) {
    if (a.letters_only, a.identity) <= (b.letters_only, b.identity) { (a, b) } else { (b, a) }
}

fn repeat(a: &Analysis, b: &Analysis) -> Option<f64> {
    if a.identity == b.identity {
        return Some(1.0);
    }
    (a.letters_only == b.letters_only && a.bytes > 0).then_some(REPEAT)
}

/// The features that cost the score most: those whose value of an identical pair would raise it.
fn costs(trees: &trees::Trees, features: &features::Features) -> Vec<String> {
    let margin = trees.margin(features);
    let mut costs: Vec<(f64, usize)> = (0..features::COUNT)
        .filter_map(|at| {
            let mut better = *features;
            better[at] = features::best(at, features[at]);
            let cost = trees.margin(&better) - margin;
            (cost > 0.05).then_some((cost, at))
        })
        .collect();
    costs.sort_by(|x, y| y.0.total_cmp(&x.0));
    costs.iter().take(4).map(|(cost, at)| format!("{} = {} costs {cost:.2}", features::NAMES[*at], features[*at])).collect()
}

/// FNV-1a, mixed once more (splitmix64's finish), so that all bits are good.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let plain = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (plain ^ (plain >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
