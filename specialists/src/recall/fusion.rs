//! Fuses ranked lists, and diversifies the result.

/// Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): each of `count` items gets `weight /
/// (offset + rank)` from every list that contains it, ranks from 1. Lists hold item indices, best
/// first; indices out of range are ignored.
pub fn reciprocal_ranks(count: usize, lists: &[(f64, &[usize])], offset: f64) -> Vec<f64> {
    let mut fused = vec![0.0; count];
    for (weight, list) in lists {
        for (rank, item) in list.iter().enumerate() {
            if let Some(score) = fused.get_mut(*item) {
                *score += weight / (offset + rank as f64 + 1.0);
            }
        }
    }
    fused
}

/// Maximal marginal relevance (Carbonell and Goldstein 1998): up to `k` items, each the one with
/// the highest `lambda * score - (1 - lambda) * (largest cosine with those already chosen)`. Scores
/// in [0, 1]; unit vectors; an item without one is similar to no other. `lambda` 1 is the order of
/// the scores; of equals the first comes first.
pub fn diverse(scores: &[f64], vectors: &[Option<&[f32]>], k: usize, lambda: f64) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..scores.len()).collect();
    rest.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    if lambda >= 1.0 {
        rest.truncate(k);
        return rest;
    }
    let mut likeness = vec![0.0_f64; scores.len()];
    let mut chosen = Vec::with_capacity(k.min(scores.len()));
    while chosen.len() < k && !rest.is_empty() {
        let worth = |item: usize| lambda * scores[item] - (1.0 - lambda) * likeness[item];
        let best = (1..rest.len())
            .fold(0, |best, at| if worth(rest[at]) > worth(rest[best]) { at } else { best });
        let item = rest.remove(best);
        if let Some(vector) = vectors.get(item).copied().flatten() {
            for &other in &rest {
                if let Some(vector_of_other) = vectors.get(other).copied().flatten() {
                    likeness[other] = likeness[other].max(cosine(vector, vector_of_other));
                }
            }
        }
        chosen.push(item);
    }
    chosen
}

/// For unit vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::TestRng;

    #[test]
    fn what_both_lists_have_comes_first() {
        let fused = reciprocal_ranks(4, &[(1.0, &[0, 1, 9]), (1.0, &[2, 1])], 60.0);
        assert!((fused[0] - 1.0 / 61.0).abs() < 1e-12 && (fused[1] - 2.0 / 62.0).abs() < 1e-12);
        assert!(fused[1] > fused[0] && fused[0] == fused[2] && fused[3] == 0.0);
        let weighed = reciprocal_ranks(4, &[(3.0, &[0]), (1.0, &[2])], 60.0);
        assert!((weighed[0] - 3.0 * weighed[2]).abs() < 1e-12);
    }

    #[test]
    fn a_duplicate_is_replaced_by_the_next_result() {
        let (east, north) = ([1.0, 0.0], [0.0, 1.0]);
        let vectors: [Option<&[f32]>; 3] = [Some(&east), Some(&east), Some(&north)];
        let scores = [0.9, 0.8, 0.7];
        assert_eq!(diverse(&scores, &vectors, 3, 1.0), [0, 1, 2]);
        assert_eq!(diverse(&scores, &vectors, 2, 0.5), [0, 2]);
        assert_eq!(diverse(&scores, &[None, None, None], 2, 0.5), [0, 1]);
    }

    #[test]
    fn each_item_is_chosen_once_at_most_and_the_best_first() {
        let mut random = TestRng::new();
        for _ in 0..300 {
            let n = random.below(12);
            let scores: Vec<f64> = (0..n).map(|_| (random.below(5) as f64) / 4.0).collect();
            let vectors: Vec<Vec<f32>> =
                (0..n).map(|_| vec![random.unit() as f32, random.unit() as f32]).collect();
            let vectors: Vec<Option<&[f32]>> =
                vectors.iter().map(|vector| Some(vector.as_slice())).collect();
            let (k, lambda) = (random.below(14), random.unit());
            let chosen = diverse(&scores, &vectors, k, lambda);
            let mut sorted = chosen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!((sorted.len(), chosen.len()), (k.min(n), k.min(n)), "seed {}", random.seed);
            if let Some(first) = chosen.first() {
                assert!(
                    scores.iter().all(|score| score <= &scores[*first]),
                    "seed {}",
                    random.seed
                );
            }
        }
    }
}
