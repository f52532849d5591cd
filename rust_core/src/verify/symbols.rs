//! Odd symbols as they are written: `==` is not `===`, C is not C++. Plain punctuation, hyphens, quotation marks, and the signs that belong to
//! numbers and amounts are none.

use super::words::is_address;

/// Operators made of plain punctuation: they count inside of a piece of code and alone.
const OPERATORS: [&str; 8] = ["::", "?.", "??", "?:", ":=", "//", "!.", ".*"];
const ODD: &[char] = &['=', '<', '>', '|', '^', '\\', '*', '%', '+', '&', '#', '@'];
/// Symbols that a word spells as often as not.
const SPELLED: [&str; 3] = ["&", "+", "%"];
/// In front of plain punctuation that stands alone because it is spoken of.
const NAMING: [&str; 10] = ["does", "between", "the", "a", "and", "or", "vs", "use", "operator", "is"];

#[derive(Debug, Default, PartialEq)]
pub struct Symbols {
    /// Runs of symbols, sorted, as often as they are there.
    pub runs: Vec<String>,
    /// How often `&`, `+` and `%` stand alone: "and", "plus" and "percent" may stand for them, but none of them for another.
    pub spelled: [u8; 3],
}

pub fn symbols(folded: &str) -> Symbols {
    let mut found = Symbols::default();
    let ends_bold = |chunk: &str| chunk.len() > 1 && chunk.trim_end_matches(['.', ',', '!', '?', ':']).ends_with('*');
    let emphasis = folded.as_bytes().contains(&b'*') && folded.split(' ').any(ends_bold);
    let (mut chunks, mut last) = (folded.split(' ').peekable(), None);
    while let Some(chunk) = chunks.next() {
        let before = last.replace(chunk);
        if !chunk.bytes().any(|byte| byte.is_ascii_punctuation()) || is_address(chunk.trim_matches(|c: char| c.is_ascii_punctuation())) {
            continue;
        }
        if chunk.contains(char::is_alphanumeric) {
            found.attached(chunk, emphasis);
        } else if chunk.is_ascii() {
            found.alone(chunk, before, chunks.peek().copied());
        }
    }
    found.runs.sort_unstable();
    found
}

impl Symbols {
    fn push(&mut self, run: &str) {
        self.runs.push(run.to_owned());
    }

    /// A run between spaces.
    fn alone(&mut self, chunk: &str, before: Option<&str>, after: Option<&str>) {
        let open = chunk.trim_end_matches(['.', ',', '!', '?', ';', ':']);
        let quoted = open.len() > 2 && open.starts_with(['"', '\'', '`']) && open.chars().next() == open.chars().next_back();
        let operator = Some(without_quotes(chunk)).filter(|run| after.is_some() && OPERATORS.contains(run));
        let run = if quoted { &open[1..open.len() - 1] } else { operator.unwrap_or(without_quotes(open)) };
        let number = |chunk: Option<&str>| chunk.is_some_and(|chunk| chunk.contains(|c: char| c.is_ascii_digit()));
        if let Some(which) = SPELLED.iter().position(|spelled| *spelled == run) {
            match run {
                "%" if number(before) => {}
                "+" if number(before) && number(after) => self.push(run),
                _ => self.spelled[which] = self.spelled[which].saturating_add(1),
            }
        } else if run == "#" && number(after) || run == "*" && before.is_none() {
            // "# 5" is no. 5; a list's bullet.
        } else if run.contains(ODD) || operator.is_some() || quoted {
            self.push(run);
        } else if chunk.len() < 3 && after.is_some() && before.is_some_and(|before| NAMING.contains(&before.to_lowercase().as_str())) {
            self.push(chunk);
        }
    }

    /// Runs in front of, inside of and behind words and numbers.
    fn attached(&mut self, chunk: &str, emphasis: bool) {
        let mut start = 0;
        while let Some(found) = chunk[start..].find(|c: char| c.is_ascii_punctuation()) {
            let first = start + found;
            let end = chunk[first..].find(|c: char| !c.is_ascii_punctuation()).map_or(chunk.len(), |length| first + length);
            let (before, after) = (chunk[..first].chars().next_back(), chunk[end..].chars().next());
            if let Some(run) = counted(&chunk[first..end], before, after, emphasis)
                && !(run == "+" && before.is_some() && after.is_none() && first > 1)
            {
                self.push(run);
            }
            start = end;
        }
    }
}

fn without_quotes(run: &str) -> &str {
    run.trim_matches(['"', '\'', '`', '(', ')', '[', ']', '{', '}', ',', ';'])
}

/// What of a run beside a letter or digit is odd, if anything.
fn counted(run: &str, before: Option<char>, after: Option<char>, emphasis: bool) -> Option<&str> {
    let digit = |side: Option<char>| side.is_some_and(|c| c.is_ascii_digit());
    let letter = |side: Option<char>| side.is_some_and(|c| c.is_ascii_alphabetic());
    let mut run = without_quotes(run);
    if after.is_none() {
        run = without_quotes(run.trim_end_matches(['.', ',', '!', '?', ';', ':', '"', '\'', ')', '`']));
    }
    if digit(before) && !digit(after) {
        run = run.trim_start_matches('%');
    }
    let run = run.trim_matches(['$', '_']);
    let inside = before.is_some() && after.is_some();
    let odd = match run {
        "" | "&" | "@" | "#" => letter(before) && after.is_none() && run == "#",
        "+" => digit(before) && digit(after) || letter(before) && after.is_none(),
        "!" => before.is_none() && letter(after),
        "--" => before.is_none() && letter(after),
        _ if run.bytes().all(|byte| byte == b'*') => inside || !emphasis,
        _ if OPERATORS.contains(&run) => after.is_some(),
        _ => run.contains(ODD) && run != "-+" && run != "+-",
    };
    odd.then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_and_punctuation_is_none() {
        let cases: &[(&str, &[&str])] = &[
            ("What is == in js?", &["=="]),
            ("`==` or \"===\"?", &["==", "==="]),
            ("==와 ===의 차이", &["==", "==="]),
            ("a&&b || !c, x**2 and p->q", &["!", "&&", "**", "->", "||"]),
            ("C++ or C# or i++;", &["#", "++", "++"]),
            ("What does ?? do and what ?. does ??", &["?.", "??"]),
            ("What does ! do?", &["!"]),
            ("explain `;` please", &[";"]),
            ("Really?? (yes!) - it's 50%, $5-$7, +82 10, #5 & no. # 6: A/B, well-known ... \"ok\" :)", &[]),
            ("This is *very* **important now**!", &[]),
            ("* one", &[]),
            ("SELECT count(*) FROM t", &["*"]),
            ("see https://a.b/?c=d&e", &[]),
            ("2+2", &["+"]),
            ("18+ and 50 % off", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(symbols(text).runs, *expected, "{text}");
        }
        assert_eq!(symbols("a & b + c, not %").spelled, [1, 1, 1]);
    }
}
