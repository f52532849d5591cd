//! Whatever is compared: nothing panics, the verdict is symmetric, identical texts score 1, and the index agrees with `compare`.

use _core::verify::index::{PromptIndex, prepare};
use _core::verify::{MOST_BYTES, analyse, compare};
use proptest::prelude::*;

/// Pieces that prompts, and those who mean harm, are made of.
fn piece() -> impl Strategy<Value = String> {
    let words = "how do i cancel my order not 5k $ % 3pm no. 14 turn off the on from Seoul to Busan 2024-03-05 15:00 a.m. half past a_b x@y.z \
                 https://a/b \"quoted' ` 200만 원 오후 3시 반 안 않았어요 은행에서 한국은행으로 이백만 ① é ß ⅷ \u{200b} \u{1112}\u{1161} 👍🏽 ﷺ - -- ... ?!";
    prop_oneof![
        8 => proptest::sample::select(words.split(' ').map(str::to_owned).collect::<Vec<_>>()),
        1 => ".{0,6}",
        1 => "[0-9.,:/-]{1,9}",
        1 => "[가-힣]{1,6}",
    ]
}

fn prompt() -> impl Strategy<Value = String> {
    proptest::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_are_symmetric_and_never_panic(a in prompt(), b in prompt(), cosine in proptest::option::of(-1.0f32..=1.0)) {
        let (one, other) = (analyse(&a), analyse(&b));
        let (here, there) = (compare(&one, &other, cosine), compare(&other, &one, cosine));
        prop_assert!((0.0..=1.0).contains(&here.score));
        prop_assert_eq!((here.score, here.veto), (there.score, there.veto), "{:?} {:?}", a, b);
        prop_assert_eq!(here.score == 0.0, !here.veto.is_empty());
        prop_assert_eq!(compare(&one, &one, cosine).score, 1.0);
        prop_assert_eq!(compare(&analyse(&a.to_ascii_uppercase()), &one, None).score, 1.0);
    }

    #[test]
    fn the_index_says_what_compare_says(stored in proptest::collection::vec(prompt(), 1..8), asked in prompt()) {
        let mut index = PromptIndex::new(100);
        for (key, text) in stored.iter().enumerate() {
            index.add("p", key as u64, prepare(text));
        }
        let found = index.candidates("p", &prepare(&asked), 32);
        prop_assert_eq!(found.len(), stored.len());
        prop_assert!(found.windows(2).all(|two| two[0].score >= two[1].score));
        for candidate in found {
            let verdict = compare(&analyse(&asked), &analyse(&stored[candidate.key as usize]), None);
            prop_assert_eq!((candidate.score, candidate.veto), (verdict.score, verdict.veto));
        }
    }
}

#[test]
fn long_texts_are_the_same_only_if_they_are_identical() {
    let long = "please explain this paragraph ".repeat(MOST_BYTES / 10);
    let other = format!("{long} again");
    assert_eq!(compare(&analyse(&long), &analyse(&long.to_uppercase()), None).score, 1.0);
    assert_eq!(compare(&analyse(&long), &analyse(&other), None).veto, "length");
    assert_eq!(compare(&analyse("short"), &analyse(&other), None).veto, "length");
}

#[test]
fn hostile_texts_take_time_in_proportion() {
    // A hundred kilobytes of anything is folded and hashed once; were any of it quadratic, this would not end.
    for piece in ["a", "1", "가", "\"", "'", "-", "no ", "a'", "1,", "安", "x_"] {
        let text = piece.repeat(100_000 / piece.len());
        let analysis = analyse(&text);
        assert_eq!(compare(&analysis, &analysis, None).score, 1.0);
    }
}

#[test]
fn the_oldest_entry_makes_room_and_partitions_are_apart() {
    let mut index = PromptIndex::new(2);
    assert_eq!(index.add("a", 1, prepare("one question")), None);
    assert_eq!(index.add("b", 2, prepare("one question")), None);
    assert_eq!(index.add("a", 3, prepare("another thing")), Some(1));
    assert_eq!(index.candidates("a", &prepare("one question"), 32).iter().map(|found| found.key).collect::<Vec<_>>(), [3]);
    assert_eq!(index.add("a", 2, prepare("one question")), None);
    assert_eq!((index.len(), index.clear("b"), index.clear("a"), index.len()), (2, 0, 2, 0));
}
