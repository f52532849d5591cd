//! Byte pair encoding of one piece that is no token itself: how many tokens remain after all merges.
//!
//! The rule: of all neighbours that are a token when joined, join those with the lowest rank, the leftmost first, until none is left. Only the
//! number is asked for, so no tokens are kept: it is the number of bytes less the number of merges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocabulary::{NO_TOKEN, Vocabulary};
use super::work;

/// Up to this many bytes the best pair is searched for, which is quicker than keeping order; beyond, a heap keeps the work near linear.
const SMALL: usize = 64;

/// Memory for long pieces, kept from one to the next.
#[derive(Default)]
pub(super) struct Merger {
    parts: Vec<Part>,
    pairs: BinaryHeap<Reverse<u64>>,
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
    /// The number of tokens in a piece that is no token.
    #[inline]
    pub(super) fn count(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> usize {
        if piece.len() <= SMALL { small(vocabulary, piece) } else { self.long(vocabulary, piece) }
    }

    /// Cuts where no merge can cross, so that most long pieces are a series of small ones.
    fn long(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> usize {
        work::step(piece.len());
        piece
            .chunk_by(|&left, &right| vocabulary.joins(left, right))
            .map(|chunk| if chunk.len() <= SMALL { small(vocabulary, chunk) } else { self.large(vocabulary, chunk) })
            .sum()
    }

    fn large(&mut self, vocabulary: &Vocabulary, piece: &[u8]) -> usize {
        let len = u32::try_from(piece.len()).expect("a text has less than 4 GiB");
        self.parts.clear();
        self.parts.extend((0..len).map(|at| Part { end: at + 1, previous: at.wrapping_sub(1), rank: NO_TOKEN }));
        let mut pairs = std::mem::take(&mut self.pairs).into_vec();
        pairs.clear();
        for at in 0..len - 1 {
            let rank = vocabulary.rank(piece, at as usize, at as usize + 2);
            self.parts[at as usize].rank = rank;
            if rank != NO_TOKEN {
                pairs.push(pair(rank, at));
            }
        }
        self.pairs = pairs.into(); // takes linear time; one push for each would not

        let mut count = piece.len();
        while let Some(Reverse(lowest)) = self.pairs.pop() {
            work::step(1);
            let (rank, left) = ((lowest >> 32) as u32, lowest as u32);
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
                self.look(vocabulary, piece, left, self.parts[end as usize].end);
            } else {
                self.parts[left as usize].rank = NO_TOKEN;
            }
            if left > 0 {
                self.look(vocabulary, piece, self.parts[left as usize].previous, end);
            }
        }
        count
    }

    /// Looks up the pair that starts with the part at `start` and ends at `end`.
    fn look(&mut self, vocabulary: &Vocabulary, piece: &[u8], start: u32, end: u32) {
        let rank = vocabulary.rank(piece, start as usize, end as usize);
        self.parts[start as usize].rank = rank;
        if rank != NO_TOKEN {
            self.pairs.push(pair(rank, start));
        }
    }
}

/// Orders pairs by rank, then from left to right.
fn pair(rank: u32, at: u32) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | u64::from(at))
}

/// The same by searching for the lowest rank anew after each merge, all on the stack.
fn small(vocabulary: &Vocabulary, piece: &[u8]) -> usize {
    // Part number i starts at starts[i]; ranks[i] is the rank of it joined with the next part.
    let mut starts = [0_u8; SMALL + 2];
    let mut ranks = [NO_TOKEN; SMALL + 1];
    let mut count = piece.len();
    for (at, start) in starts[..=count].iter_mut().enumerate() {
        *start = at as u8;
    }
    for (at, rank) in ranks[..count - 1].iter_mut().enumerate() {
        *rank = vocabulary.rank(piece, at, at + 2);
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
        ranks.copy_within(left + 2..count, left + 1);
        count -= 1;
        ranks[count] = NO_TOKEN;
        let look = |from: usize| vocabulary.rank(piece, starts[from].into(), starts[from + 2].into());
        ranks[left] = if left + 2 <= count { look(left) } else { NO_TOKEN };
        if left > 0 {
            ranks[left - 1] = look(left - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vocabulary::VOCABULARIES;
    use super::*;

    proptest! {
        #[test]
        fn searching_and_the_heap_agree(piece in proptest::collection::vec(prop_oneof![Just(b'-'), Just(b' '), b'a'..=b'e', any::<u8>()], 1..=SMALL)) {
            for vocabulary in &VOCABULARIES {
                prop_assert_eq!(small(vocabulary, &piece), Merger::default().large(vocabulary, &piece));
            }
        }

        #[test]
        fn cutting_where_nothing_joins_changes_nothing(piece in proptest::collection::vec(any::<u8>(), SMALL..400)) {
            for vocabulary in &VOCABULARIES {
                let mut merger = Merger::default();
                prop_assert_eq!(merger.long(vocabulary, &piece), merger.large(vocabulary, &piece));
            }
        }
    }
}
