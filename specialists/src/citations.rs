//! Citations in an answer: `[2]` cites the second evidence item of the prompt.

use nyx_domain::Evidence;

/// The ids of the evidence that an answer cites, in order of first citation. Accepts `[1]`, `[1,
/// 2]` and `[1-3]`; a number without an item is ignored.
pub fn cited(answer: &str, evidence: &[Evidence]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for part in answer.split('[').skip(1) {
        let Some((inside, _)) = part.split_once(']') else { continue };
        for item in numbers(inside, evidence.len())
            .into_iter()
            .flatten()
            .filter_map(|number| evidence.get(number.checked_sub(1)?))
        {
            if !ids.contains(&item.id) {
                ids.push(item.id.clone());
            }
        }
    }
    ids
}

/// The numbers in a bracket, those of a range up to `most`; `None` when it contains anything else.
fn numbers(inside: &str, most: usize) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for piece in inside.split([',', ';']) {
        let ends: Vec<Option<usize>> =
            piece.split(['-', '\u{2013}']).map(|end| end.trim().parse().ok()).collect();
        match ends[..] {
            [Some(number)] => found.push(number),
            [Some(first), Some(last)] => found.extend(first..=last.min(most)),
            _ => return None,
        }
    }
    Some(found)
}

/// The text with each citation (`[1]`, `[1, 2]`, `[1-3]`) replaced by a space.
pub fn without_citations(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        let cited = after.split_once(']').filter(|(inside, _)| numbers(inside, 0).is_some());
        plain.push(if cited.is_some() { ' ' } else { '[' });
        rest = cited.map_or(after, |(_, after)| after);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::TestRng;

    fn evidence(count: usize) -> Vec<Evidence> {
        let item = |at| Evidence {
            id: format!("m{at}"),
            text: String::new(),
            score: 0.5,
            source: "memory".into(),
            speaker: None,
            when: None,
            context: vec![],
        };
        (1..=count).map(item).collect()
    }

    #[test]
    fn numbers_in_brackets_name_evidence() {
        for (answer, ids) in [
            ("Lisbon [2].", &["m2"][..]),
            ("Lisbon [3][1], and [3] again.", &["m3", "m1"]),
            ("Both [1, 3].", &["m1", "m3"]),
            ("All [1-3]; more [2\u{2013}99].", &["m1", "m2", "m3"]),
            ("None [0] [4] [] [a] [1 or 2] [1", &[]),
            ("[note: see [2]]", &["m2"]),
        ] {
            assert_eq!(cited(answer, &evidence(3)), ids, "{answer}");
        }
        assert!(cited("[1]", &[]).is_empty());
    }

    #[test]
    fn citations_are_taken_out_and_nothing_else() {
        assert_eq!(without_citations("a Prius [1] and [x] [12, 13]."), "a Prius   and [x]  .");
        assert_eq!(without_citations("all [1-3], [2\u{2013}18446744073709551615]"), "all  ,  ");
        assert_eq!(without_citations("[open [1]"), "[open  ");
        assert_eq!(without_citations("[] [open"), "[] [open");
    }

    #[test]
    fn no_answer_makes_it_panic() {
        let mut random = TestRng::new();
        let evidence = evidence(3);
        for _ in 0..2_000 {
            let answer =
                random.text(12, &['[', ']', ',', '-', '0', '1', '9', ' ', 'x', '\u{2013}']);
            assert!(cited(&answer, &evidence).len() <= 3, "seed {}: {answer:?}", random.seed);
            assert!(
                without_citations(&answer).len() <= answer.len(),
                "seed {}: {answer:?}",
                random.seed
            );
        }
        assert_eq!(cited("[1-18446744073709551615]", &evidence).len(), 3);
    }
}
