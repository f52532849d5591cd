//! What the trees see of two prompts that no veto has refused. Symmetric: of two sides the lesser and the greater, never ours and theirs.

use super::align::{Alignment, Level};
use super::analysis::{Analysis, HANGUL, NAME, Term, VALUE};
use super::lexicon::{KIND, lexicon, question};

pub const COUNT: usize = 39;

pub const NAMES: [&str; COUNT] = [
    "matched_least",
    "matched_most",
    "equal_share",
    "synonym_share",
    "loose_share",
    "derived_share",
    "equal_terms",
    "synonyms",
    "compounds",
    "slips",
    "loose",
    "derived",
    "left",
    "left_weight",
    "left_heaviest",
    "light_left_least",
    "light_left_most",
    "relations_left",
    "terms_least",
    "terms_ratio",
    "bytes_ratio",
    "trigrams",
    "neighbours",
    "inversions",
    "first_matches",
    "last_matches",
    "question_equal",
    "question_differs",
    "persons_differ",
    "pasts_differ",
    "negations",
    "values",
    "names",
    "hangul",
    "left_before_matched",
    "left_participle",
    "left_kind",
    "left_has_opposite",
    "cosine",
];

/// Endings of adjectives and participles.
const ENDINGS: [&str; 12] = ["ed", "able", "ible", "al", "ive", "ary", "ic", "ous", "ent", "ant", "ing", "en"];

pub type Features = [f32; COUNT];

pub fn features(a: &Analysis, b: &Analysis, alignment: &Alignment, cosine: Option<f32>) -> Features {
    let weight = |analysis: &Analysis| analysis.terms.iter().map(|term| f32::from(term.weight)).sum::<f32>().max(1.0);
    let (whole_a, whole_b) = (weight(a), weight(b));
    let at_level = |level: Level| alignment.pairs.iter().filter(move |pair| pair.2 == level);
    let weight_of = |level: Level| {
        at_level(level).map(|pair| f32::from(a.terms[pair.0 as usize].weight.max(b.terms[pair.1 as usize].weight))).sum::<f32>()
    };
    let count_of = |level: Level| at_level(level).count() as f32;
    let matched = |side: usize, whole: f32| {
        let analysis = [a, b][side];
        let mut taken: Vec<u8> = alignment.pairs.iter().map(|pair| [pair.0, pair.1][side]).collect();
        taken.sort_unstable();
        taken.dedup();
        taken.iter().map(|&at| f32::from(analysis.terms[at as usize].weight)).sum::<f32>() / whole
    };
    let (matched_a, matched_b) = (matched(0, whole_a), matched(1, whole_b));
    let left: Vec<&Term> =
        [a, b].iter().zip(&alignment.left).flat_map(|(analysis, left)| left.iter().map(|&at| &analysis.terms[at as usize])).collect();
    // A word more in front of a word that both have often says which: deleted contacts, certified translation.
    let before_matched = [(a, 0), (b, 1)].into_iter().flat_map(|(analysis, side)| {
        let next_is_matched = move |&&at: &&u8| usize::from(at) + 1 < analysis.terms.len() && !alignment.alone[side].contains(&(at + 1));
        alignment.left[side].iter().filter(next_is_matched)
    });
    let before_matched = before_matched.count() as f32;
    let participles = [(a, 0), (b, 1)]
        .into_iter()
        .flat_map(|(analysis, side)| alignment.left[side].iter().map(|&at| analysis.stem(&analysis.terms[usize::from(at)])));
    let participles = participles.filter(|word| ENDINGS.iter().any(|ending| word.ends_with(ending))).count() as f32;
    let most_terms = a.terms.len().max(b.terms.len()).max(1) as f32;
    let (neighbours, inversions) = order(alignment);
    let marked = |mark: u32| {
        a.terms.iter().filter(|term| term.marks & mark != 0).count().min(b.terms.iter().filter(|term| term.marks & mark != 0).count())
            as f32
    };
    let ends = |first: bool| {
        let (i, j) = if first { (0, 0) } else { (a.terms.len().saturating_sub(1), b.terms.len().saturating_sub(1)) };
        f32::from(u8::from(alignment.pairs.iter().any(|pair| pair.0 as usize == i && pair.1 as usize == j)))
    };
    let asked = |analysis: &Analysis| analysis.questions & !(question::REQUEST | question::FRAGMENT);
    let common_pairs = whole_a.max(whole_b);
    [
        matched_a.min(matched_b),
        matched_a.max(matched_b),
        weight_of(Level::Equal) / common_pairs,
        weight_of(Level::Synonym) / common_pairs,
        weight_of(Level::Loose) / common_pairs,
        weight_of(Level::Derived) / common_pairs,
        count_of(Level::Equal),
        count_of(Level::Synonym),
        count_of(Level::Compound) / 2.0,
        count_of(Level::Slip),
        count_of(Level::Loose),
        count_of(Level::Derived),
        left.len() as f32,
        left.iter().map(|term| f32::from(term.weight)).sum(),
        left.iter().map(|term| f32::from(term.weight)).fold(0.0, f32::max),
        f32::from(alignment.light[0].min(alignment.light[1])),
        f32::from(alignment.light[0].max(alignment.light[1])),
        f32::from(alignment.relations[0] + alignment.relations[1]),
        a.terms.len().min(b.terms.len()) as f32,
        a.terms.len().min(b.terms.len()) as f32 / most_terms,
        a.bytes.min(b.bytes) as f32 / a.bytes.max(b.bytes).max(1) as f32,
        trigrams(&a.letters, &b.letters),
        neighbours,
        inversions,
        ends(true),
        ends(false),
        f32::from(u8::from(asked(a) == asked(b))),
        (asked(a) ^ asked(b)).count_ones() as f32,
        ((a.persons ^ b.persons) & !4).count_ones() as f32,
        f32::from(a.pasts.abs_diff(b.pasts)),
        f32::from(a.negations.max(b.negations)),
        marked(VALUE),
        marked(NAME),
        f32::from(u8::from(marked(HANGUL) > 0.0)),
        before_matched,
        participles,
        left.iter().filter(|term| term.flags & KIND != 0).count() as f32,
        left.iter().filter(|term| lexicon().has_sides(term.hash)).count() as f32,
        cosine.unwrap_or(f32::NAN),
    ]
}

