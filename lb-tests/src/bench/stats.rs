//! Figures of several rounds, and what is said of them.

/// Figures of one thing, measured once a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

/// What is said of figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// The one in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// The median of the distances from the median.
    pub(crate) mad: f64,
    /// How many there are.
    pub(crate) count: usize,
}

impl Samples {
    /// Adds one.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// All of them, in the order of the rounds.
    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The smallest of them that so many of a hundred do not pass; none if there are none.
    pub(crate) fn percentile(&self, hundredths: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * hundredths).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// What is said of them; none if there are none.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let median = middle(&sorted)?;
        let mut distances: Vec<f64> = sorted.iter().map(|value| (value - median).abs()).collect();
        distances.sort_by(f64::total_cmp);
        Some(Summary {
            median,
            min: *sorted.first()?,
            max: *sorted.last()?,
            mad: middle(&distances)?,
            count: sorted.len(),
        })
    }
}

/// The value in the middle of sorted ones, or between the two there.
fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    Some(if sorted.len() % 2 == 1 {
        upper
    } else {
        (sorted[half - 1] + upper) / 2.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread_are_those_of_the_sorted_values() {
        let mut samples = Samples::default();
        assert_eq!(samples.summary(), None);
        for value in [5.0, 1.0, 3.0, 100.0] {
            samples.push(value);
        }
        let summary = samples.summary().expect("four values");
        assert_eq!((summary.median, summary.min, summary.max), (4.0, 1.0, 100.0));
        assert_eq!((summary.mad, summary.count), (2.0, 4));
        assert_eq!(samples.values(), [5.0, 1.0, 3.0, 100.0]);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut samples = Samples::default();
        assert_eq!(samples.percentile(99), None);
        (1..=1000).rev().for_each(|value| samples.push(f64::from(value)));
        assert_eq!(samples.percentile(50), Some(500.0));
        assert_eq!(samples.percentile(99), Some(990.0));
        assert_eq!(samples.percentile(100), Some(1000.0));
    }
}
