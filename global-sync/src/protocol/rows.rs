//! Comparing derived rows: sums of their hashes by buckets, and buckets of buckets, down to the rows that differ.
//!
//! A row belongs to the bucket its key's hash begins with, so that a row that was altered stays in its own. Rows are taken
//! one by one, in any order, and take no room: what is kept is 256 sums, or as many rows as are told.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Hash, hash_of};

/// A bucket with at most so many rows is told row by row.
pub const MAX_ROWS: usize = 256;
/// How deep buckets go; more rows than that have no equal beginnings.
pub const MAX_PREFIX: usize = 8;

/// How many rows a bucket has, and the sum of their hashes modulo 2^256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sum {
    /// Rows.
    pub rows: u64,
    /// The sum, the greatest byte first.
    pub hashes: Hash,
}

impl Sum {
    /// Counts one more row.
    pub fn add(&mut self, row: &Hash) {
        self.rows += 1;
        let mut carry = 0_u16;
        for (byte, addend) in self.hashes.iter_mut().zip(row).rev() {
            let sum = u16::from(*byte) + u16::from(*addend) + carry;
            let [high, low] = sum.to_be_bytes();
            *byte = low;
            carry = u16::from(high);
        }
    }
}

/// One derived row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// What identifies it, as people would look for it.
    pub key: String,
    /// Hash of what it says.
    pub hash: Hash,
}

/// A bucket's content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// By the next byte of the keys' hashes; always 256.
    Sums(Vec<Sum>),
    /// One by one, in the order of their keys.
    Each(Vec<Row>),
}

/// Where two contents differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Difference {
    /// In these buckets below; none means not at all.
    Buckets(Vec<u8>),
    /// In these rows: altered, or there on one side only.
    Keys(BTreeSet<String>),
}

impl Difference {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        match self {
            Self::Buckets(buckets) => buckets.is_empty(),
            Self::Keys(keys) => keys.is_empty(),
        }
    }
}

/// The bucket below one of this depth that a row with this key belongs to.
fn bucket(depth: usize, key: &str) -> usize {
    usize::from(hash_of(key.as_bytes())[depth])
}

/// A bucket that is summed up for somebody else.
pub struct Summary {
    depth: usize,
    sums: Vec<Sum>,
    /// The rows themselves, as long as they are few.
    each: Vec<Row>,
}

impl Summary {
    /// Of a bucket as deep as its prefix is long.
    pub fn new(prefix: &[u8]) -> Self {
        Self { depth: prefix.len().min(MAX_PREFIX), sums: vec![Sum::default(); 256], each: Vec::new() }
    }

    /// Takes one more row.
    pub fn add(&mut self, row: Row) {
        self.sums[bucket(self.depth, &row.key)].add(&row.hash);
        if self.each.len() <= MAX_ROWS {
            self.each.push(row);
        }
    }

    /// The bucket's content: row by row if they are few.
    pub fn finish(mut self) -> Rows {
        if self.each.len() > MAX_ROWS && self.depth < MAX_PREFIX {
            return Rows::Sums(self.sums);
        }
        self.each.truncate(MAX_ROWS);
        self.each.sort_by(|a, b| a.key.cmp(&b.key));
        Rows::Each(self.each)
    }
}

/// A bucket of ours on its way to be compared with what somebody else has told of it.
pub enum Comparison {
    /// They told sums.
    Sums {
        /// Theirs.
        theirs: Vec<Sum>,
        /// Ours so far.
        ours: Summary,
    },
    /// They told rows.
    Each {
        /// Theirs that we have not met.
        theirs: BTreeMap<String, Hash>,
        /// Those that differ.
        differ: BTreeSet<String>,
    },
}

