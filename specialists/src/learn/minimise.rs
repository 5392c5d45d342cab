//! L-BFGS (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization").

use std::collections::VecDeque;

/// Pairs of steps and gradient changes that approximate the curvature.
const MEMORY: usize = 10;
/// Fraction of the predicted decrease that a step must achieve (Armijo's rule).
const SUFFICIENT: f64 = 1e-4;
const HALVINGS: u32 = 40;

/// Minimises a smooth function from `start`. `evaluate(at, gradient)` returns the value and writes
/// the gradient. Stops after `steps`, or when the gradient's largest entry is at most `tolerance`.
pub(crate) fn minimise(
    start: Vec<f64>,
    steps: usize,
    tolerance: f64,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Vec<f64> {
    let mut at = start;
    let mut gradient = vec![0.0; at.len()];
    let mut value = evaluate(&at, &mut gradient);
    let mut history: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let (mut next, mut next_gradient) = (at.clone(), gradient.clone());
    for _ in 0..steps {
        if gradient.iter().all(|slope| slope.abs() <= tolerance) {
            break;
        }
        let mut direction = descent(&gradient, &history);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // rounding errors have corrupted the curvature: restart from steepest descent
            history.clear();
            direction = gradient.iter().map(|slope| -slope).collect();
            slope = dot(&direction, &gradient);
        }
        // the first step has no curvature to set its length
        let mut length = if history.is_empty() {
            1.0 / dot(&direction, &direction).sqrt().max(1.0)
        } else {
            1.0
        };
        let mut improved = false;
        for _ in 0..HALVINGS {
            for ((next, at), direction) in next.iter_mut().zip(&at).zip(&direction) {
                *next = at + length * direction;
            }
            let there = evaluate(&next, &mut next_gradient);
            if there <= value + SUFFICIENT * length * slope {
                value = there;
                improved = true;
                break;
            }
            length /= 2.0;
        }
        if !improved {
            break;
        }
        let step: Vec<f64> = next.iter().zip(&at).map(|(next, at)| next - at).collect();
        let change: Vec<f64> =
            next_gradient.iter().zip(&gradient).map(|(next, old)| next - old).collect();
        let curvature = dot(&step, &change);
        if curvature > 1e-12 * dot(&change, &change) {
            if history.len() == MEMORY {
                history.pop_front();
            }
            history.push_back(Pair { step, change, curvature });
        }
        std::mem::swap(&mut at, &mut next);
        std::mem::swap(&mut gradient, &mut next_gradient);
    }
    at
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    curvature: f64,
}

/// The two-loop recursion.
fn descent(gradient: &[f64], history: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut shares = Vec::with_capacity(history.len());
    for pair in history.iter().rev() {
        let share = dot(&pair.step, &direction) / pair.curvature;
        add(&mut direction, -share, &pair.change);
        shares.push(share);
    }
    if let Some(last) = history.back() {
        let scale = last.curvature / dot(&last.change, &last.change);
        direction.iter_mut().for_each(|entry| *entry *= scale);
    }
    for (pair, share) in history.iter().zip(shares.into_iter().rev()) {
        let correction = dot(&pair.change, &direction) / pair.curvature;
        add(&mut direction, share - correction, &pair.step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += factor * what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bottom_of_rosenbrocks_valley() {
        let found = minimise(vec![-1.2, 1.0], 500, 1e-9, |at, gradient| {
            let (x, y) = (at[0], at[1]);
            gradient[0] = -2.0 * (1.0 - x) - 400.0 * x * (y - x * x);
            gradient[1] = 200.0 * (y - x * x);
            (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2)
        });
        assert!((found[0] - 1.0).abs() < 1e-6 && (found[1] - 1.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn a_flat_function_ends_at_once() {
        let mut calls = 0;
        let found = minimise(vec![3.0], 100, 1e-9, |_, gradient| {
            calls += 1;
            gradient[0] = 0.0;
            5.0
        });
        assert_eq!((found, calls), (vec![3.0], 1));
    }
}
