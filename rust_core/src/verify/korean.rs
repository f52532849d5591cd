//! Korean words without their particles and endings: a compact rule set over letters (jamo), no dictionary of words.
//!
//! Stripping is greedy and the same for every text, so a stem need not be a word: it only has to be the same for the same word.

/// What a particle says of its noun: `FROM` 에서, `TO` 로, `SUBJECT` 가, `OBJECT` 를.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    None,
    From,
    To,
    /// 에게, 한테: somebody who gets something.
    Recipient,
    /// 은, 는, 도: what it is about, mostly a subject.
    Topic,
    Subject,
    Object,
}

/// Longest first within what they end on; those that say a role with it.
const PARTICLES: &[(&str, Role)] = &[
    ("으로부터", Role::From),
    ("로부터", Role::From),
    ("에게서", Role::From),
    ("한테서", Role::From),
    ("에서는", Role::From),
    ("에서의", Role::From),
    ("에서", Role::From),
    ("부터", Role::From),
    ("에게로", Role::Recipient),
    ("에게", Role::Recipient),
    ("한테", Role::Recipient),
    ("까지", Role::To),
    ("으로는", Role::To),
    ("으로의", Role::To),
    ("으로", Role::To),
    ("로는", Role::To),
    ("로의", Role::To),
    ("로", Role::To),
    ("께서", Role::Subject),
    ("께", Role::Recipient),
    ("에는", Role::None),
    ("에도", Role::None),
    ("에만", Role::None),
    ("에의", Role::None),
    ("이랑", Role::None),
    ("랑", Role::None),
    ("이나", Role::None),
    ("과의", Role::None),
    ("와의", Role::None),
    ("과", Role::None),
    ("와", Role::None),
    ("의", Role::None),
    ("에", Role::None),
    ("들은", Role::Topic),
    ("들이", Role::Subject),
    ("들을", Role::Object),
    ("들의", Role::None),
    ("들", Role::None),
    ("은", Role::Topic),
    ("는", Role::Topic),
    ("이", Role::Subject),
    ("가", Role::Subject),
    ("을", Role::Object),
    ("를", Role::Object),
    ("도", Role::None),
    ("보다", Role::From),
    ("처럼", Role::None),
    ("마다", Role::None),
    ("밖에", Role::None),
    ("씩", Role::None),
    ("쯤", Role::None),
    ("자로", Role::None),
    ("자에", Role::None),
    ("짜리", Role::None),
    ("간", Role::None),
    ("라는", Role::None),
    ("이라는", Role::None),
    ("인", Role::None),
    ("이고", Role::None),
    ("인데", Role::None),
];

/// Endings of verbs and of nouns with 이다, without their first consonant where it is the syllable's last (ㄴ데, ㅂ니다).
const ENDINGS: &[&str] = &[
    "ㅂ니다",
    "습니다",
    "ㅂ니까",
    "습니까",
    "나요",
    "는가요",
    "ㄴ가요",
    "은가요",
    "ㄹ까요",
    "을까요",
    "ㄹ까",
    "을까",
    "는지요",
    "ㄴ지",
    "는지",
    "은지",
    "ㄹ지",
    "을지",
    "네요",
    "지요",
    "죠",
    "세요",
    "으세요",
    "시나요",
    "시겠어요",
    "어요",
    "아요",
    "예요",
    "에요",
    "이에요",
    "인가요",
    "인지",
    "입니까",
    "입니다",
    "이야",
    "려면",
    "으려면",
    "려고",
    "으려고",
    "려는데",
    "면",
    "으면",
    "고",
    "는데",
    "ㄴ데",
    "은데",
    "어서",
    "아서",
    "니까",
    "으니까",
    "지만",
    "거나",
    "도록",
    "게",
    "기",
    "는",
    "ㄴ",
    "은",
    "ㄹ",
    "을",
    "던",
    "ㅁ",
    "음",
    "어야",
    "아야",
    "어도",
    "아도",
    "었",
    "았",
    "ㅆ",
    "겠",
    "으시",
    "자마자",
    "고자",
    "ㄹ래",
    "ㄹ게",
    "ㄹ게요",
    "ㄹ래요",
    "나",
    "냐",
    "니",
    "라고",
    "다고",
    "ㄴ다",
    "는다",
    "다",
    "지",
    "며",
    "면서",
    "어",
    "아",
    "ㄹ때",
    "대요",
    "래요",
    "ㄹ수",
    "요",
    "거든요",
    "군요",
    "주",
    "보",
    "서",
    "ㅑ",
    "시",
    "자",
    "도",
    "길",
    "ㄹ지",
    "더니",
    "더라",
];

