//! Which words of one prompt stand for which of the other, and which stand alone.

use super::analysis::{Analysis, EXACT, HANGUL, KNOWN, NAME, Term, VALUE};
use super::english;
use super::lexicon::{FILLER, KIND, LIGHT, LOOSE, MODIFIER, PARTICLE, RELATION, lexicon, short_hash};

/// How sure it is that two words mean the same, surest first.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Level {
    Equal,
    /// One of a group written by hand.
    Synonym,
    /// Written apart or together: cut off, cutoff.
    Compound,
    /// A slip of the pen.
    Slip,
    /// Synonyms of WordNet, in some sense of both.
    Loose,
    /// A long common beginning: deliver, deliverable.
    Derived,
}

pub const LEVELS: [Level; 6] = [Level::Equal, Level::Synonym, Level::Compound, Level::Slip, Level::Loose, Level::Derived];

#[derive(Debug, Default)]
pub struct Alignment {
    /// (term of the one, term of the other, how sure), by the first.
    pub pairs: Vec<(u8, u8, Level)>,
    /// All words without a partner.
    pub alone: [Vec<u8>; 2],
    /// Content words among them.
    pub left: [Vec<u8>; 2],
    /// Words that say little, and relations, without a partner.
    pub light: [u8; 2],
    pub relations: [u8; 2],
}

pub fn align(a: &Analysis, b: &Analysis) -> Alignment {
    let mut taken = [vec![false; a.terms.len()], vec![false; b.terms.len()]];
    let mut alignment = Alignment::default();
    for level in LEVELS {
        for (i, ours) in a.terms.iter().enumerate() {
            if taken[0][i] {
                continue;
            }
            if level == Level::Compound {
                compound(a, b, i, &mut taken, &mut alignment, false);
                continue;
            }
            // The partner that stands most alike, where a word is there more than once.
            let place = i * b.terms.len() / a.terms.len().max(1);
            let partner =
                (0..b.terms.len()).filter(|&j| !taken[1][j] && matches(a, b, ours, &b.terms[j], level)).min_by_key(|j| j.abs_diff(place));
            if let Some(j) = partner {
                (taken[0][i], taken[1][j]) = (true, true);
                alignment.pairs.push((i as u8, j as u8, level));
            }
        }
        if level == Level::Compound {
            for j in 0..b.terms.len() {
                if !taken[1][j] {
                    taken.swap(0, 1);
                    compound(b, a, j, &mut taken, &mut alignment, true);
                    taken.swap(0, 1);
                }
            }
        }
    }
    alignment.pairs.sort_by_key(|pair| (pair.0, pair.1));
    for (side, (own, other)) in [(a, b), (b, a)].into_iter().enumerate() {
        for (at, term) in own.terms.iter().enumerate() {
            if taken[side][at] || term.marks & VALUE != 0 {
                continue;
            }
            alignment.alone[side].push(at as u8);
            if term.flags & RELATION != 0 {
                alignment.relations[side] += 1;
            } else if other.terms.iter().any(|theirs| theirs.hash == term.hash || strict(term, theirs) && !apart(term, theirs)) {
                // Said once more than on the other side.
            } else if term.flags & (LIGHT | MODIFIER) == LIGHT && term.marks & NAME == 0 {
                alignment.light[side] += 1;
            } else {
                alignment.left[side].push(at as u8);
            }
        }
    }
    alignment
}

fn matches(a: &Analysis, b: &Analysis, ours: &Term, theirs: &Term, level: Level) -> bool {
    if level == Level::Equal {
        return ours.hash == theirs.hash && (ours.marks ^ theirs.marks) & VALUE == 0;
    }
    if (ours.marks | theirs.marks) & (VALUE | EXACT) != 0 {
        return false;
    }
    let found = match level {
        Level::Synonym => strict(ours, theirs),
        Level::Loose => share_group(ours, theirs, true) && (ours.flags | theirs.flags) & KIND == 0,
        Level::Slip => slip(a, b, ours, theirs),
        Level::Derived => derived(a, b, ours, theirs),
        Level::Equal | Level::Compound => false,
    };
    found && !apart(ours, theirs)
}

pub fn apart(ours: &Term, theirs: &Term) -> bool {
    lexicon().are_apart((ours.hash, ours.groups), (theirs.hash, theirs.groups))
}

fn share_group(ours: &Term, theirs: &Term, loose: bool) -> bool {
    let (ours, theirs) = (lexicon().groups(ours.groups), lexicon().groups(theirs.groups));
    ours.iter().any(|group| (*group >= LOOSE) == loose && theirs.contains(group))
}

fn strict(ours: &Term, theirs: &Term) -> bool {
    share_group(ours, theirs, false)
}

/// Exactly one of the two is a known word: two known words are two words. Of two unknown ones, names among them, only a letter too many
/// or too few, or two that changed places, in a long word is a slip: Maria and Mario are two.
fn slip(a: &Analysis, b: &Analysis, ours: &Term, theirs: &Term) -> bool {
    let marks = ours.marks | theirs.marks;
    if marks & HANGUL != 0 || ours.marks & theirs.marks & KNOWN != 0 {
        return false;
    }
    let (ours, theirs) = (a.stem(ours), b.stem(theirs));
    if marks & NAME != 0 || marks & KNOWN == 0 {
        return english::is_same_letters(ours, theirs);
    }
    english::is_slip(ours, theirs) || english::is_slip(&english::stem(ours), &english::stem(theirs))
}

