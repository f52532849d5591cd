//! English words without their inflection, and how far two spellings are apart.

use std::collections::HashMap;
use std::sync::OnceLock;

/// The word without plural, -ed and -ing and without a final e: equal for the forms of a word, not itself a word.
pub fn stem(word: &str) -> String {
    let word = word.strip_suffix("'s").or_else(|| word.strip_suffix("s'")).unwrap_or(word);
    let mut stem = british(word);
    if !stem.is_ascii() || stem.len() < 4 {
        return stem;
    }
    if let Some(base) = irregular(&stem) {
        if base == stem {
            return stem;
        }
        stem = base.to_owned();
    } else if stem.ends_with("sses") || stem.ends_with("ches") || stem.ends_with("shes") || stem.ends_with("xes") {
        stem.truncate(stem.len() - 2);
    } else if stem.ends_with("ies") && stem.len() > 4 {
        stem.replace_range(stem.len() - 3.., "y");
    } else if stem.ends_with('s') && !stem.ends_with("ss") && !stem.ends_with("us") && !stem.ends_with("is") {
        stem.pop();
    }
    for ending in ["ing", "ed"] {
        let Some(rest) = stem.strip_suffix(ending) else { continue };
        if rest.len() >= 2 && rest.bytes().any(is_vowel) && !(ending == "ed" && rest.ends_with('e')) {
            stem = rest.to_owned();
            let bytes = stem.as_bytes();
            let doubled = bytes.len() > 3
                && bytes[bytes.len() - 1] == bytes[bytes.len() - 2]
                && !matches!(bytes[bytes.len() - 1], b'l' | b's' | b'z' | b'e');
            if doubled || stem.len() > 4 && stem.ends_with("ll") && !matches!(stem.as_str(), "enroll" | "install" | "recall") {
                stem.pop();
            }
            if ending == "ed" && stem.ends_with('i') {
                stem.replace_range(stem.len() - 1.., "y");
            }
        }
        break;
    }
    if stem.len() > 3 && stem.ends_with('e') {
        stem.pop();
    }
    stem
}

fn is_vowel(byte: u8) -> bool {
    matches!(byte, b'a' | b'e' | b'i' | b'o' | b'u' | b'y')
}

/// British spellings as American ones: colour, organise, centre, cheque, cancelled, licence.
fn british(word: &str) -> String {
    let first = word.as_bytes().first();
    if let Some((british, american)) =
        SPELLINGS.iter().find(|(british, _)| british.as_bytes().first() == first && word.starts_with(british))
    {
        return format!("{american}{}", &word[british.len()..]);
    }
    let mut plain = word.to_owned();
    for (from, to) in [
        ("isation", "ization"),
        ("ise", "ize"),
        ("ised", "ized"),
        ("ises", "izes"),
        ("ising", "izing"),
        ("yse", "yze"),
        ("ysed", "yzed"),
        ("ysing", "yzing"),
    ] {
        if plain.len() > 5 && plain.ends_with(from) && !has_own_ise(&plain) {
            plain.replace_range(plain.len() - from.len().., to);
            break;
        }
    }
    plain
}

/// Words that are spelled -ise on both sides of the Atlantic.
fn has_own_ise(word: &str) -> bool {
    const WORDS: [&str; 36] = [
        "rise",
        "arise",
        "sunrise",
        "wise",
        "otherwise",
        "likewise",
        "promise",
        "compromise",
        "premise",
        "exercise",
        "precise",
        "concise",
        "advise",
        "revise",
        "supervise",
        "devise",
        "raise",
        "praise",
        "appraise",
        "noise",
        "franchise",
        "merchandise",
        "enterprise",
        "surprise",
        "comprise",
        "expertise",
        "advertise",
        "paradise",
        "disguise",
        "cruise",
        "bruise",
        "excise",
        "demise",
        "improvise",
        "televise",
        "surmise",
    ];
    let base = word.strip_suffix("ing").map(|stem| format!("{stem}e"));
    let base = base.as_deref().unwrap_or_else(|| word.trim_end_matches(['d', 's']));
    WORDS.contains(&base)
}