/// Syllables that turn a noun into a verb.
const VERBALS: &[&str] = &["하", "되", "시키", "드리", "해", "돼", "시켜", "했", "됐", "당하"];

/// Whether a text is nothing but particles (or nothing at all).
pub fn is_particle(text: &str) -> bool {
    text.is_empty()
        || PARTICLES.iter().any(|(particle, _)| text.strip_prefix(particle).is_some_and(is_particle))
        || [
            "이상",
            "이하",
            "미만",
            "초과",
            "만",
            "정도",
            "동안",
            "전",
            "후",
            "내",
            "째",
            "뒤",
            "당",
            "분",
            "어치",
            "이며",
            "치",
            "이면",
            "인가요",
            "이에요",
            "예요",
            "입니다",
            "입니까",
            "야",
            "이야",
            "을",
            "짜",
            "연속",
            "자",
        ]
        .iter()
        .any(|word| text.strip_prefix(word).is_some_and(is_particle))
}

/// The letters of the word's stem, and its role. `known` stops the stripping at a word of the lexicon, given in letters.
pub fn stem(word: &str, known: impl Fn(&str) -> bool) -> (String, Role) {
    let mut role = Role::None;
    let mut noun = word;
    for _ in 0..3 {
        if known(&text_of(&letters(noun))) {
            return (text_of(&letters(noun)), role);
        }
        let Some((rest, found)) = particle_off(noun) else { break };
        (noun, role) = (rest, if role == Role::None { found } else { role });
    }
    if known(&text_of(&letters(noun))) {
        return (text_of(&letters(noun)), role);
    }
    let mut stem: Vec<char> = letters(noun);
    for _ in 0..5 {
        let as_noun = noun_of(&stem);
        if known(&text_of(&stem)) {
            return (text_of(&stem), role);
        }
        if let Some(found) = as_noun.filter(|noun| known(&text_of(noun))) {
            return (text_of(found), role);
        }
        // 돼요 is 되 and 요, not 도 and 에요.
        let whole = |ending: &[char]| !(ending[0] == 'ㅐ' && stem[stem.len() - ending.len() - 1] == 'ㅗ');
        let fits = |ending: &&Vec<char>| stem.len() >= ending.len() + 2 && stem.ends_with(ending) && whole(ending);
        let length = endings().iter().filter(fits).map(Vec::len).max();
        let Some(length) = length else { break };
        stem.truncate(stem.len() - length);
    }
    if let Some(found) = noun_of(&stem) {
        return (text_of(found), role);
    }
    (text_of(&stem), role)
}

fn text_of(letters: &[char]) -> String {
    letters.iter().collect()
}

fn particle_off(word: &str) -> Option<(&str, Role)> {
    PARTICLES
        .iter()
        .filter_map(|&(particle, role)| word.strip_suffix(particle).filter(|rest| !rest.is_empty()).map(|rest| (rest, role)))
        .min_by_key(|(rest, _)| rest.len())
}

/// The noun in front of 하, 되 and so on.
fn noun_of(stem: &[char]) -> Option<&[char]> {
    static VERBAL_LETTERS: std::sync::OnceLock<Vec<Vec<char>>> = std::sync::OnceLock::new();
    let verbals = VERBAL_LETTERS.get_or_init(|| VERBALS.iter().map(|verbal| letters(verbal)).collect());
    verbals.iter().find_map(|verbal| stem.strip_suffix(verbal.as_slice()).filter(|noun| noun.len() > 2))
}

fn endings() -> &'static [Vec<char>] {
    static LETTERS: std::sync::OnceLock<Vec<Vec<char>>> = std::sync::OnceLock::new();
    LETTERS.get_or_init(|| ENDINGS.iter().map(|ending| letters(ending)).collect())
}

