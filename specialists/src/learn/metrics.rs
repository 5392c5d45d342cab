//! Metrics of probabilities: over pairs of a probability in [0, 1] and whether the event happened.

use serde::Serialize;

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReliabilityBin {
    /// Contains probabilities from `from` up to below `to`; the last bin includes `to`.
    pub from: f64,
    /// Upper bound.
    pub to: f64,
    /// Number of predictions.
    pub count: usize,
    /// The mean probability; `None` when empty.
    pub mean: Option<f64>,
    /// The fraction that happened; `None` when empty.
    pub rate: Option<f64>,
}

/// `bins` bins of equal width over [0, 1].
pub fn reliability(pairs: &[(f64, bool)], bins: usize) -> Vec<ReliabilityBin> {
    let width = 1.0 / bins as f64;
    // (count, sum of probabilities, happened)
    let mut sums = vec![(0_usize, 0.0, 0_usize); bins];
    for &(p, happened) in pairs {
        // in [0, bins): the cast clamps negative values, and NaN to the first bin
        let bin = ((p * bins as f64) as usize).min(bins.saturating_sub(1));
        if let Some((count, sum, yes)) = sums.get_mut(bin) {
            *count += 1;
            *sum += p;
            *yes += usize::from(happened);
        }
    }
    let bin = |(index, (count, sum, yes)): (usize, (usize, f64, usize))| ReliabilityBin {
        from: index as f64 * width,
        to: (index + 1) as f64 * width,
        count,
        mean: (count > 0).then(|| sum / count as f64),
        rate: (count > 0).then(|| yes as f64 / count as f64),
    };
    sums.into_iter().enumerate().map(bin).collect()
}

/// Expected calibration error (Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using
/// Bayesian Binning"): the gap between mean probability and observed rate in each of `bins` bins of
/// equal width, averaged over the examples. `None` without any.
pub fn expected_calibration_error(pairs: &[(f64, bool)], bins: usize) -> Option<f64> {
    let gap = |bin: ReliabilityBin| Some(bin.count as f64 * (bin.mean? - bin.rate?).abs());
    let total: f64 = reliability(pairs, bins).into_iter().filter_map(gap).sum();
    (!pairs.is_empty()).then(|| total / pairs.len() as f64)
}

/// The mean squared error of the probabilities; `None` without any.
pub fn brier(pairs: &[(f64, bool)]) -> Option<f64> {
    let total: f64 =
        pairs.iter().map(|&(p, happened)| (p - f64::from(u8::from(happened))).powi(2)).sum();
    (!pairs.is_empty()).then(|| total / pairs.len() as f64)
}

/// Brier skill score, `1 - brier / brier of always predicting base_rate`: positive when better than
/// the base rate. `None` when the base rate cannot be beaten.
pub fn brier_skill(pairs: &[(f64, bool)], base_rate: f64) -> Option<f64> {
    let constant: Vec<(f64, bool)> =
        pairs.iter().map(|&(_, happened)| (base_rate, happened)).collect();
    let reference = brier(&constant)?;
    (reference > 0.0).then_some(1.0 - brier(pairs)? / reference)
}

/// The fraction that happened; `None` without any.
pub fn base_rate(pairs: &[(f64, bool)]) -> Option<f64> {
    let happened = pairs.iter().filter(|pair| pair.1).count() as f64;
    (!pairs.is_empty()).then(|| happened / pairs.len() as f64)
}

/// The area under the ROC curve: how often an event that happened had the higher score, ties
/// counting half (the Mann-Whitney statistic). `None` without both outcomes, or with a NaN score.
pub fn auroc(pairs: &[(f64, bool)]) -> Option<f64> {
    let happened = pairs.iter().filter(|pair| pair.1).count();
    let not = pairs.len() - happened;
    if happened == 0 || not == 0 || pairs.iter().any(|pair| pair.0.is_nan()) {
        return None;
    }
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut area) = (0.0, 0.0);
    // 0.0 and -0.0 are the same score
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let yes = ties.iter().filter(|pair| pair.1).count() as f64;
        let no = ties.len() as f64 - yes;
        area += yes * (below + no / 2.0);
        below += no;
    }
    Some(area / (happened as f64 * not as f64))
}