const SPELLINGS: &[(&str, &str)] = &[
    ("colour", "color"),
    ("favour", "favor"),
    ("behaviour", "behavior"),
    ("labour", "labor"),
    ("honour", "honor"),
    ("neighbour", "neighbor"),
    ("centre", "center"),
    ("theatre", "theater"),
    ("metre", "meter"),
    ("litre", "liter"),
    ("fibre", "fiber"),
    ("cheque", "check"),
    ("catalogue", "catalog"),
    ("dialogue", "dialog"),
    ("programme", "program"),
    ("licence", "license"),
    ("defence", "defense"),
    ("offence", "offense"),
    ("grey", "gray"),
    ("tyre", "tire"),
    ("jewellery", "jewelry"),
    ("enrolment", "enrollment"),
    ("fulfil", "fulfill"),
    ("instalment", "installment"),
    ("aeroplane", "airplane"),
    ("paediatric", "pediatric"),
    ("anaesthe", "anesthe"),
    ("diarrhoea", "diarrhea"),
    ("haemo", "hemo"),
    ("orthopaedic", "orthopedic"),
    ("gynaeco", "gyneco"),
    ("practise", "practice"),
    ("storey", "story"),
    ("kerb", "curb"),
    ("judgement", "judgment"),
    ("ageing", "aging"),
    ("acknowledgement", "acknowledgment"),
    ("artefact", "artifact"),
    ("cosy", "cozy"),
    ("mould", "mold"),
    ("plough", "plow"),
    ("sceptic", "skeptic"),
    ("sulphur", "sulfur"),
    ("travell", "travel"),
    ("cancell", "cancel"),
    ("modell", "model"),
    ("labell", "label"),
    ("signall", "signal"),
    ("fuell", "fuel"),
    ("counsell", "counsel"),
    ("totall", "total"),
];

fn irregular(form: &str) -> Option<&'static str> {
    static FORMS: OnceLock<HashMap<&str, &str>> = OnceLock::new();
    FORMS.get_or_init(|| IRREGULAR.iter().rev().copied().collect()).get(form).copied()
}

/// Sent, frozen, paid.
pub fn is_irregular_past(form: &str) -> bool {
    irregular(form).is_some_and(|base| base != form && !form.ends_with('s') && !form.ends_with("ing"))
}

