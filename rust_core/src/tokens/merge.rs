//! Byte pair encoding of one piece that is no token itself: how many tokens remain after all merges.
//!
//! The rule: of all neighbours that are a token when joined, join those with the lowest rank, the leftmost first, until none is left. Only the
//! number is asked for, so no tokens are kept: it is the number of bytes less the number of merges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::table::NO_TOKEN;
use super::vocabulary::Vocabulary;
use super::work;

/// Up to this many bytes the best pair is searched for, which is quicker than keeping order; beyond, order keeps the work near linear.
const SMALL: usize = 64;

/// The number of tokens in a piece of the text that is no token.
#[inline]
pub(super) fn count(vocabulary: &Vocabulary, text: &[u8], piece: Range<usize>, merger: &mut Merger) -> usize {
    if piece.len() <= SMALL { small(vocabulary, text, piece) } else { long(vocabulary, &text[piece], merger) }
}

/// Cuts where no merge can cross, so that most long pieces are a series of small ones.
fn long(vocabulary: &Vocabulary, piece: &[u8], merger: &mut Merger) -> usize {
    work::step(piece.len());
    piece
        .chunk_by(|&left, &right| vocabulary.joins(left, right))
        .map(|chunk| if chunk.len() <= SMALL { small(vocabulary, chunk, 0..chunk.len()) } else { merger.count(vocabulary, chunk) })
        .sum()
}

/// Searches for the lowest rank anew after each merge, all on the stack.
fn small(vocabulary: &Vocabulary, text: &[u8], piece: Range<usize>) -> usize {
    // Part number i starts at starts[i]; ranks[i] is the rank of it joined with the next part. What is merged is closed up.
    let mut starts = [0_u8; SMALL + 2];
    let mut ranks = [NO_TOKEN; SMALL + 1];
    let (from, mut count) = (piece.start, piece.len());
    for (start, byte) in starts[..=count].iter_mut().zip(0..) {
        *start = byte;
    }
    for (rank, pair) in ranks.iter_mut().zip(text[piece].windows(2)) {
        *rank = vocabulary.pair(pair[0], pair[1]);
    }
    loop {
        work::step(count);
        let (mut lowest, mut left) = (NO_TOKEN, 0);
        for (at, &rank) in ranks[..count].iter().enumerate() {
            if rank < lowest {
                (lowest, left) = (rank, at);
            }
        }
        if lowest == NO_TOKEN {
            return count;
        }
        starts.copy_within(left + 2..=count, left + 1);
        ranks.copy_within(left + 2..=count, left + 1);
        count -= 1;
        let look = |part: usize| vocabulary.rank(text, from + usize::from(starts[part]), from + usize::from(starts[part + 2]));
        ranks[left] = if left + 2 <= count { look(left) } else { NO_TOKEN };
        if left > 0 {
            ranks[left - 1] = look(left - 1);
        }
    }
}

/// Counts in long pieces; keeps its memory from one to the next.
///
/// Pairs wait in order of rank and place, as one number each, in batches: those of the present batch are sorted, those that merges add to it
/// are in a heap, and those beyond it wait unsorted for the next. The long pieces of real life are runs of one character, where each batch
/// doubles the length of the parts and nothing is added to it: so hardly anything goes through the heap.
#[derive(Default)]
pub(super) struct Merger {
    parts: Vec<Part>,
    sorted: Vec<u64>,
    added: BinaryHeap<Reverse<u64>>,
    later: Vec<u64>,
    /// The last pair of the present batch: none in `sorted` or `added` is beyond, all in `later` are.
    last: u64,
}

/// A part of the piece, at the place of its first byte.
#[derive(Clone, Copy)]
struct Part {
    end: u32,
    previous: u32,
    /// The rank of this part joined with the next, or `NO_TOKEN`.
    rank: u32,
}

impl Merger {
    fn count(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> usize {
        let len = u32::try_from(piece.len()).expect("a text has less than 4 GiB");
        self.last = 0;
        self.parts.clear();
        self.parts.extend((0..len).map(|at| Part { end: at + 1, previous: at.wrapping_sub(1), rank: NO_TOKEN }));
        for (at, bytes) in piece.windows(2).enumerate() {
            self.add(at as u32, vocabulary.pair(bytes[0], bytes[1]));
        }
        let mut count = piece.len();
        while let Some((rank, left)) = self.next() {
            work::step(1);
            if self.parts[left as usize].rank != rank {
                continue; // one of the two has been merged since
            }
            count -= 1;
            let right = self.parts[left as usize].end;
            let end = self.parts[right as usize].end;
            self.parts[right as usize].rank = NO_TOKEN;
            self.parts[left as usize].end = end;
            if end < len {
                self.parts[end as usize].previous = left;
                let next_end = self.parts[end as usize].end;
                self.add(left, vocabulary.rank(piece, left as usize, next_end as usize));
            } else {
                self.parts[left as usize].rank = NO_TOKEN;
            }
            if left > 0 {
                let before = self.parts[left as usize].previous;
                self.add(before, vocabulary.rank(piece, before as usize, end as usize));
            }
        }
        count
    }

    /// Notes the rank of the pair that starts at `at`.
    #[inline]
    fn add(&mut self, at: u32, rank: u32) {
        self.parts[at as usize].rank = rank;
        if rank != NO_TOKEN {
            let pair = u64::from(rank) << 32 | u64::from(at);
            if pair > self.last { self.later.push(pair) } else { self.added.push(Reverse(pair)) }
        }
    }

    /// Takes the waiting pair of the lowest rank, the leftmost of them: its rank and its place.
    #[inline]
    fn next(&mut self) -> Option<(u32, u32)> {
        if self.sorted.is_empty() && self.added.is_empty() {
            std::mem::swap(&mut self.sorted, &mut self.later);
            self.sorted.retain(|&pair| self.parts[pair as u32 as usize].rank == (pair >> 32) as u32);
            self.sorted.sort_unstable_by_key(|&pair| Reverse(pair)); // the lowest at the end, where it is taken from
            self.last = *self.sorted.first()?;
        }
        let pair = match (self.sorted.last(), self.added.peek()) {
            (sorted, Some(&Reverse(added))) if sorted.is_none_or(|&sorted| added < sorted) => {
                self.added.pop();
                added
            }
            _ => self.sorted.pop()?,
        };
        Some(((pair >> 32) as u32, pair as u32))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vocabulary::VOCABULARIES;
    use super::*;

    proptest! {
        #[test]
        fn searching_and_keeping_order_agree(piece in proptest::collection::vec(prop_oneof![Just(b'-'), Just(b' '), b'a'..=b'e', any::<u8>()], 1..=SMALL)) {
            for vocabulary in &VOCABULARIES {
                prop_assert_eq!(small(vocabulary, &piece, 0..piece.len()), Merger::default().count(vocabulary, &piece));
            }
        }

        #[test]
        fn cutting_where_nothing_joins_changes_nothing(piece in proptest::collection::vec(any::<u8>(), SMALL..400)) {
            for vocabulary in &VOCABULARIES {
                let mut merger = Merger::default();
                prop_assert_eq!(long(vocabulary, &piece, &mut merger), merger.count(vocabulary, &piece));
            }
        }
    }
}