/// Which share of neighbouring pairs are neighbours on the other side too, and which share of all pairs stands the other way round.
fn order(alignment: &Alignment) -> (f32, f32) {
    let pairs = &alignment.pairs;
    if pairs.len() < 2 {
        return (1.0, 0.0);
    }
    let neighbours = pairs.windows(2).filter(|two| two[1].1 == two[0].1 + 1).count() as f32 / (pairs.len() - 1) as f32;
    let mut turned = 0;
    for (at, one) in pairs.iter().enumerate() {
        turned += pairs[at + 1..].iter().filter(|other| other.1 < one.1).count();
    }
    // Seen from the other side the neighbours are the same pairs, but for words that stand for two.
    (neighbours, turned as f32 / (pairs.len() * (pairs.len() - 1) / 2) as f32)
}

/// Jaccard's index of the sets of three letters in a row.
fn trigrams(a: &str, b: &str) -> f32 {
    let set = |text: &str| {
        let mut found: Vec<u32> = text.as_bytes().windows(3).map(|three| u32::from_le_bytes([three[0], three[1], three[2], 0])).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let (ours, theirs) = (set(a), set(b));
    let (mut i, mut j, mut common) = (0, 0, 0);
    while i < ours.len() && j < theirs.len() {
        match ours[i].cmp(&theirs[j]) {
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
        }
    }
    let all = ours.len() + theirs.len() - common;
    if all == 0 { 1.0 } else { common as f32 / all as f32 }
}

/// The value that a feature has for identical texts; its own where that is not known.
pub fn best(at: usize, own: f32) -> f32 {
    match NAMES[at] {
        "matched_least" | "matched_most" | "equal_share" | "terms_ratio" | "bytes_ratio" | "trigrams" | "neighbours" | "first_matches"
        | "last_matches" | "question_equal" => 1.0,
        "cosine" if !own.is_nan() => 1.0,
        "equal_terms" | "terms_least" | "negations" | "values" | "names" | "hangul" | "cosine" => own,
        _ => 0.0,
    }
}
