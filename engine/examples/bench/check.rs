//! Checks that both engines compute the same adapters before anything is measured.

use std::collections::HashMap;

use nyx_engine::{AdapterHandle, ModelFiles};

use crate::Fallible;
use crate::adapters::{Adapters, COUNT, stronger};
use crate::llama::Server;
use crate::nyx::Nyx;
use crate::work::Prompts;

/// Factor on the adapters' scale: enough for each to change the model's output distribution, small
/// enough that int8 rounding does not.
const TIMES: f32 = 16.0;
/// Number of top tokens compared.
const BEST: usize = 10;
/// Number of prompts, and tokens of each.
const PROMPTS: (usize, usize) = (6, 24);
/// Upper bound on an adapter's distance to itself, as a fraction of its distance to the nearest
/// other adapter. Measured: 0.14 to 0.21 when this was written, and 0.48 to 0.88 with rows of q and
/// k in the wrong order.
const MOST: f64 = 0.35;

type Best = Vec<(u32, f32)>;

/// Mean absolute difference of log-probabilities over the top tokens of either; a token missing
/// from one list counts with that list's last value.
fn distance(a: &Best, b: &Best) -> f64 {
    let one_way = |from: &Best, to: &Best| {
        let known: HashMap<u32, f32> = to.iter().copied().collect();
        let last = to.last().map_or(0.0, |(_, logprob)| *logprob);
        from.iter()
            .map(|(token, logprob)| {
                f64::from((logprob - known.get(token).copied().unwrap_or(last)).abs())
            })
            .sum::<f64>()
    };
    (one_way(a, b) + one_way(b, a)) / (a.len() + b.len()) as f64
}

/// Compares the next-token distributions after some prompts: each adapter (and no adapter) in one
/// engine against each in the other.
///
/// # Errors
/// When an adapter's distance to itself exceeds [`MOST`] times the distance to the nearest other.
pub fn same_adapters(
    nyx: &mut Nyx,
    server: &mut Server,
    adapters: &Adapters,
    files: &ModelFiles,
) -> Fallible<String> {
    let folders: Vec<_> = adapters.folders().iter().map(|folder| folder.join("stronger")).collect();
    for (from, into) in adapters.folders().iter().zip(&folders) {
        stronger(from, TIMES, into)?;
    }
    let strong = nyx.load_adapters(&folders)?;
    let each: Vec<Option<usize>> = std::iter::once(None).chain((0..COUNT).map(Some)).collect();
    let mut prompts = Prompts::new();
    let prompts: Vec<Vec<u32>> = (0..PROMPTS.0).map(|_| prompts.tokens(PROMPTS.1)).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for adapter in &each {
        let handle: Option<&AdapterHandle> = adapter.map(|index| &strong[index]);
        ours.push(
            prompts
                .iter()
                .map(|prompt| nyx.best(prompt, handle, BEST))
                .collect::<Fallible<Vec<Best>>>()?,
        );
        let best = |prompt: &Vec<u32>| server.best(prompt, *adapter, TIMES.into(), BEST);
        theirs.push(prompts.iter().map(best).collect::<Fallible<Vec<Best>>>()?);
    }
    let between = |a: usize, b: usize| {
        let all = ours[a].iter().zip(&theirs[b]).map(|(ours, theirs)| distance(ours, theirs));
        all.sum::<f64>() / prompts.len() as f64
    };
    let (mut farthest, mut nearest): (f64, f64) = (0.0, f64::MAX);
    for a in 0..each.len() {
        let own = between(a, a);
        let other =
            (0..each.len()).filter(|b| *b != a).map(|b| between(a, b)).fold(f64::MAX, f64::min);
        (farthest, nearest) = (farthest.max(own), nearest.min(other));
        if own > MOST * other {
            let name = each[a].map_or("no adapter".into(), |index| format!("adapter {index}"));
            let model = files.info().name.as_str();
            return Err(format!(
                "{name} of {model} is not the same in both engines: log-probabilities differ by {own:.3}, from the nearest other by {other:.3}"
            )
            .into());
        }
    }
    Ok(format!(
        "log-probabilities at {TIMES} times their strength differ by {farthest:.3} at most, from another adapter's by {nearest:.3} at least"
    ))
}