const FIRSTS: &str = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ";
/// ㅔ and ㅐ, ㅖ and ㅒ, ㅚ, ㅙ and ㅞ are written for each other.
const VOWELS: [&str; 21] = [
    "ㅏ", "ㅐ", "ㅑ", "ㅐ", "ㅓ", "ㅐ", "ㅣㅓ", "ㅐ", "ㅗ", "ㅗㅏ", "ㅗㅐ", "ㅗㅐ", "ㅛ", "ㅜ", "ㅜㅓ", "ㅗㅐ", "ㅜㅣ", "ㅠ", "ㅡ", "ㅡㅣ",
    "ㅣ",
];
const LASTS: [&str; 28] = [
    "", "ㄱ", "ㄲ", "ㄱㅅ", "ㄴ", "ㄴㅈ", "ㄴㅎ", "ㄷ", "ㄹ", "ㄹㄱ", "ㄹㅁ", "ㄹㅂ", "ㄹㅅ", "ㄹㅌ", "ㄹㅍ", "ㄹㅎ", "ㅁ", "ㅂ", "ㅂㅅ",
    "ㅅ", "ㅅ", "ㅇ", "ㅈ", "ㅊ", "ㅋ", "ㅌ", "ㅍ", "ㅎ",
];

/// Letters one by one, ㅘ as ㅗㅏ, so that contracted endings (와 from 오아) come apart; silent ㅇ at a syllable's start is left out,
/// and ㅆ at its end is ㅅ, as it is often typed.
pub fn letters(text: &str) -> Vec<char> {
    let mut found = Vec::with_capacity(text.len());
    for c in text.chars() {
        if !('가'..='힣').contains(&c) {
            found.push(if c == 'ㅆ' { 'ㅅ' } else { c });
            continue;
        }
        let code = (c as u32 - 0xac00) as usize;
        let first = FIRSTS.chars().nth(code / 588).unwrap_or(c);
        if first != 'ㅇ' {
            found.push(first);
        }
        found.extend(VOWELS[code % 588 / 28].chars());
        found.extend(LASTS[code % 28].chars());
    }
    found
}

/// Words behind a number that say on which side of it: 이상, 미만, 전, 후.
pub fn bound(text: &str) -> Option<&'static str> {
    ["이상", "이하", "미만", "초과", "이내", "이전", "이후", "전", "후", "만", "당", "부터", "까지"]
        .into_iter()
        .find(|bound| text.starts_with(bound))
}

/// Laughter and tears: ㅋㅋ, ㅠㅠ.
pub fn is_mood(text: &str) -> bool {
    text.chars().all(|c| matches!(c, 'ㄱ'..='ㆎ'))
}

/// 안, 못, 않-, 없-, 말-, 금지 and their like: whether a word says no.
pub fn negates(word: &str) -> bool {
    const NOT_AN: [&str; 12] = ["안내", "안전", "안녕", "안에", "안심", "안정", "안경", "안과", "안부", "안건", "안드", "안쪽"];
    let prefixed = word.starts_with('안') && word.chars().count() > 2 && !NOT_AN.iter().any(|safe| word.starts_with(safe));
    matches!(word, "안" | "못" | "말고" | "마" | "마세요" | "말아" | "아닌" | "아니고" | "아니라")
        || prefixed
        || word.contains('않')
        || word.contains('없')
        || word.starts_with("못하")
        || word.starts_with("못한")
        || word.starts_with("못했")
        || word.ends_with("못해")
        || word.starts_with("말아")
        || word.starts_with("마세")
        || word.starts_with("아니")
        || word.contains("금지")
        || word.contains("불가")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn particles_and_endings_come_off() {
        let known = |word: &str| ["이자", "계좌", "해지", "이체"].iter().any(|known| text_of(&letters(known)) == word);
        for (word, expected, role) in [
            ("계좌에서", "계좌", Role::From),
            ("카드로", "카드", Role::To),
            ("이자가", "이자", Role::Subject),
            ("해지하려면", "해지", Role::None),
            ("이체했는데", "이체", Role::None),
            ("해지해주세요", "해지", Role::None),
            ("카드를", "카드", Role::Object),
        ] {
            assert_eq!(stem(word, known), (text_of(&letters(expected)), role), "{word}");
        }
        for same in [["보내면", "보낼"], ["바꾸면", "바꿀"], ["나왔는데", "나오는데"], ["받나요", "받을까요"], ["알려줘", "알려주세요"]]
        {
            assert_eq!(stem(same[0], known).0, stem(same[1], known).0, "{same:?}");
        }
    }
}