/// Common irregular forms. Those of rare verbs are left: they only cost a hit.
///
/// A word that stands for itself is no form of a verb: an evening, a meeting.
const IRREGULAR: &[(&str, &str)] = &[
    ("sent", "send"),
    ("bought", "buy"),
    ("paid", "pay"),
    ("sold", "sell"),
    ("made", "make"),
    ("went", "go"),
    ("gone", "go"),
    ("going", "go"),
    ("goes", "go"),
    ("took", "take"),
    ("taken", "take"),
    ("gave", "give"),
    ("given", "give"),
    ("kept", "keep"),
    ("left", "leave"),
    ("leaves", "leave"),
    ("lost", "lose"),
    ("found", "find"),
    ("told", "tell"),
    ("said", "say"),
    ("spent", "spend"),
    ("built", "build"),
    ("began", "begin"),
    ("begun", "begin"),
    ("broke", "break"),
    ("broken", "break"),
    ("chose", "choose"),
    ("chosen", "choose"),
    ("came", "come"),
    ("drew", "draw"),
    ("drawn", "draw"),
    ("drove", "drive"),
    ("driven", "drive"),
    ("fell", "fall"),
    ("fallen", "fall"),
    ("felt", "feel"),
    ("flew", "fly"),
    ("flown", "fly"),
    ("forgot", "forget"),
    ("forgotten", "forget"),
    ("froze", "freeze"),
    ("frozen", "freeze"),
    ("grew", "grow"),
    ("grown", "grow"),
    ("heard", "hear"),
    ("held", "hold"),
    ("knew", "know"),
    ("known", "know"),
    ("lent", "lend"),
    ("meant", "mean"),
    ("sought", "seek"),
    ("rose", "rise"),
    ("risen", "rise"),
    ("seen", "see"),
    ("showed", "show"),
    ("shown", "show"),
    ("slept", "sleep"),
    ("spoke", "speak"),
    ("spoken", "speak"),
    ("stole", "steal"),
    ("stolen", "steal"),
    ("thought", "think"),
    ("threw", "throw"),
    ("thrown", "throw"),
    ("withdrew", "withdraw"),
    ("withdrawn", "withdraw"),
    ("woke", "wake"),
    ("wore", "wear"),
    ("worn", "wear"),
    ("wrote", "write"),
    ("written", "write"),
    ("caught", "catch"),
    ("taught", "teach"),
    ("brought", "bring"),
    ("fought", "fight"),
    ("stood", "stand"),
    ("understood", "understand"),
    ("hidden", "hide"),
    ("ran", "run"),
    ("running", "run"),
    ("shipped", "ship"),
    ("banking", "banking"),
    ("billing", "billing"),
    ("children", "child"),
    ("people", "person"),
    ("women", "woman"),
    ("feet", "foot"),
    ("teeth", "tooth"),
    ("indices", "index"),
    ("criteria", "criterion"),
    ("analyses", "analysis"),
    ("wives", "wife"),
    ("lives", "life"),
    ("knives", "knife"),
    ("halves", "half"),
    ("status", "status"),
    ("news", "news"),
    ("address", "address"),
    ("addresses", "address"),
    ("during", "during"),
    ("meeting", "meeting"),
    ("building", "building"),
    ("training", "training"),
    ("morning", "morning"),
    ("evening", "evening"),
    ("nothing", "nothing"),
    ("something", "something"),
    ("anything", "anything"),
    ("everything", "everything"),
    ("need", "need"),
    ("speed", "speed"),
    ("feed", "feed"),
    ("using", "use"),
    ("used", "use"),
    ("fees", "fee"),
    ("series", "series"),
    ("always", "always"),
    ("bus", "bus"),
    ("does", "do"),
    ("having", "have"),
    ("less", "less"),
    ("unless", "unless"),
    ("across", "across"),
    ("business", "business"),
    ("process", "process"),
    ("access", "access"),
    ("cancelling", "cancel"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tied", "tie"),
    ("died", "die"),
    ("led", "lead"),
    ("met", "meet"),
    ("won", "win"),
    ("hung", "hang"),
    ("shared", "share"),
    ("became", "become"),
    ("bring", "bring"),
    ("string", "string"),
    ("spring", "spring"),
    ("king", "king"),
    ("ring", "ring"),
    ("wedding", "wedding"),
    ("ceiling", "ceiling"),
    ("earring", "earring"),
    ("hundred", "hundred"),
    ("seed", "seed"),
    ("weed", "weed"),
    ("exceed", "exceed"),
    ("proceed", "proceed"),
    ("embed", "embed"),
];

/// Whether one spelling is a slip of the other: one edit (two from 8 letters on), swaps of neighbours count as one.
///
/// The first letter must be the same, and numbers and names are none of this function's business.
pub fn is_slip(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (short, long) = (a.len().min(b.len()), a.len().max(b.len()));
    if short < 4 || a[0] != b[0] {
        return false;
    }
    let most = if long >= 8 { 2 } else { 1 };
    long - short <= most && distance(&a, &b) <= most
}

/// One letter too many or too few, or two neighbours that changed places, in a word of seven letters or more (six for a swap).
pub fn is_same_letters(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let long = a.len().max(b.len());
    long >= 6 && a[0] == b[0] && distance(&a, &b) == 1 && (a.len() != b.len() && long >= 7 || a.len() == b.len() && is_swap(&a, &b))
}

fn is_swap(a: &[char], b: &[char]) -> bool {
    let Some(at) = a.iter().zip(b).position(|(x, y)| x != y) else { return false };
    at + 1 < a.len() && a[at] == b[at + 1] && a[at + 1] == b[at]
}

/// Optimal string alignment: insertions, deletions, substitutions, swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = [vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<_>>(), vec![0; b.len() + 1]];
    for i in 1..=a.len() {
        if i > 1 {
            rows.rotate_left(1);
        }
        let [older, old, new] = &mut rows;
        new[0] = i;
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            new[j] = (old[j] + 1).min(new[j - 1] + 1).min(old[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                new[j] = new[j].min(older[j - 2] + 1);
            }
        }
    }
    rows[2][b.len()]
}