fn derived(a: &Analysis, b: &Analysis, ours: &Term, theirs: &Term) -> bool {
    if (ours.marks | theirs.marks) & NAME != 0 || (ours.flags | theirs.flags) & KIND != 0 || (ours.marks ^ theirs.marks) & HANGUL != 0 {
        return false;
    }
    let korean = ours.marks & HANGUL != 0;
    let (ours, theirs) = (a.stem(ours), b.stem(theirs));
    if korean {
        // An ending that the rules do not know: of one stem the beginning of the other.
        let (short, long) = if ours.len() < theirs.len() { (ours, theirs) } else { (theirs, ours) };
        return short.len() >= 12 && (6..=12).contains(&(long.len() - short.len())) && long.starts_with(short);
    }
    let common = ours.bytes().zip(theirs.bytes()).take_while(|(x, y)| x == y).count();
    let (short, long) = (ours.len().min(theirs.len()), ours.len().max(theirs.len()));
    common >= 5 && common + 1 >= short && long - common <= 6 && !ours.contains(' ') && !theirs.contains(' ')
}

/// Two neighbours of `b` that together make a word of `a`; or all words of a phrase of `a`, wherever they stand.
fn compound(a: &Analysis, b: &Analysis, i: usize, taken: &mut [Vec<bool>; 2], alignment: &mut Alignment, swapped: bool) {
    let whole = a.stem(&a.terms[i]);
    if whole.contains(' ') {
        let parts: Vec<Option<usize>> = whole.split(' ').filter(|part| says(part)).map(|part| standing_for(b, part, &taken[1])).collect();
        if !parts.is_empty() && parts.iter().all(Option::is_some) {
            taken[0][i] = true;
            for part in parts.into_iter().flatten() {
                taken[1][part] = true;
                let pair = if swapped { (part as u8, i as u8) } else { (i as u8, part as u8) };
                alignment.pairs.push((pair.0, pair.1, Level::Compound));
            }
            return;
        }
    }
    if whole.len() < 4 || a.terms[i].marks & (VALUE | EXACT) != 0 {
        return;
    }
    if a.terms[i].marks & HANGUL != 0 {
        return korean_compound(a, b, i, taken, alignment, swapped);
    }
    for j in 0..b.terms.len().saturating_sub(1) {
        if taken[1][j] || taken[1][j + 1] || b.terms[j].marks & VALUE != 0 {
            continue;
        }
        let (first, second) = (b.stem(&b.terms[j]), b.stem(&b.terms[j + 1]));
        let joined = whole.strip_prefix(first).is_some_and(|rest| rest == second);
        let spaced = whole.split_once(' ').is_some_and(|(x, y)| x == first && y == second);
        if joined || spaced {
            taken[0][i] = true;
            for part in [j, j + 1] {
                taken[1][part] = true;
                let pair = if swapped { (part as u8, i as u8) } else { (i as u8, part as u8) };
                alignment.pairs.push((pair.0, pair.1, Level::Compound));
            }
            return;
        }
    }
}

/// Korean compounds are written with spaces or without; what was taken for a particle or an ending may be left over.
fn korean_compound(a: &Analysis, b: &Analysis, i: usize, taken: &mut [Vec<bool>; 2], alignment: &mut Alignment, swapped: bool) {
    const LEAST_BYTES: usize = 12;
    const MOST_LEFT_BYTES: usize = 9;
    let whole = a.stem(&a.terms[i]);
    for first in 0..b.terms.len() {
        let mut joined = String::new();
        let free = |at: &usize| !taken[1][*at] && b.terms[*at].marks & (VALUE | EXACT) == 0;
        for last in (first..b.terms.len().min(first + 5)).take_while(free) {
            joined.push_str(b.stem(&b.terms[last]));
            let (short, long) = if joined.len() < whole.len() { (joined.as_str(), whole) } else { (whole, joined.as_str()) };
            if short.len() < LEAST_BYTES || last == first || !long.starts_with(short) || long.len() - short.len() > MOST_LEFT_BYTES {
                continue;
            }
            taken[0][i] = true;
            taken[1][first..=last].fill(true);
            for part in first..=last {
                let pair = if swapped { (part as u8, i as u8) } else { (i as u8, part as u8) };
                alignment.pairs.push((pair.0, pair.1, Level::Compound));
            }
            return;
        }
    }
}

/// Whether a word of a phrase has to be found: particles of verbs have not.
fn says(word: &str) -> bool {
    lexicon().entry(short_hash(&english::stem(word))).is_none_or(|entry| entry.flags & (PARTICLE | FILLER | RELATION) == 0)
}

fn standing_for(b: &Analysis, part: &str, taken: &[bool]) -> Option<usize> {
    let stem = english::stem(part);
    let hash = short_hash(&stem);
    (0..b.terms.len()).find(|&j| {
        !taken[j]
            && (b.terms[j].hash == hash
                || b.terms[j].marks & (KNOWN | NAME | VALUE | EXACT) == 0 && english::is_slip(&stem, b.stem(&b.terms[j])))
    })
}
