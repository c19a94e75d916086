use std::time::Duration;

/// Measured times in milliseconds, every one of them kept, so that percentiles are exact.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Of these values, in any order.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    /// Of these times.
    pub(super) fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3))
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self::of(self.0.into_iter().chain(other.0))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least `percent` of all do not pass (nearest rank); not a number where there is none.
    pub(super) fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// The smallest one; not a number where there is none.
    pub(super) fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The greatest one; not a number where there is none.
    pub(super) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

/// The middle one of a few values; of two in the middle the smaller one.
pub(super) fn median(values: &[f64]) -> f64 {
    Samples::of(values.iter().copied()).percentile(50.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let samples = Samples::of((1..=100).rev().map(f64::from));
        let at = |percent| samples.percentile(percent);
        assert_eq!((at(50.0), at(99.0), at(99.5), at(100.0), at(0.0)), (50.0, 99.0, 100.0, 100.0, 1.0));
        assert_eq!((samples.min(), samples.max(), samples.len()), (1.0, 100.0, 100));
        assert_eq!(samples.clone().and(Samples::of([0.5, 200.0])).percentile(100.0), 200.0);
        let one = Samples::of_times([Duration::from_micros(1500)]);
        assert_eq!((one.percentile(1.0), one.percentile(99.0)), (1.5, 1.5));
        assert!(Samples::default().percentile(50.0).is_nan() && Samples::default().max().is_nan());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 1.0);
        assert!(median(&[]).is_nan());
    }
}