impl Comparison {
    /// With what was told of the bucket with this prefix.
    pub fn new(prefix: &[u8], theirs: Rows) -> Self {
        match theirs {
            Rows::Sums(theirs) => Self::Sums { theirs, ours: Summary::new(prefix) },
            Rows::Each(rows) => Self::Each {
                theirs: rows.into_iter().map(|row| (row.key, row.hash)).collect(),
                differ: BTreeSet::new(),
            },
        }
    }

    /// Takes one more row of ours.
    pub fn add(&mut self, row: Row) {
        match self {
            Self::Sums { ours, .. } => ours.add(row),
            Self::Each { theirs, differ } => {
                if theirs.remove(&row.key) != Some(row.hash) && differ.len() < MAX_ROWS {
                    differ.insert(row.key);
                }
            }
        }
    }

    /// Where ours differ from theirs.
    pub fn finish(self) -> Difference {
        match self {
            Self::Sums { theirs, ours } => {
                let pairs = (0..=u8::MAX).zip(ours.sums.iter().zip(&theirs));
                Difference::Buckets(pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(at, _)| at).collect())
            }
            Self::Each { theirs, mut differ } => {
                differ.extend(theirs.into_keys());
                Difference::Keys(differ)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_in(prefix: &[u8], key: &str) -> bool {
        hash_of(key.as_bytes()).starts_with(prefix)
    }

    fn rows(count: u32) -> Vec<Row> {
        (0..count).map(|n| Row { key: format!("row {n}"), hash: hash_of(&n.to_be_bytes()) }).collect()
    }

    fn differences(ours: &[Row], theirs: &[Row]) -> (Vec<String>, usize) {
        let mut found = Vec::new();
        let mut asked = 0;
        let mut prefixes = vec![Vec::new()];
        while let Some(prefix) = prefixes.pop() {
            asked += 1;
            let bucket = |rows: &[Row]| rows.iter().filter(|row| is_in(&prefix, &row.key)).cloned().collect::<Vec<_>>();
            let mut summary = Summary::new(&prefix);
            bucket(theirs).into_iter().for_each(|row| summary.add(row));
            let mut comparison = Comparison::new(&prefix, summary.finish());
            bucket(ours).into_iter().for_each(|row| comparison.add(row));
            match comparison.finish() {
                Difference::Buckets(buckets) => {
                    prefixes.extend(buckets.into_iter().map(|byte| [prefix.as_slice(), &[byte]].concat()));
                }
                Difference::Keys(keys) => found.extend(keys),
            }
        }
        found.sort_unstable();
        (found, asked)
    }

    #[test]
    fn an_altered_a_missing_and_an_added_row_are_found_by_their_keys() {
        let mut altered = rows(2_000);
        altered[700].hash[5] ^= 1;
        altered.remove(1_200);
        altered.push(Row { key: "a stranger".to_owned(), hash: [1; 32] });
        let (found, asked) = differences(&altered, &rows(2_000));
        assert_eq!(found, ["a stranger", "row 1200", "row 700"]);
        assert!(asked <= 4, "only the buckets that differ are looked into: {asked}");
        assert_eq!(differences(&rows(2_000), &rows(2_000)), (vec![], 1));
    }

    #[test]
    fn few_rows_against_many_and_none_are_compared_in_bounded_room() {
        assert_eq!(differences(&rows(3), &[]).0, ["row 0", "row 1", "row 2"]);
        assert_eq!(differences(&[], &rows(3)).0, ["row 0", "row 1", "row 2"]);
        let (found, _) = differences(&rows(5_000), &rows(2));
        assert_eq!(found.len(), MAX_ROWS, "not all that are too many");
    }

    #[test]
    fn sums_do_not_depend_on_order_and_carry() {
        let (mut ab, mut ba) = (Sum::default(), Sum::default());
        let (a, b) = ([255; 32], hash_of(b"b"));
        ab.add(&a);
        ab.add(&b);
        ba.add(&b);
        ba.add(&a);
        assert_eq!(ab, ba);
        assert_eq!(ab.rows, 2);
    }
}
