//! Similarity of a question to a specialist's example questions.

/// Number of nearest examples that count: the nearest alone may be close by chance.
const NEAREST: usize = 2;

/// The mean of the two highest cosines between a question's embedding and its examples', all unit
/// vectors; with one example its cosine. `None` without any.
pub fn similarity(question: &[f32], examples: &[Vec<f32>]) -> Option<f64> {
    let cosine = |example: &Vec<f32>| {
        question.iter().zip(example).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let mut cosines: Vec<f64> = examples.iter().map(cosine).collect();
    cosines.sort_by(|a, b| b.total_cmp(a));
    cosines.truncate(NEAREST);
    let count = cosines.len();
    (count > 0).then(|| cosines.iter().sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At this angle to the first axis.
    fn at(degrees: f32) -> Vec<f32> {
        let (sine, cosine) = degrees.to_radians().sin_cos();
        vec![cosine, sine]
    }

    fn near(found: Option<f64>, expected: f64) -> bool {
        found.is_some_and(|found| (found - expected).abs() < 1e-6)
    }

    #[test]
    fn the_two_nearest_examples_count_wherever_they_stand() {
        let question = at(0.0);
        for examples in
            [[at(90.0), at(60.0), at(180.0), at(0.0)], [at(0.0), at(180.0), at(60.0), at(90.0)]]
        {
            assert!(
                near(similarity(&question, &examples), 0.75),
                "{:?}",
                similarity(&question, &examples)
            );
        }
        // one very similar example is worth less than two similar ones
        let (lone, pair) = ([at(0.0), at(120.0)], [at(30.0), at(-30.0)]);
        assert!(similarity(&question, &lone) < similarity(&question, &pair));
    }

    #[test]
    fn one_example_is_compared_alone_and_none_with_nothing() {
        assert!(near(similarity(&at(0.0), &[at(60.0)]), 0.5));
        assert!(near(similarity(&at(0.0), &[at(180.0)]), -1.0));
        assert_eq!(similarity(&at(0.0), &[]), None);
    }
}
