//! Makes the tables of the token counter: the vocabularies' hash tables out of `data/*.tokens`, and the classes of Unicode characters.
//!
//! Everything is worked out here, once, so that the extension only maps finished tables and has nothing to load.

use std::path::{Path, PathBuf};
use std::{env, fs};

use regex_syntax::hir::{Class, HirKind};

#[path = "src/tokens/table.rs"]
mod table;
use table::{LONG, LONGEST, NO_TOKEN, PILOT_BYTES, RANK_BITS, SHORT, SLOT_BYTES};

/// The value of a slot without a token: a length that no look-up has.
const EMPTY: u32 = u32::MAX;
/// At most so many tokens per bucket on average, and slots per token: fuller tables are smaller, and take longer to make.
const TOKENS_PER_BUCKET: usize = 4;
const SLOTS_PER_TOKEN: f64 = 1.06;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/tokens/table.rs");
    println!("cargo::rerun-if-changed=data");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in ["o200k_base", "cl100k_base"] {
        write_vocabulary(Path::new("data"), &out, name);
    }
    write_classes(&out);
}

fn write(path: PathBuf, bytes: &[u8]) {
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The tokens of a `.tokens` file in the order of rank (its form is described in `tools/make_vocabulary.py`).
fn tokens(file: &[u8]) -> Vec<&[u8]> {
    let (count, rest) = file.split_first_chunk::<4>().expect("a .tokens file starts with its number of tokens");
    let (lengths, mut joined) = rest.split_at(u32::from_le_bytes(*count) as usize);
    let tokens = lengths.iter().map(|&length| {
        let (token, rest) = joined.split_at(length.into());
        joined = rest;
        token
    });
    let tokens = tokens.collect();
    assert!(joined.is_empty(), "a .tokens file ends with its last token");
    tokens
}

fn short_key(token: &[u8]) -> u64 {
    token.iter().rev().fold(0, |key, &byte| key << 8 | u64::from(byte))
}

fn write_vocabulary(data: &Path, out: &Path, name: &str) {
    let path = data.join(format!("{name}.tokens"));
    let file = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tokens = tokens(&file);
    assert!(tokens.len() < 1 << RANK_BITS, "{name}: more tokens than ranks");
    assert!(tokens.iter().all(|token| (1..=LONGEST).contains(&token.len())), "{name}: a token has an unexpected length");

    let hashes: Vec<u64> = tokens
        .iter()
        .map(|token| if token.len() <= SHORT { table::hash_short(short_key(token), token.len()) } else { table::hash_long(token) })
        .collect();
    let (pilots, owners) = place(&hashes);
    let mut long = Vec::new();
    let mut slots = Vec::with_capacity(owners.len() * SLOT_BYTES);
    for owner in owners {
        let (key, value) = match owner {
            None => (0, EMPTY),
            Some(rank) if tokens[rank].len() <= SHORT => (short_key(tokens[rank]), (tokens[rank].len() as u32) << RANK_BITS | rank as u32),
            Some(rank) => {
                let start = long.len();
                assert!(start < 1 << 24, "{name}: the long tokens need more than 24 bits");
                long.extend_from_slice(tokens[rank]);
                (table::long_key(hashes[rank], start, tokens[rank].len()), LONG << RANK_BITS | rank as u32)
            }
        };
        slots.extend_from_slice(&key.to_le_bytes());
        slots.extend_from_slice(&value.to_le_bytes());
    }
    write(out.join(format!("{name}.slots")), &slots);
    write(out.join(format!("{name}.pilots")), &pilots.iter().flat_map(|pilot| pilot.to_le_bytes()).collect::<Vec<_>>());
    write(out.join(format!("{name}.long")), &long);
    write(out.join(format!("{name}.joints")), &joints(&tokens));
    write(out.join(format!("{name}.pairs")), &pairs(&tokens));
}

/// Gives every hash a slot of its own: a pilot for each bucket, and the owner of each slot.
fn place(hashes: &[u64]) -> (Vec<u16>, Vec<Option<usize>>) {
    const { assert!(PILOT_BYTES == size_of::<u16>()) };
    let slots = (hashes.len() as f64 * SLOTS_PER_TOKEN) as usize;
    let mut buckets = vec![Vec::new(); (hashes.len() / TOKENS_PER_BUCKET).next_power_of_two()];
    for (rank, &hash) in hashes.iter().enumerate() {
        let bucket = table::bucket(hash, buckets.len());
        buckets[bucket].push(rank);
    }
    let mut order: Vec<usize> = (0..buckets.len()).collect();
    order.sort_by_key(|&bucket| std::cmp::Reverse(buckets[bucket].len())); // full buckets first: they are the hard ones

    let mut pilots = vec![0; buckets.len()];
    let mut owners = vec![None; slots];
    let mut taken: Vec<usize> = Vec::new();
    for bucket in order {
        let fits = |pilot: &u16| {
            taken.clear();
            buckets[bucket].iter().all(|&rank| {
                let slot = table::slot(hashes[rank], *pilot, slots);
                let free = owners[slot].is_none() && !taken.contains(&slot);
                taken.push(slot);
                free
            })
        };
        let pilot = (0..=u16::MAX).find(fits).expect("some pilot fits: add slots or buckets");
        pilots[bucket] = pilot;
        for &rank in &buckets[bucket] {
            owners[table::slot(hashes[rank], pilot, slots)] = Some(rank);
        }
    }
    (pilots, owners)
}

/// The rank of every pair of bytes, or `NO_TOKEN`, as u32.
fn pairs(tokens: &[&[u8]]) -> Vec<u8> {
    let mut ranks = vec![NO_TOKEN; 1 << 16];
    for (rank, token) in tokens.iter().enumerate() {
        if let &[left, right] = *token {
            ranks[usize::from(left) << 8 | usize::from(right)] = rank as u32;
        }
    }
    ranks.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// One bit for every pair of bytes: whether some token has the two side by side.
fn joints(tokens: &[&[u8]]) -> Vec<u8> {
    let mut bits = vec![0; 1 << 13];
    for pair in tokens.iter().flat_map(|token| token.windows(2)) {
        let joint = usize::from(pair[0]) << 8 | usize::from(pair[1]);
        bits[joint / 8] |= 1 << (joint % 8);
    }
    bits
}

/// The class of every code point, as `src/tokens/class.rs` names them, in blocks of 256 with equal blocks kept once.
///
/// From the crate that tiktoken's patterns are matched with, so that both know the same Unicode version.
fn write_classes(out: &Path) {
    let sets = [
        (r"[\p{Lu}\p{Lt}]", 1),
        (r"\p{Ll}", 2),
        (r"[\p{Lm}\p{Lo}]", 4),
        (r"\p{M}", 8),
        (r"\p{N}", 16),
        (r"\s", 32),
        (r"[\r\n]", 64), // after \s, which it overrules
    ];
    let mut classes = vec![128_u8; 0x11_0000];
    for (pattern, class) in sets {
        let parsed = regex_syntax::parse(pattern).expect("the pattern is well formed");
        let HirKind::Class(Class::Unicode(ranges)) = parsed.kind() else { panic!("{pattern} is a class") };
        for range in ranges.iter() {
            classes[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    let mut blocks: Vec<&[u8]> = Vec::new();
    let mut index = Vec::new();
    for block in classes.chunks(256) {
        let known = blocks.iter().position(|&other| other == block).unwrap_or_else(|| {
            blocks.push(block);
            blocks.len() - 1
        });
        index.push(u8::try_from(known).expect("at most 256 different blocks"));
    }
    write(out.join("classes.index"), &index);
    write(out.join("classes.blocks"), &blocks.concat());
}
