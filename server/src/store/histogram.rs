//! Durations, counted in buckets whose width grows with them.

use std::collections::BTreeMap;

/// Bytes of a bucket with its count.
const ENTRY: usize = 10;
/// Buckets of an octave: from one power of two to the next.
const OCTAVE: i64 = 64;

/// How many durations fall into which bucket. Up to 128 ms a bucket is one millisecond; beyond, a 64th of the power of two below it. The middle
/// of a bucket is thus at most 1/128, or 0.8 %, off from what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histogram(BTreeMap<i16, i64>);

impl Histogram {
    /// Counts one duration.
    pub(super) fn add(&mut self, ms: i64) {
        *self.0.entry(bucket_of(ms)).or_default() += 1;
    }

    /// Adds what another one counts, `times` over: -1 takes it away.
    pub(super) fn merge(&mut self, other: &Self, times: i64) {
        for (bucket, count) in &other.0 {
            let sum = self.0.entry(*bucket).or_default();
            *sum += count * times;
            if *sum == 0 {
                self.0.remove(bucket);
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> i64 {
        self.0.values().sum()
    }

    /// The duration that a share of all, 0 to 1, is not above; 0 where there is none.
    pub(super) fn percentile(&self, share: f64) -> i64 {
        let rank = ((share * self.count() as f64).ceil() as i64).max(1);
        let mut below = 0;
        for (bucket, count) in &self.0 {
            below += count;
            if below >= rank {
                return middle_of(*bucket);
            }
        }
        0
    }

    /// Pairs of bucket and count, by bucket, big-endian: as `int2send` and `int8send` write them.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(bucket, count)| bucket.to_be_bytes().into_iter().chain(count.to_be_bytes())).collect()
    }

    /// `None` where these are none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(ENTRY) {
            return None;
        }
        let pair = |entry: &[u8]| {
            let (bucket, count) = entry.split_at_checked(2)?;
            Some((i16::from_be_bytes(bucket.try_into().ok()?), i64::from_be_bytes(count.try_into().ok()?)))
        };
        bytes.chunks_exact(ENTRY).map(pair).collect::<Option<_>>().map(Self)
    }
}

/// The middle of the bucket that a duration is in.
pub(super) fn nearest(ms: i64) -> i64 {
    middle_of(bucket_of(ms))
}

/// The bucket of a duration; the statements of PostgreSQL's store say the same.
fn bucket_of(ms: i64) -> i16 {
    let ms = ms.max(0);
    let bucket = match ms.checked_ilog2() {
        Some(power @ 7..) => i64::from(power - 6) * OCTAVE + (ms >> (power - 6)),
        _ => ms,
    };
    i16::try_from(bucket).unwrap_or(i16::MAX)
}

fn middle_of(bucket: i16) -> i64 {
    let bucket = i64::from(bucket);
    let shift = (bucket / OCTAVE - 1).max(0);
    let low = (bucket - shift * OCTAVE) << shift;
    low + ((1 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[i64]) -> Histogram {
        let mut histogram = Histogram::default();
        durations.iter().for_each(|ms| histogram.add(*ms));
        histogram
    }

    proptest! {
        #[test]
        fn a_bucket_is_near_what_is_in_it(ms in prop_oneof![0..1000_i64, 0..i64::from(u32::MAX), 0..i64::MAX]) {
            let off = (middle_of(bucket_of(ms)) - ms).abs();
            prop_assert!(off as f64 <= ms as f64 / 128.0, "{ms} is {off} off");
            prop_assert!(ms >= 128 || off == 0);
        }

        #[test]
        fn percentiles_are_near_those_of_the_list(
            mut list in prop::collection::vec(0..10_000_000_i64, 1..200), share in 0.0..1.0_f64,
        ) {
            let histogram = of(&list);
            list.sort_unstable();
            let rank = ((share * list.len() as f64).ceil() as usize).max(1);
            let (exact, told) = (list[rank - 1], histogram.percentile(share));
            prop_assert!((told - exact).abs() as f64 <= exact as f64 / 128.0, "{told} for {exact}");
        }

        #[test]
        fn bytes_and_sums_are_whole(a in prop::collection::vec(any::<i64>(), 0..50), b in prop::collection::vec(0..5000_i64, 0..50)) {
            let (one, two) = (of(&a), of(&b));
            prop_assert_eq!(Histogram::from_bytes(&one.to_bytes()), Some(one.clone()));
            let mut sum = one.clone();
            sum.merge(&two, 1);
            prop_assert_eq!(&sum, &of(&[a, b].concat()));
            sum.merge(&two, -1);
            prop_assert_eq!(sum, one);
        }
    }

    #[test]
    fn buckets_do_not_overlap() {
        let mut last = -1;
        for ms in (0..100_000).chain([i64::MAX]) {
            let bucket = bucket_of(ms);
            assert!(bucket >= last, "{ms}");
            last = bucket;
        }
        assert_eq!(Histogram::from_bytes(&[1, 2, 3]), None);
        assert_eq!(Histogram::default().percentile(0.5), 0);
    }
}