/// Log score: the mean negative natural logarithm of the probability given to the outcome, clamped
/// from below to `floor`. `None` without any.
pub fn log_loss(pairs: &[(f64, bool)], floor: f64) -> Option<f64> {
    let total: f64 = pairs
        .iter()
        .map(|&(p, happened)| -(if happened { p } else { 1.0 - p }).max(floor).ln())
        .sum();
    (!pairs.is_empty()).then(|| total / pairs.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::TestRng;

    /// Random lists, with ties and with the ends of the range.
    fn lists() -> Vec<Vec<(f64, bool)>> {
        let mut random = TestRng::new();
        (0..200)
            .map(|list| {
                let pair = |random: &mut TestRng| {
                    let p = random.unit();
                    (
                        if list % 2 == 0 { p } else { (p * 8.0).round() / 8.0 },
                        random.unit() < 0.2 + 0.6 * p,
                    )
                };
                (0..1 + list % 40).map(|_| pair(&mut random)).collect()
            })
            .collect()
    }

    fn same(a: Option<f64>, b: Option<f64>) {
        assert!(
            matches!((a, b), (None, None)) || (a.unwrap() - b.unwrap()).abs() < 1e-12,
            "{a:?} {b:?}"
        );
    }

    #[test]
    fn auroc_counts_pairs() {
        for list in lists() {
            let (mut won, mut pairs) = (0.0, 0.0);
            for (p, _) in list.iter().filter(|pair| pair.1) {
                for (q, _) in list.iter().filter(|pair| !pair.1) {
                    pairs += 1.0;
                    won += if p > q { 1.0 } else { f64::from(u8::from(p == q)) / 2.0 };
                }
            }
            same(auroc(&list), (pairs > 0.0).then_some(won / pairs));
        }
        assert_eq!(auroc(&[(f64::NAN, true), (0.5, false)]), None);
        assert_eq!(auroc(&[(-0.0, true), (0.0, false)]), Some(0.5));
    }

    #[test]
    fn ece_is_the_gap_of_each_bin_by_its_share() {
        for list in lists() {
            let mut total = 0.0;
            for bin in 0..10 {
                let (low, high) = (f64::from(bin) / 10.0, f64::from(bin + 1) / 10.0);
                let inside: Vec<_> =
                    list.iter().filter(|(p, _)| *p >= low && (*p < high || bin == 9)).collect();
                let mean = inside.iter().map(|pair| pair.0).sum::<f64>()
                    - inside.iter().filter(|pair| pair.1).count() as f64;
                total += mean.abs();
            }
            same(expected_calibration_error(&list, 10), Some(total / list.len() as f64));
        }
        assert_eq!(expected_calibration_error(&[], 10), None);
    }

    #[test]
    fn bins_hold_every_example_once() {
        for list in lists() {
            let bins = reliability(&list, 7);
            assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), list.len());
            for bin in &bins {
                assert_eq!(bin.mean.is_some(), bin.count > 0);
                assert!(
                    bin.mean.is_none_or(|mean| mean >= bin.from - 1e-12 && mean <= bin.to + 1e-12),
                    "{bin:?}"
                );
                assert!(bin.rate.is_none_or(|rate| (0.0..=1.0).contains(&rate)));
            }
        }
        let ends = reliability(&[(0.0, false), (1.0, true), (0.1, true)], 10);
        assert_eq!((ends[0].count, ends[1].count, ends[9].count), (1, 1, 1));
        // an invalid probability does no harm
        assert_eq!(
            reliability(&[(f64::NAN, true), (7.0, true), (-1.0, true)], 2)
                .iter()
                .map(|bin| bin.count)
                .collect::<Vec<_>>(),
            [2, 1]
        );
    }

    #[test]
    fn skill_is_against_the_constant() {
        for list in lists() {
            let rate = base_rate(&list).unwrap();
            let constant: Vec<_> = list.iter().map(|pair| (rate, pair.1)).collect();
            match brier_skill(&constant, rate) {
                Some(skill) => assert!(skill.abs() < 1e-9),
                None => assert!(rate == 0.0 || rate == 1.0),
            }
            // the variance of a fair coin
            same(brier(&constant), Some(rate * (1.0 - rate)));
        }
        let perfect = [(1.0, true), (0.0, false)];
        assert_eq!(brier_skill(&perfect, 0.5), Some(1.0));
        assert_eq!((brier(&[]), base_rate(&[])), (None, None));
        same(
            log_loss(&[(0.5, true), (0.25, false)], 1e-9),
            Some((2.0_f64.ln() + (4.0_f64 / 3.0).ln()) / 2.0),
        );
        same(log_loss(&[(0.0, true)], 1e-3), Some(1000.0_f64.ln()));
    }
}
